"""Slices that make no regular grid: read upright and even, and results on the slices as they are."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from core_model.localization import nearest_slice
from core_model.reading import Reading
from dicom_node.results.geometry import on_source_slices, slice_widths, source_grid
from dicom_node.results.headers import clean_headers
from dicom_node.results.reading_json import slice_uid
from dicom_node.results.report import findings_report
from dicom_node.results.segmentation import lesion_segmentation, organ_segmentation
from dicom_node.series import survey_files
from dicom_node.series_geometry import stack_slices
from dicom_node.series_pixels import LoadedSeries, load_series
from dicom_node.series_resampling import SliceGrid
from tests.dicom_node.irregular_ct import (
    COLUMNS,
    PIXEL_MM,
    RADIUS_MM,
    ROWS,
    depth_mm,
    orientation,
    pixel_points,
    positions,
    write_sphere,
)
from tests.dicom_node.readings import KEY, make_reading
from tests.dicom_node.validation import dciodvfy_errors, tid1500

TILTED = st.floats(4, 30) | st.floats(-30, -4)
GAPS = st.lists(st.sampled_from([2.0, 3.0, 4.0, 7.0]), min_size=16, max_size=20)


def loaded(paths: list[Path]) -> LoadedSeries:
    survey = survey_files(paths)
    assert not survey.refusals, [str(refusal) for refusal in survey.refusals]
    (candidate,) = survey.candidates
    return load_series(candidate)


def sphere_reading(series: LoadedSeries) -> Reading:
    """A reading that drew everything above 0 HU as one lesion, and the same as an organ."""
    reading = make_reading(series.volume)
    inside = (series.volume.array > 0).astype(np.uint8)
    mask = series.volume.with_array(inside)
    return dataclasses.replace(
        reading,
        lesions=reading.lesions[:1],
        lesion_mask=mask,
        organ_mask=mask,
        encoding=dataclasses.replace(reading.encoding, slices=series.slices),
    )


def half_voxel(volume: hd.Volume) -> float:
    """From the centre of a voxel to its corner, mm."""
    return float(np.linalg.norm(volume.spacing)) / 2


def truth(series: LoadedSeries) -> npt.NDArray[np.float64]:
    """(slices, rows, columns) how deep each pixel of the original slices lies in the sphere."""
    cosines = np.array(series.sources[0].ImageOrientationPatient, dtype=float)
    return np.stack(
        [
            depth_mm(pixel_points(np.array(source.ImagePositionPatient, dtype=float), cosines))
            for source in series.sources
        ]
    )


def segmented(series: LoadedSeries, folder: Path) -> npt.NDArray[np.bool_]:
    """(slices, rows, columns) the lesion as highdicom reads it back from the SEG, by source image."""
    segmentation = lesion_segmentation(sphere_reading(series), series.sources, KEY)
    assert segmentation is not None
    segmentation.save_as(folder / "seg.dcm")
    stored = hd.seg.segread(folder / "seg.dcm").get_pixels_by_source_instance(
        [source.SOPInstanceUID for source in series.sources],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    return np.asarray(stored, dtype=bool)


@settings(max_examples=5, deadline=None)
@given(degrees=TILTED, turn=st.floats(-40, 40), gaps=GAPS)
def test_a_sphere_in_a_tilted_stack_lands_on_the_original_slices(
    degrees: float, turn: float, gaps: list[float]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        heights = np.concatenate([[0.0], np.cumsum(gaps)])
        series = loaded(write_sphere(Path(folder), list(heights), degrees=degrees, turn=turn))
        assert "gantry tilt" in series.notes[0]
        found = segmented(series, Path(folder))
    up = np.asarray(series.volume.direction)[:, 0]
    assert np.allclose(up, [0, 0, 1], atol=1e-6)  # upright: along the body, not along the slices' normal
    deep = truth(series)
    assert np.abs(deep[found != (deep > 0)]).max(initial=0.0) <= half_voxel(series.volume)
    assert found.sum() > 100


@settings(max_examples=3, deadline=None)
@given(gaps=GAPS, turn=st.floats(-40, 40))
def test_a_sphere_in_uneven_slices_lands_on_the_original_slices(gaps: list[float], turn: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        heights = np.concatenate([[0.0], np.cumsum(gaps)])
        series = loaded(write_sphere(Path(folder), list(heights), turn=turn))
        found = segmented(series, Path(folder))
    deep = truth(series)
    assert np.abs(deep[found != (deep > 0)]).max(initial=0.0) <= half_voxel(series.volume)
    assert series.volume.spatial_shape[1:] == (ROWS, COLUMNS)


@settings(max_examples=12, deadline=None)
@given(
    degrees=st.just(0.0) | TILTED,
    turn=st.floats(-180, 180),
    gaps=GAPS,
    slope=st.tuples(*[st.floats(-3, 3)] * 3),
)
def test_a_linear_field_is_kept_exactly(
    degrees: float, turn: float, gaps: list[float], slope: tuple[float, float, float]
) -> None:
    cosines = orientation(degrees, turn)
    places = positions(list(np.cumsum(gaps)), cosines)
    stack = stack_slices(places, np.tile(cosines, (len(gaps), 1)), list(range(len(gaps))))
    grid = SliceGrid.of(stack, (ROWS, COLUMNS), PIXEL_MM)
    slices = np.stack([pixel_points(place, cosines) @ slope for place in places[list(stack.order)]])
    volume = grid.resampled(slices.astype(np.float32), np.nan)
    # At the edges the nearest pixel is repeated, by half a pixel and half a slice.
    core = ndimage.binary_erosion(np.isfinite(volume), iterations=3)
    points = grid.geometry.map_indices_to_reference(np.argwhere(core))
    assert np.allclose(volume[core], points @ slope, atol=0.02)
    assert core.sum() > 100


def test_results_of_a_tilted_uneven_series_are_valid_and_name_original_slices(tmp_path: Path) -> None:
    heights = [*np.arange(0, 40, 4.0), *np.arange(40, 90, 7.0)]
    series = loaded(write_sphere(tmp_path / "ct", heights, degrees=18.5))
    reading = sphere_reading(series)
    lesions, organs = (
        make(reading, series.sources, KEY) for make in (lesion_segmentation, organ_segmentation)
    )
    report = findings_report(
        reading, series.sources, KEY, lesion_seg=lesions, organ_seg=organs, notes=series.notes
    )
    for dataset in (lesions, organs, report):
        assert dciodvfy_errors(dataset, tmp_path) == []
    uids = {str(source.SOPInstanceUID) for source in series.sources}
    for frame in lesions.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID in uids
        own = next(s for s in series.sources if s.SOPInstanceUID == source.ReferencedSOPInstanceUID)
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(np.array(position, float), np.array(own.ImagePositionPatient, float), atol=1e-4)
    assert (lesions.Rows, lesions.Columns) == (ROWS, COLUMNS)
    comments = [item.TextValue for item in report.ContentSequence if "TextValue" in item]
    assert any("gantry tilt of 18.5 degrees and slice spacing varies" in text for text in comments)
    assert tid1500(report, tmp_path)["Measurements"]


def test_the_nearest_original_slice_is_found_by_its_own_plane(tmp_path: Path) -> None:
    series = loaded(write_sphere(tmp_path, list(np.arange(0, 80, 4.0)), degrees=25))
    reading = sphere_reading(series)
    for row in (2, ROWS - 3):  # the ends of a slice differ by 20 mm in height
        for k in (3, 15):
            source = series.sources[k]
            cosines = np.array(source.ImageOrientationPatient, float)
            point = pixel_points(np.array(source.ImagePositionPatient, float), cosines)[row, 7]
            place = float(point[0]), float(point[1]), float(point[2])
            assert nearest_slice(series.slices, place)[0] == k
            assert slice_uid(reading, place) == source.SOPInstanceUID


def test_a_lesion_between_two_slices_does_not_vanish(tmp_path: Path) -> None:
    heights = [*np.arange(0, 40, 3.0), *np.arange(46, 100, 9.0)]
    series = loaded(write_sphere(tmp_path, heights))
    headers = clean_headers(series.sources)
    z = np.asarray(
        series.volume.map_indices_to_reference(
            np.array([[k, 0, 0] for k in range(series.volume.spatial_shape[0])])
        )
    )[:, 2]
    distance = np.abs(z[:, None] - np.array(heights)[None]).min(axis=1)
    assert distance.max() > 1.5  # a plane of the grid that no slice comes near
    mask = np.zeros(series.volume.spatial_shape, dtype=np.uint8)
    mask[distance.argmax(), 11, 13] = 3
    planes = on_source_slices(series.volume.with_array(mask), headers)
    (voxel,) = np.argwhere(planes == 3)
    assert tuple(voxel[1:]) == (11, 13)
    assert abs(heights[voxel[0]] - z[distance.argmax()]) == pytest.approx(distance.max(), abs=1e-6)


def test_a_series_with_a_missing_slice_is_read_and_says_so(tmp_path: Path) -> None:
    kept = [k for k in range(20) if k != 9]
    series = loaded(write_sphere(tmp_path, [4.0 * k for k in kept], numbers=[k + 1 for k in kept]))
    assert "1 slice missing after slice 9" in series.notes[0]
    assert series.volume.spatial_shape == (20, ROWS, COLUMNS)
    found = segmented(series, tmp_path)
    assert len(found) == 19
    deep = truth(series)
    assert np.abs(deep[found != (deep > 0)]).max(initial=0.0) <= half_voxel(series.volume)


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    series = loaded(write_sphere(tmp_path, list(np.arange(0, 80, 4.0)), degrees=20))
    wrong = hd.Volume(
        np.zeros(series.volume.spatial_shape, np.uint8),
        np.diag([1.0, *PIXEL_MM, 1.0]),
        coordinate_system="PATIENT",
    )
    with pytest.raises(ValueError, match="does not lie on the source slice"):
        on_source_slices(wrong, clean_headers(series.sources))


def test_volumes_in_uneven_slices_weigh_each_slice_with_its_own_share(tmp_path: Path) -> None:
    heights = [*np.arange(0, 40, 3.0), *np.arange(42, 90, 6.0)]
    series = loaded(write_sphere(tmp_path, heights))
    headers = clean_headers(series.sources)
    widths = slice_widths(headers)
    assert widths[:3] == pytest.approx([3, 3, 3])
    assert widths[-1] == pytest.approx(6)
    volume = float((truth(series) > 0).sum(axis=(1, 2)) @ widths) * PIXEL_MM[0] * PIXEL_MM[1]
    assert volume == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.05)
    assert not source_grid(headers).stack.is_regular
