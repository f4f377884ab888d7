"""Positions, heat maps and outlines stand where they belong, however the CT was acquired."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import slicer
import vtk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from SightlineLib import results as nodes
from SightlineLib import volumes
from SightlineLib.geometry import lpsFromRas, lpsFromRasMatrix, rasFromLps
from SightlineLib.results import Results
from SightlineLib.steps import runNow

from tests.slicer.harness import phantom
from tests.slicer.harness.nrrd_files import Segment, read_volume, segment_file, volume_file

ORDERS = list(itertools.permutations(range(3)))
SIGNS = list(itertools.product((1, -1), repeat=3))
ALL_48 = list(itertools.product(ORDERS, SIGNS))
RAS_FROM_LPS = np.array([-1.0, -1.0, 1.0])
LIVER_COLOUR = (1.0, 0.0, 1.0)

orders = st.sampled_from(ORDERS)
signs = st.sampled_from(SIGNS)
angles = st.tuples(*[st.floats(-180, 180)] * 3)
spacings = st.floats(4.0, 12.0)
in_scene = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)


def grid_of(order, sign, angle=None, spacing=5.0):
    rotation = None if angle is None else Rotation.from_euler("xyz", angle, degrees=True).as_matrix()
    return phantom.grid(order, sign, rotation, spacing)


def heat(grid):
    distance = np.linalg.norm(grid.points() - np.array(phantom.LESION.centre), axis=-1)
    return volume_file(np.exp(-((distance / 30) ** 2)).astype(np.float32), grid)


def liver(grid):
    return segment_file([Segment("liver", phantom.mask(grid, phantom.LIVER), LIVER_COLOUR)], grid)


def test_48_are_all_axis_orders():
    matrices = {grid_of(order, sign).ijk_to_lps[:3, :3].tobytes() for order, sign in ALL_48}
    assert len(matrices) == 48


@given(st.tuples(*[st.floats(-2000, 2000)] * 3))
def test_points_go_there_and_back(point):
    assert lpsFromRas(rasFromLps(point)) == point
    assert rasFromLps(point) == (-point[0], -point[1], point[2])


@pytest.mark.parametrize(
    "matrix", [np.zeros((4, 4)), np.eye(3), np.diag([1, 1, 1, 2.0]), np.full((4, 4), np.nan)]
)
def test_what_is_no_geometry_is_refused(matrix):
    with pytest.raises(ValueError, match="not the geometry of a volume"):
        lpsFromRasMatrix(matrix)


def sent_bytes(volume) -> bytes:
    """What would be sent of a volume."""
    return runNow(volumes.uploadFile(volume)).readAll().data()


@in_scene
@given(order=orders, sign=signs, angle=angles, spacing=spacings)
def test_pixels_go_up_with_their_geometry(scene, order, sign, angle, spacing):
    scene.Clear(False)
    grid = grid_of(order, sign, angle, spacing)
    sent = sent_bytes(phantom.add_volume(grid))
    values, read = read_volume(sent)
    np.testing.assert_allclose(read.ijk_to_lps, grid.ijk_to_lps, atol=1e-6)
    np.testing.assert_array_equal(values, phantom.hounsfield(grid))


def test_what_goes_up_is_read_alike_by_slicers_own_reader(scene, tmp_path):
    grid = grid_of((2, 0, 1), (-1, 1, -1), (10, 20, -15))
    volume = phantom.add_volume(grid)
    path = tmp_path / "ct.nrrd"
    path.write_bytes(sent_bytes(volume))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    again = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert storage.ReadData(again)
    matrices = [vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()]
    volume.GetIJKToRASMatrix(matrices[0])
    again.GetIJKToRASMatrix(matrices[1])
    first, second = (slicer.util.arrayFromVTKMatrix(matrix) for matrix in matrices)
    np.testing.assert_allclose(first, second, atol=1e-5)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), slicer.util.arrayFromVolume(again))


def test_nothing_of_the_patient_goes_up(scene):
    volume = phantom.add_volume(grid_of((0, 1, 2), (1, 1, 1)), series_uid="1.2.3", name="Doe^Jane CT")
    volume.SetAttribute("DICOM.PatientName", "Doe^Jane")
    header = sent_bytes(volume).partition(b"\n\n")[0]
    for word in (b"Doe", b"Phantom", b"1.2.3", b":="):
        assert word not in header


@in_scene
@given(order=orders, sign=signs, angle=angles)
def test_a_place_is_in_the_middle_of_every_view(application, scene, order, sign, angle):
    scene.Clear(False)
    volume = phantom.add_volume(grid_of(order, sign, angle, 10.0))
    place = Results()
    place.jump(volume, phantom.LESION.centre)
    for view in application.views.values():
        assert view.centre_ras() == pytest.approx(np.array(phantom.LESION.centre) * RAS_FROM_LPS, abs=1e-3)


@in_scene
@given(order=orders, sign=signs, angle=angles)
def test_a_heat_map_is_hottest_at_the_lesion(scene, order, sign, angle):
    scene.Clear(False)
    grid = grid_of(order, sign, angle, 8.0)
    results = Results()
    results.showHeatMap(phantom.add_volume(grid), heat(grid))
    node = results.find(nodes.HEAT_MAP)
    values = slicer.util.arrayFromVolume(node)
    k, j, i = np.unravel_index(values.argmax(), values.shape)
    to_ras = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(to_ras)
    hottest = np.array(to_ras.MultiplyPoint((i, j, k, 1))[:3]) * RAS_FROM_LPS
    # Not further than the corner of a cell from its middle.
    assert np.linalg.norm(hottest - phantom.LESION.centre) <= 8.0 * np.sqrt(3) / 2 + 1e-3


@in_scene
@given(order=orders, sign=signs, angle=angles)
def test_an_outline_is_round_the_lesion(scene, order, sign, angle):
    scene.Clear(False)
    grid = grid_of(order, sign, angle, 5.0)
    results = Results()
    lesion = segment_file([Segment("lesion", phantom.mask(grid, phantom.LESION))], grid)
    runNow(results.showMask(phantom.add_volume(grid), lesion))
    node = results.find(nodes.MASK)
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    centre = np.array(node.GetSegmentCenterRAS(identifier)) * RAS_FROM_LPS
    assert np.linalg.norm(centre - phantom.LESION.centre) <= 6.0


def picture_of_liver(application, grid):
    """The axial view through the middle of the liver, with its mask, and where the mask's colour is."""
    volume = phantom.add_volume(grid)
    red = application.views["Red"]
    results = Results()
    runNow(results.showOrgans(volume, liver(grid)))
    results.find(nodes.ORGANS).GetDisplayNode().SetOpacity2DFill(1.0)
    red.node.SetFieldOfView(400, 400, 1)
    slicer.vtkMRMLSliceNode.JumpAllSlices(
        application.scene, 0, 0, 0, slicer.vtkMRMLSliceNode.CenteredJumpSlice
    )
    picture = red.picture().astype(int)
    coloured = (picture[..., 0] > picture[..., 1] + 60) & (picture[..., 2] > picture[..., 1] + 60)
    return picture, coloured


@pytest.mark.parametrize(("order", "sign"), ALL_48)
def test_the_liver_is_on_the_patients_right(application, scene, order, sign):
    picture, coloured = picture_of_liver(application, grid_of(order, sign))
    assert coloured.sum() > 500
    rows, columns = np.nonzero(coloured)
    # A radiologist looks from the feet: the patient's right is on the left, the front on top.
    assert columns.max() < 140
    width = picture.shape[1]
    wanted = (width / 2) * (1 + phantom.LIVER.centre[0] / 200)
    assert columns.mean() == pytest.approx(wanted, abs=3)
    assert rows.mean() == pytest.approx((width / 2) * (1 + phantom.LIVER.centre[1] / 200), abs=3)


def test_all_48_pictures_are_alike(application, scene):
    pictures = []
    for order, sign in ALL_48:
        application.close_scene()
        pictures.append(picture_of_liver(application, grid_of(order, sign))[0])
    for (order, sign), picture in zip(ALL_48, pictures, strict=True):
        different = (np.abs(picture - pictures[0]).max(axis=-1) > 40).mean()
        assert different < 0.01, f"axis order {order} {sign} differs in {100 * different:.1f} % of the pixels"


def test_a_transform_of_the_ct_holds_for_what_is_found(application, scene):
    grid = grid_of((0, 1, 2), (1, 1, 1))
    volume = phantom.add_volume(grid)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved = vtk.vtkTransform()
    moved.Translate(7, -11, 13)
    moved.RotateX(20)
    transform.SetMatrixTransformToParent(moved.GetMatrix())
    volume.SetAndObserveTransformNodeID(transform.GetID())
    results = Results()
    results.jump(volume, phantom.LESION.centre)
    wanted = moved.TransformPoint(rasFromLps(phantom.LESION.centre))
    assert application.views["Red"].centre_ras() == pytest.approx(wanted, abs=1e-3)
    results.showHits(volume, [phantom.LESION.centre])
    hit = [0.0, 0.0, 0.0]
    results.find(nodes.HITS).GetNthControlPointPositionWorld(0, hit)
    assert hit == pytest.approx(wanted, abs=1e-3)
    results.showHeatMap(volume, heat(grid))
    assert results.find(nodes.HEAT_MAP).GetTransformNodeID() == transform.GetID()
