"""Multi-frame CT: each frame as a slice, stacks and phases apart, and results that name frames."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom.uid import LegacyConvertedEnhancedCTImageStorage

from dicom_node.errors import SightlineError
from dicom_node.results.report import findings_report
from dicom_node.results.segmentation import lesion_segmentation, organ_segmentation
from dicom_node.series import survey_files
from dicom_node.series_frames import read_images, read_references
from dicom_node.series_pixels import load_series, load_slice
from dicom_node.service.masks import label_planes
from tests.dicom_node.ct_files import stored_values
from tests.dicom_node.enhanced_ct import COLUMNS, ROWS, UID, Frame, write_enhanced
from tests.dicom_node.readings import KEY, make_reading
from tests.dicom_node.validation import dciodvfy_errors, tid1500

# Head first, as many vendors write, with a rescale of its own for each frame.
FRAMES = [Frame(3.0 * k, k, slope=1 + k % 2, intercept=-1024.0 - k) for k in range(12)][::-1]


@pytest.mark.parametrize("shared_orientation", [True, False])
@pytest.mark.parametrize("sop_class", [None, LegacyConvertedEnhancedCTImageStorage])
def test_every_frame_lies_where_its_groups_say(
    tmp_path: Path, shared_orientation: bool, sop_class: str | None
) -> None:
    kind = {} if sop_class is None else {"sop_class": sop_class}
    path = write_enhanced(tmp_path, FRAMES, shared_orientation=shared_orientation, **kind)
    survey = survey_files([path])
    assert not survey.refusals
    (candidate,) = survey.candidates
    assert candidate.references == tuple(f"{UID}#{12 - k}" for k in range(12))
    series = load_series(candidate)
    assert series.volume.spatial_shape == (12, ROWS, COLUMNS)
    assert np.allclose(series.volume.spacing, [3, 0.8, 0.7])
    for k, source in enumerate(series.sources):
        expected = stored_values(k, ROWS, COLUMNS) * (1.0 + k % 2) - 1024 - k
        assert np.array_equal(series.volume.array[k], np.maximum(expected, -1024))
        assert source.ReferencedFrameNumber == 12 - k
        assert float(source.ImagePositionPatient[2]) == pytest.approx(3.0 * k)
        assert "PerFrameFunctionalGroupsSequence" not in source
    assert np.array_equal(load_slice(candidate.instances[4]), series.volume.array[4])


def test_references_find_their_frames_again(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path, FRAMES)
    wanted = [f"{UID}#3", f"{UID}#12", f"{UID}#1"]
    found = read_references(wanted, lambda uid: {UID: path}[uid])
    assert [one.reference for one in found] == wanted
    with pytest.raises(SightlineError, match="has no frame 13"):
        read_references([f"{UID}#13"], lambda _: path)


def test_results_refer_to_frames_and_are_valid(tmp_path: Path) -> None:
    (candidate,) = survey_files([write_enhanced(tmp_path, FRAMES)]).candidates
    series = load_series(candidate)
    reading = make_reading(series.volume, list(series.sources))
    lesions, organs = (
        make(reading, series.sources, KEY) for make in (lesion_segmentation, organ_segmentation)
    )
    report = findings_report(reading, series.sources, KEY, lesion_seg=lesions, organ_seg=organs)
    for dataset in (lesions, organs, report):
        assert dciodvfy_errors(dataset, tmp_path) == []
    organs.save_as(tmp_path / "organs.dcm")
    # highdicom's own reading of references to frames, and the node's.
    by_frame = hd.seg.segread(tmp_path / "organs.dcm").get_pixels_by_source_frame(
        UID,
        [12 - k for k in range(12)],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
        skip_overlap_checks=True,
    )
    assert np.array_equal(by_frame, reading.organ_mask.array)
    assert np.array_equal(
        label_planes(tmp_path / "organs.dcm", candidate.references), reading.organ_mask.array
    )
    (item,) = organs.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert item.ReferencedSOPInstanceUID == UID
    for frame in organs.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        z = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        assert source.ReferencedFrameNumber == 12 - round(z / 3)
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    referred = [i.ReferencedSOPInstanceUID for s in evidence for i in s.ReferencedSOPSequence]
    assert referred.count(UID) == 1
    numbers = _frame_numbers(report)
    assert numbers
    assert numbers <= set(range(1, 13))
    assert tid1500(report, tmp_path)["Measurements"]


def _frame_numbers(dataset: object) -> set[int]:
    """Referenced Frame Numbers anywhere in a report."""
    found = set()
    for element in dataset:  # type: ignore[attr-defined]
        if element.VR == "SQ":
            for one in element.value:
                found |= _frame_numbers(one)
        elif element.keyword == "ReferencedFrameNumber":
            found.add(int(element.value))
    return found


def test_stacks_are_series_of_their_own(tmp_path: Path) -> None:
    axial = [Frame(3.0 * k, k, stack="CHEST") for k in range(12)]
    coronal = [Frame(4.0 * k, k, stack="COR", orientation=(1, 0, 0, 0, 0, -1)) for k in range(10)]
    survey = survey_files([write_enhanced(tmp_path, [*axial, *coronal], shared_orientation=False)])
    assert [one.part for one in survey.candidates] == ["stack CHEST", "stack COR"]
    assert [len(one.instances) for one in survey.candidates] == [12, 10]
    assert survey.candidates[1].references[0].startswith(f"{UID}#")


def test_phases_of_one_stack_are_told_apart(tmp_path: Path) -> None:
    frames = [Frame(3.0 * k, k, temporal=t, intercept=-1024.0 - t) for k in range(12) for t in (1, 2)]
    survey = survey_files([write_enhanced(tmp_path, frames)])
    assert [one.part for one in survey.candidates] == [
        "stack 1, temporal position 1",
        "stack 1, temporal position 2",
    ]
    second = load_series(survey.candidates[1])
    assert second.volume.array[3, 0, 0] == max(500 + 120 - 1026, -1024)


def test_frames_of_another_kind_do_not_spoil_the_rest(tmp_path: Path) -> None:
    localizer = Frame(500.0, 0, frame_type=("ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"))
    survey = survey_files([write_enhanced(tmp_path, [localizer, *FRAMES])])
    assert [len(one.instances) for one in survey.candidates] == [12]
    assert [one.reason for one in survey.refusals] == ["localizer (scout view), not a volume"]


def test_a_series_over_several_objects_is_one_volume(tmp_path: Path) -> None:
    paths = [
        write_enhanced(tmp_path / "a", FRAMES[:6], uid=f"{UID}.1"),
        write_enhanced(tmp_path / "b", FRAMES[6:], uid=f"{UID}.2"),
    ]
    (candidate,) = survey_files(paths).candidates
    series = load_series(candidate)
    segmentation = organ_segmentation(make_reading(series.volume), series.sources, KEY)
    assert segmentation is not None
    assert dciodvfy_errors(segmentation, tmp_path) == []
    listed = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {one.ReferencedSOPInstanceUID for one in listed} == {f"{UID}.1", f"{UID}.2"}
    # The node reads its own masks back by object and frame.
    segmentation.save_as(tmp_path / "organs.dcm")
    planes = label_planes(tmp_path / "organs.dcm", candidate.references)
    assert np.array_equal(planes, make_reading(series.volume).organ_mask.array)


def test_a_file_that_describes_too_few_frames_is_refused(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path, FRAMES)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"12", b"13", 1) if content.count(b"IS\x02\x0012") else content)
    (image,) = read_images(path)
    assert image.pixel_problem is not None
    (refusal,) = survey_files([path]).refusals
    assert "of 13 frames" in refusal.reason or "cut off" in refusal.reason


def test_a_cut_off_object_is_refused(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path, FRAMES)
    survey = survey_files([path])
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(SightlineError, match=path.name):
        load_series(survey.candidates[0])
    (refusal,) = survey_files([path]).refusals
    assert "the pixel data is cut off" in refusal.reason
