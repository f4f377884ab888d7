"""A study whose slices had to be resampled, as the service shows it and takes corrections of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.index import Result
from dicom_node.series import survey_files
from dicom_node.service.nrrd_files import read_array, read_header
from dicom_node.service.segments import Segment, segments_nrrd
from dicom_node.service.slice_pictures import WINDOWS
from tests.dicom_node.irregular_ct import depth_mm, orientation, pixel_points, write_sphere
from tests.dicom_node.service.stage import Stage, make_stage
from tests.dicom_node.validation import dciodvfy_errors

HEIGHTS = [*np.arange(0, 40, 4.0), *np.arange(40, 100, 7.0)]
COSINES = orientation(20.0)


@pytest.fixture(scope="module")
def tilted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, str, list[Dataset]]:
    """A stage, its study, and the slices in slice order."""
    folder = tmp_path_factory.mktemp("tilted")
    paths = write_sphere(folder / "ct", HEIGHTS, degrees=20.0)
    slices = [pydicom.dcmread(path) for path in paths]
    stage = make_stage(folder)
    return stage, stage.read(slices), slices


def test_pictures_are_of_the_slices_as_acquired(tilted: tuple[Stage, str, list[Dataset]]) -> None:
    stage, study, slices = tilted
    shown = stage.client.get(f"/studies/{study}/slices").json()
    assert shown["slices"] == len(HEIGHTS)
    to_lps = np.array(shown["to_lps"])
    middle = [(shown["height"] - 1) / 2, (shown["width"] - 1) / 2]
    for k, source in enumerate(slices):
        points = pixel_points(np.array(source.ImagePositionPatient, float), COSINES)
        assert shown["heights_mm"][k] == pytest.approx(points.mean(axis=(0, 1))[2], abs=0.01)
        # y and x of a place in slice k, as the page takes them from `to_lps`
        place = np.linalg.solve(to_lps, [*points.mean(axis=(0, 1)), 1])
        assert place[1:3] == pytest.approx(middle, abs=0.01)
    content = stage.client.get(f"/studies/{study}/slices/12/image").content
    grey = np.asarray(Image.open(io.BytesIO(content)).resize((40, 44))).astype(float)
    centre, width = WINDOWS["soft"]
    expected = np.clip((slices[12].pixel_array - 1024.0 - centre + width / 2) / width * 255, 0, 255)
    assert np.corrcoef(grey.ravel(), expected.ravel())[0, 1] > 0.98


def test_masks_come_on_the_regular_grid_that_was_read(tilted: tuple[Stage, str, list[Dataset]]) -> None:
    stage, study, _ = tilted
    answer = stage.client.get(f"/studies/{study}/segmentation/organs")
    assert answer.status_code == 200
    header = read_header(io.BytesIO(answer.content), 1 << 28)
    assert np.allclose(np.abs(np.asarray(header.geometry.direction)).max(axis=0), 1)  # upright


def test_what_is_drawn_on_a_grid_of_another_program_goes_onto_the_slices(
    tilted: tuple[Stage, str, list[Dataset]], tmp_path: Path
) -> None:
    stage, study, slices = tilted
    (candidate,) = survey_files(_files(stage.archive, slices)).candidates
    grid = candidate.geometry
    points = grid.map_indices_to_reference(np.indices(grid.spatial_shape).reshape(3, -1).T)
    sphere = (depth_mm(points) > 0).reshape(grid.spatial_shape).astype(np.uint8)
    drawn = segments_nrrd(grid.with_array(sphere), [Segment("Segment_1", "sphere", 1, (255, 0, 0))])
    answer = stage.client.post(
        f"/studies/{study}/corrections",
        data={"correction": json.dumps({"observer_name": "Doe^Jane"})},
        files={"segmentation": ("x.seg.nrrd", drawn)},
    )
    assert answer.status_code == 201, answer.text
    with stage.archive.index.reading() as session:
        row = session.get_one(Result, answer.json()["segmentation_sop_instance_uid"])
    path = stage.folder(study) / row.file_name
    assert dciodvfy_errors(pydicom.dcmread(path), tmp_path) == []
    planes = hd.seg.segread(path).get_pixels_by_source_instance(
        [source.SOPInstanceUID for source in slices],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    deep = np.stack(
        [depth_mm(pixel_points(np.array(s.ImagePositionPatient, float), COSINES)) for s in slices]
    )
    wrong = (planes > 0) != (deep > 0)
    assert np.abs(deep[wrong]).max(initial=0.0) <= np.linalg.norm(grid.spacing) / 2
    report = pydicom.dcmread(path.with_name(path.name.replace(".seg.", ".sr.")))
    (volume,) = [
        float(item.MeasuredValueSequence[0].NumericValue) for item in _numbers(report) if _is_volume(item)
    ]
    assert volume == pytest.approx(4 / 3 * np.pi * 14**3 / 1000, rel=0.06)


def _files(archive: Archive, slices: list[Dataset]) -> list[Path]:
    return [archive.path(source.SOPInstanceUID) for source in slices]


def _numbers(dataset: Dataset) -> list[Dataset]:
    """All NUM items of a report."""
    found = []
    for item in dataset.get("ContentSequence", ()):
        found += [item] if item.ValueType == "NUM" else []
        found += _numbers(item)
    return found


def _is_volume(item: Dataset) -> bool:
    return str(item.ConceptNameCodeSequence[0].CodeValue) == "118565006"


def test_the_masks_hold_what_the_segmentation_holds(tilted: tuple[Stage, str, list[Dataset]]) -> None:
    stage, study, _ = tilted
    answer = stage.client.get(f"/studies/{study}/segmentation/organs")
    file = io.BytesIO(answer.content)
    header = read_header(file, 1 << 28)
    labels = set(np.unique(read_array(file, header))) - {0}
    stored = hd.seg.segread(stage.folder(study) / "organs.seg.dcm")
    assert labels <= set(stored.segment_numbers)
    assert labels
