"""What a correction leaves in the archive is read back by training, from files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dicom_node.archive import results_folder
from dicom_node.corrections import Correction, keep_correction
from dicom_node.results import codes
from dicom_node.results.correction import DrawnSegment
from tests.dicom_node.ct_series import volume_of
from tests.dicom_node.service.stage import Stage, make_stage, series
from training.datasets.archive import SCHEMA, corrected_studies, correction_files, read_correction


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    made = make_stage(tmp_path_factory.mktemp("archive"))
    made.read(series("2.25.404"))
    return made


def drawn(name: str, planes: np.ndarray) -> DrawnSegment:
    return DrawnSegment(
        name=name,
        planes=planes,
        tracking_uid=None,
        from_node=False,
        category=codes.MORPHOLOGICALLY_ABNORMAL,
        kind=codes.abnormality_code("lumbar_metastasis"),
        region=codes.organ_code("lumbar_spine"),
    )


def keep(stage: Stage, segments: tuple[DrawnSegment, ...] | None, comment: str) -> Path:
    slices = series("2.25.404")
    uids = [str(s.SOPInstanceUID) for s in slices]
    folder = stage.folder(str(slices[0].StudyInstanceUID))
    row = keep_correction(
        stage.archive,
        stage.config,
        study=str(slices[0].StudyInstanceUID),
        key=folder.name,
        folder=folder,
        slices=uids,
        correction=Correction("Doe^Jane", ((0, "accept"), (2, "reject")), comment, segments, comment),
    )
    assert results_folder(stage.archive, row.reading_key) == folder
    return folder / "corrections" / f"{row.id}.json"


def test_a_correction_is_read_back(stage: Stage) -> None:
    volume = volume_of(series("2.25.404"))
    first, second = np.zeros(volume.spatial_shape, bool), np.zeros(volume.spatial_shape, bool)
    first[3:6, 10:20, 12:24] = True
    second[5:9, 15:25, 12:24] = True  # overlaps the first
    path = keep(stage, (drawn("one", first), drawn("two", second)), "both")
    study = read_correction(path)
    assert study.correction == path.stem
    np.testing.assert_allclose(study.volume.affine, volume.affine, atol=1e-3)
    np.testing.assert_allclose(study.volume.array, volume.array, atol=0.5)
    assert study.labels is not None
    np.testing.assert_array_equal(study.labels == 2, second)
    np.testing.assert_array_equal(study.labels == 1, first & ~second)
    assert [(s.name, s.abnormality, s.organ) for s in study.segments] == [
        ("one", "lumbar_metastasis", "lumbar_spine"),
        ("two", "lumbar_metastasis", "lumbar_spine"),
    ]
    reading = json.loads((path.parent / json.loads(path.read_text())["reading"]).read_text("utf-8"))
    assert [v.abnormality for v in study.verdicts] == [reading["findings"][i]["abnormality"] for i in (0, 2)]
    assert [v.verdict for v in study.verdicts] == ["accept", "reject"]
    assert study.verdicts[0].presence == reading["findings"][0]["status"]
    assert "Doe" not in path.read_text("utf-8")


def test_nothing_drawn_is_not_the_same_as_nothing_left(stage: Stage) -> None:
    assert read_correction(keep(stage, None, "marks alone")).labels is None
    emptied = read_correction(keep(stage, (), "emptied"))
    assert emptied.labels is not None
    assert not emptied.labels.any()
    found = correction_files(stage.archive.root)
    assert {s.correction for s in corrected_studies(stage.archive.root)} == {path.stem for path in found}


def test_what_is_no_correction_is_refused(stage: Stage) -> None:
    path = keep(stage, None, "to be broken")
    document = json.loads(path.read_text("utf-8"))
    for broken in (
        {**document, "schema": "sightline-correction/9"},
        {**document, "images": ["absent.dcm"]},
        {**document, "images": []},
        {**document, "segmentation": "absent.seg.dcm"},
        {key: value for key, value in document.items() if key != "marks"},
        [],
    ):
        other = path.with_name("broken.json")
        other.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(ValueError, match=r"broken\.json cannot be read as a corrected study"):
            read_correction(other)
        other.unlink()


def test_training_reads_without_the_node() -> None:
    code = "import sys, training.datasets.archive; sys.exit('dicom_node' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert SCHEMA == "sightline-correction/1"
