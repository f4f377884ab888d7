"""Key images: the right pictures under the right names, the patient's right on the left, no identity."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from dicom_node.results import drawing
from dicom_node.results.colours import LESION, organ_colour
from dicom_node.results.key_images import write_key_images
from tests.dicom_node.ct_series import ct_series, volume_of
from tests.dicom_node.readings import make_reading

SHAPE, SPACING = (20, 64, 64), (8.0, 5.0, 5.0)


def case(geometry="axial", *, lesions=True):
    slices = ct_series(geometry, shape=SHAPE, spacing=SPACING)
    volume = volume_of(slices)
    return make_reading(volume, slices, lesions=lesions), volume


def pixels(path, colour, tolerance=40):
    """(N, 2) rows and columns of the picture's left part that have a colour."""
    array = np.asarray(Image.open(path).convert("RGB"), dtype=int)[:, :720]
    return np.argwhere(np.abs(array - np.array(colour)).max(axis=2) <= tolerance)


def test_one_picture_per_lesion_and_an_overview(tmp_path):
    reading, volume = case()
    names = [path.name for path in write_key_images(reading, volume, tmp_path)]
    assert names == ["key_00_overview.png", "key_01_liver_tumour.png", "key_02_renal_tumour.png"]
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (1040, 760)


def test_at_most_so_many_lesions(tmp_path):
    reading, volume = case()
    assert len(write_key_images(reading, volume, tmp_path, max_lesions=1)) == 2


def test_a_positive_finding_without_lesion_gets_a_picture(tmp_path):
    reading, volume = case(lesions=False)
    findings = tuple(
        dataclasses.replace(f, status="present", probability=0.8) if f.abnormality == "liver_cyst" else f
        for f in reading.findings
    )
    paths = write_key_images(dataclasses.replace(reading, findings=findings), volume, tmp_path)
    assert [path.name for path in paths] == ["key_00_overview.png", "key_01_liver_cyst.png"]
    assert len(pixels(paths[1], (255, 255, 0))) > 20


@pytest.mark.parametrize("geometry", ["axial", "reversed", "oblique"])
def test_the_patients_right_is_on_the_left(geometry, tmp_path):
    reading, volume = case(geometry)
    path = write_key_images(reading, volume, tmp_path)[1]
    liver = pixels(path, organ_colour("liver"), 60)
    spleen = pixels(path, organ_colour("spleen"), 60)
    lesion = pixels(path, LESION)
    assert len(lesion) > 50
    assert liver[:, 1].mean() < spleen[:, 1].mean()
    # The liver lies in front of the spleen in these readings: higher up in an axial picture.
    assert lesion[:, 0].mean() < spleen[:, 0].mean()


@pytest.mark.parametrize("geometry", ["axial", "reversed"])
def test_the_overview_is_head_up_and_in_proportion(geometry, tmp_path):
    reading, volume = case(geometry)
    lesion = reading.lesions[0]
    points = volume.map_indices_to_reference(np.argwhere(reading.lesion_mask.array == 1))
    drawn = pixels(write_key_images(reading, volume, tmp_path)[0], LESION)
    outline = drawn[drawn[:, 1] < np.percentile(drawn[:, 1], 95)]  # without the number beside it
    height_mm = np.ptp(points[:, 2]) + SPACING[0]
    width_mm = np.ptp(points[:, 0]) + SPACING[2]
    assert np.ptp(outline[:, 0]) / np.ptp(outline[:, 1]) == pytest.approx(height_mm / width_mm, rel=0.35)
    assert lesion.centroid_lps_mm[2] > points[:, 2].min()


def test_the_lesion_is_drawn_where_it_is():
    """Outline and image share one millimetre scale: the contour runs along the mask's border."""
    inside = np.zeros((40, 30), bool)
    inside[10:20, 5:25] = True
    plane = drawing.Plane(
        np.zeros((40, 30)), np.zeros((40, 30), np.uint8), inside.astype(np.uint8), row_mm=3.0, column_mm=2.0
    )
    _, axes = drawing.canvas(plane, (40, 400), title="t", where="w", marks=("A", "P", "R", "L"))
    drawing.outline_lesions(axes, plane)
    vertices = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert vertices.min(axis=0) == pytest.approx([4.5 * 2, 9.5 * 3])
    assert vertices.max(axis=0) == pytest.approx([24.5 * 2, 19.5 * 3])


def test_no_patient_identity_in_the_files(tmp_path):
    reading, volume = case()
    for path in write_key_images(reading, volume, tmp_path):
        data = path.read_bytes()
        assert b"Doe" not in data
        assert b"TEST-0001" not in data
        with Image.open(path) as picture:
            assert set(picture.info) <= {"Software", "Comment", "dpi"}


def test_another_volume_is_refused(tmp_path):
    reading, _ = case()
    with pytest.raises(ValueError, match="give the volume that was read"):
        write_key_images(reading, volume_of(ct_series()), tmp_path)
    assert list(tmp_path.iterdir()) == []
