"""The SEG objects: valid, on exactly the voxels that went in, and the same on every retry."""

from __future__ import annotations

import dataclasses
import itertools

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.anatomy import organ, organs
from dicom_node.results.geometry import on_source_slices
from dicom_node.results.headers import clean_headers
from dicom_node.results.segmentation import lesion_segmentation, organ_segmentation
from tests.dicom_node.ct_series import ct_series, volume_of, write_series
from tests.dicom_node.dirt import DIRT, spoiled
from tests.dicom_node.readings import KEY, LESIONS, ORGANS, make_reading
from tests.dicom_node.validation import dciodvfy_errors, dcmqi_masks

GEOMETRIES = ["axial", "reversed", "oblique"]


def case(geometry="axial", *, lesions=True):
    slices = ct_series(geometry)
    return make_reading(volume_of(slices), slices, lesions=lesions), slices


def small_case(geometry):
    """Slices and a label volume without any symmetry."""
    slices = ct_series(geometry, shape=(5, 7, 6))
    labels = np.random.default_rng(0).integers(0, 37, (5, 7, 6), np.uint8)
    return slices, volume_of(slices).with_array(labels)


def positions(mask, label):
    """(N, 3) LPS positions of a label's voxels."""
    return mask.map_indices_to_reference(np.argwhere(mask.array == label))


def same_points(one, other):
    """Whether two point sets agree within a thousandth of a millimetre, in any order."""
    if one.shape != other.shape:
        return False
    distance = np.linalg.norm(one[:, None] - other[None], axis=2)
    return distance.min(axis=1).max() < 1e-3 and distance.min(axis=0).max() < 1e-3


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_objects_are_valid(geometry, tmp_path):
    reading, slices = case(geometry)
    assert dciodvfy_errors(lesion_segmentation(reading, slices, KEY), tmp_path) == []
    assert dciodvfy_errors(organ_segmentation(reading, slices, KEY), tmp_path) == []


@pytest.mark.parametrize("name", DIRT)
def test_dirty_headers_give_valid_objects(name, tmp_path):
    reading, slices = case()
    segmentation = lesion_segmentation(reading, spoiled(slices, name), KEY)
    assert dciodvfy_errors(segmentation, tmp_path) == []


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_dcmqi_finds_lesions_on_the_voxels_that_went_in(geometry, tmp_path):
    reading, slices = case(geometry)
    masks = dcmqi_masks(lesion_segmentation(reading, slices, KEY), tmp_path)
    assert sorted(masks) == [1, 2]
    for label, points in masks.items():
        assert same_points(points, positions(reading.lesion_mask, label))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_dcmqi_finds_organs_under_their_label(geometry, tmp_path):
    reading, slices = case(geometry)
    masks = dcmqi_masks(organ_segmentation(reading, slices, KEY), tmp_path)
    assert set(masks) == {organ(name).label for name in ORGANS}
    for label, points in masks.items():
        assert same_points(points, positions(reading.organ_mask, label))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_highdicom_reads_back_every_bit(geometry, tmp_path):
    reading, slices = case(geometry)
    organ_segmentation(reading, slices, KEY).save_as(tmp_path / "seg.dcm")
    back = hd.seg.segread(tmp_path / "seg.dcm")
    stored = back.get_pixels_by_source_instance(
        [s.SOPInstanceUID for s in slices], combine_segments=True, skip_overlap_checks=True
    )
    assert np.array_equal(stored, reading.organ_mask.array)


def test_segments_say_what_they_are():
    reading, slices = case()
    lesions = lesion_segmentation(reading, slices, KEY)
    for item, (organ_name, _, _, _, _) in zip(lesions.SegmentSequence, LESIONS, strict=True):
        assert item.AnatomicRegionSequence[0].CodeValue == organ(organ_name).snomed_code
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("sightline-test", "0.0.1")
        assert reading.model.digest in algorithm.AlgorithmParameters
    assert len({item.TrackingUID for item in lesions.SegmentSequence}) == len(LESIONS)
    described = organ_segmentation(reading, slices, KEY).SegmentSequence
    assert [item.SegmentNumber for item in described] == [entry.label for entry in organs()]
    assert [item.SegmentLabel for item in described] == [entry.display for entry in organs()]


def test_the_makers_name_is_on_it():
    reading, slices = case()
    segmentation = lesion_segmentation(reading, slices, KEY)
    assert segmentation.Manufacturer == "Sightline"
    assert segmentation.SeriesDescription == "Sightline lesions"
    assert segmentation.ContentQualification == "RESEARCH"
    assert "not for diagnostic use" in segmentation.ContentDescription
    assert segmentation.StudyInstanceUID == slices[0].StudyInstanceUID
    assert segmentation.SeriesInstanceUID != slices[0].SeriesInstanceUID


def test_a_retry_makes_the_same_object():
    reading, slices = case()
    once, again = (organ_segmentation(reading, slices, KEY) for _ in range(2))
    for dataset in (once, again):
        for moment in ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime"):
            del dataset[moment]
        for equipment in dataset.ContributingEquipmentSequence:
            equipment.pop("ContributionDateTime", None)
    assert once.to_json_dict() == again.to_json_dict()
    other = organ_segmentation(reading, slices, KEY[::-1])
    assert other.SOPInstanceUID != once.SOPInstanceUID


@pytest.mark.parametrize(
    ("name", "character_set"),
    [("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]), ("Müller^Jérôme", "ISO_IR 100")],
)
def test_names_arrive_in_the_result(name, character_set, tmp_path):
    paths = write_series(ct_series(patient_name=name, character_set=character_set), tmp_path)
    slices = [pydicom.dcmread(path) for path in paths]
    reading = make_reading(volume_of(slices), slices)
    segmentation = lesion_segmentation(reading, slices, KEY)
    assert dciodvfy_errors(segmentation, tmp_path) == []
    assert str(pydicom.dcmread(tmp_path / "validated.dcm").PatientName) == name


def test_without_a_lesion_or_organ_there_is_no_object():
    reading, slices = case(lesions=False)
    assert lesion_segmentation(reading, slices, KEY) is None
    empty = reading.organ_mask.with_array(np.zeros_like(reading.organ_mask.array))
    assert organ_segmentation(dataclasses.replace(reading, organ_mask=empty), slices, KEY) is None


@given(st.sampled_from(GEOMETRIES), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_a_turned_mask_lands_on_the_same_pixels(geometry, order, flips):
    slices, mask = small_case(geometry)
    turned = mask.permute_spatial_axes(list(order))
    if axes := [axis for axis in range(3) if flips[axis]]:
        turned = turned.flip_spatial(axes)
    assert np.array_equal(on_source_slices(turned, clean_headers(slices)), mask.array)


@given(st.permutations(range(5)))
def test_sources_in_any_order_keep_their_planes(order):
    slices, mask = small_case("axial")
    planes = on_source_slices(mask, clean_headers([slices[k] for k in order]))
    assert np.array_equal(planes, mask.array[list(order)])


def _shifted(mask, axis, voxels):
    affine = mask.affine.copy()
    affine[:3, 3] += affine[:3, axis] * voxels
    return hd.Volume(mask.array, affine, coordinate_system="PATIENT")


@pytest.mark.parametrize(("axis", "voxels"), list(itertools.product([0, 1, 2], [-1, 1])))
def test_a_mask_one_voxel_off_is_refused(axis, voxels):
    reading, slices = case()
    wrong = dataclasses.replace(reading, organ_mask=_shifted(reading.organ_mask, axis, voxels))
    with pytest.raises(ValueError, match=r"does not lie on|lie on none"):
        organ_segmentation(wrong, slices, KEY)


def test_missing_and_double_sources_are_refused():
    reading, slices = case()
    with pytest.raises(ValueError, match="lie on none of the 11 sources"):
        organ_segmentation(reading, slices[1:], KEY)
    with pytest.raises(ValueError, match="13 images at only 12 positions"):
        organ_segmentation(reading, [*slices, slices[0]], KEY)


def test_jitter_that_the_series_reader_accepts_is_accepted():
    reading, slices = case()
    for k, dataset in enumerate(slices):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x + 0.9 * (k % 2), y, z + 0.5 * (k % 3 == 1)]
    assert np.array_equal(
        on_source_slices(reading.organ_mask, clean_headers(slices)), reading.organ_mask.array
    )


def test_labels_and_lesions_must_agree():
    reading, slices = case()
    with pytest.raises(ValueError, match="every label a lesion"):
        lesion_segmentation(dataclasses.replace(reading, lesions=reading.lesions[:1]), slices, KEY)
    with pytest.raises(ValueError, match="in order"):
        lesion_segmentation(dataclasses.replace(reading, lesions=reading.lesions[::-1]), slices, KEY)
