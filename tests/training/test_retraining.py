"""From corrections to a promoted checkpoint: what is learnt, what is held out, and nobody is named."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset

from core_model.abnormality import abnormalities
from core_model.checkpoint import load_checkpoint
from core_model.verdict import read_verdict, write_verdict
from dicom_node.errors import SightlineError
from dicom_node.model_in_use import ModelInUse
from dicom_node.promotion import in_use, promote
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.service.stage import SHAPE
from tests.training.archives import KIND, ROOT, Hospital, block, correct, drawn, hospital
from training.datasets.archive import volume_of
from training.datasets.catalogue import open_dataset
from training.datasets.node_archive import NodeArchive
from training.datasets.sample import UnusableSampleError
from training.datasets.tally import Tally
from training.finetune import main
from training.retraining.cases import finding_truth, lesion_labels
from training.retraining.deidentify import Deidentifier
from training.retraining.intake import load_study, only, study_files

INDEX = [a.name for a in abnormalities()].index(KIND)
WORD, DATE = "ZZIDENT", "19430617"


def name_the_patient(image: Dataset) -> None:
    """Identity where scanners and staff write it."""
    image.PatientName = f"{WORD}^Jane"
    image.PatientBirthDate = image.AcquisitionDate = image.StudyDate = image.SeriesDate = DATE
    image.InstitutionName = image.StationName = image.ProtocolName = image.StudyDescription = WORD
    image.SeriesDescription = image.AccessionNumber = image.StudyID = WORD
    image.PatientComments = image.AdditionalPatientHistory = image.ImageComments = f"seen {WORD} at home"
    image.OtherPatientIDs = [WORD, f"{WORD}2"]
    image.ReferringPhysicianName = image.OperatorsName = f"Dr^{WORD}"
    item = Dataset()
    item.RequestedProcedureDescription = WORD
    image.RequestAttributesSequence = [item]
    block = image.private_block(0x0011, WORD, create=True)
    block.add_new(1, "LO", WORD)
    image.file_meta.PrivateInformationCreatorUID = f"{ROOT}.9"
    image.file_meta.PrivateInformation = WORD.encode() + b" "


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """Two patients to learn from, two held out; the first study was corrected twice."""
    made = hospital(
        tmp_path_factory.mktemp(WORD),  # folders may be named after people, too
        learnt=2,
        held_out=2,
        change=name_the_patient,
        observer=f"{WORD}^Jane",
    )
    slices = [pydicom.dcmread(p) for p in sorted(made.archive.glob("instances/*/*.dcm"))]
    first = [s for s in slices if str(s.StudyInstanceUID) == f"{ROOT}0.1"]
    first.sort(key=lambda s: int(s.InstanceNumber))
    time.sleep(1.1)  # the SR of a correction knows seconds
    lesion = drawn(block(SHAPE, low=4, size=5), name=f"{WORD} in segment 7")
    correct(made.stage, first, (lesion,), ((INDEX, "reject"),), f"{WORD}^Joe")
    return made


def run(house: Hospital, out: Path, *more: str) -> None:
    base = str(house.stage.config.checkpoint)
    given = ["--archive", str(house.archive), "--out", str(out), "--base", base, "--device", "cpu"]
    main([*given, "--steps", "3", "--finding-steps", "30", "--draws", "50", *more])


def test_the_last_correction_of_a_study_counts_and_sides_hold(house: Hospital) -> None:
    tally = Tally()
    files = study_files(house.archive, house.pseudonyms, tally)
    assert tally.skipped == []
    assert len(files) == 4
    assert len({f.patient for f in only(files, held_out=True)}) == 2
    assert {f.patient for f in files} == {house.pseudonyms.patient(p) for p in house.patients}
    first = next(f for f in files if f.name == house.pseudonyms.study(f"{ROOT}0.1"))
    study = load_study(first, Deidentifier(house.pseudonyms))
    labels = lesion_labels(study)
    assert labels is not None
    np.testing.assert_array_equal(labels > 0, block(SHAPE, low=4, size=5))
    assert set(np.unique(labels)) == {0, INDEX + 1}
    assert [s.name for s in study.segments] == [KIND]
    assert WORD not in repr((study.segments, study.verdicts, study.correction))
    assert finding_truth(study)[INDEX] in (0.0, 1.0)


def test_what_cannot_be_used_is_named_by_digest_and_counted(house: Hospital, tmp_path: Path) -> None:
    path = next(house.archive.glob("results/*/corrections/*.json"))
    for n, content in enumerate(("{", "{}", json.dumps({**json.loads(path.read_text()), "schema": "x/9"}))):
        (path.parent / f"broken{n}.json").write_text(content)
    away = json.loads(path.read_text()) | {"study_instance_uid": "1.2.3", "images": ["../gone.dcm"]}
    (path.parent / "broken3.json").write_text(json.dumps(away))
    try:
        tally = Tally()
        files = study_files(house.archive, house.pseudonyms, tally)
    finally:
        for broken in path.parent.glob("broken*.json"):
            broken.unlink()
    assert len(files) == 4
    assert {kind: len(found) for kind, found in tally.kinds().items()} == {
        "correction's JSON is unreadable": 2,
        "correction is of another version": 1,
        "image is missing or unreadable": 1,
    }
    assert "broken" not in tally.summary()


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        (lambda k: (0.0, 0.4 * k, 0.0), "tilted"),
        (lambda k: (0.0, 0.0, 2.0 * (k > 4)), "unevenly"),
        (lambda k: (0.0, 0.0, -3.0 * k), "unevenly"),
    ],
)
def test_series_that_the_node_would_resample_are_refused(move: object, reason: str) -> None:
    slices = ct_series()
    volume_of(slices)
    for k, image in enumerate(slices):
        offset = move(k)  # type: ignore[operator]
        image.ImagePositionPatient = [
            f"{a + b:.10g}" for a, b in zip(map(float, image.ImagePositionPatient), offset, strict=True)
        ]
    with pytest.raises(UnusableSampleError, match=reason):
        volume_of(slices)
    slices[0].NumberOfFrames = 2
    with pytest.raises(UnusableSampleError, match="multi-frame"):
        volume_of(slices)


@pytest.mark.slow
def test_corrections_become_a_checkpoint_that_is_promoted_by_its_verdict(
    house: Hospital, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(house, out)
    said = capfd.readouterr()
    assert "not promoted: only 2 held-out patients, 10 are needed" in said.out.replace("\n", " ")
    base_folder = house.stage.config.checkpoint
    assert base_folder is not None
    base, new = load_checkpoint(base_folder), load_checkpoint(out / "checkpoint")
    moved = {
        name.split(".")[0]
        for name, value in new.model.state_dict().items()
        if not torch.equal(value, base.model.state_dict()[name])
    }
    assert "lesion_decoder" in moved
    assert "text_to_joint" in moved
    assert moved <= {"lesion_decoder", "text_to_mask", "text_to_joint", "prompt_scale", "evidence"}
    assert new.card["data"]["corrected_studies"] == new.card["data"]["outlined_studies"] == 2
    assert (new.card["version"], new.card["retrained_from"]) == ("0.0.1+retrained.1", base.identity.digest)
    assert_nobody(house, out, said.out + said.err)

    config = house.stage.config
    with pytest.raises(SightlineError, match="only 2 held-out patients, 10 are needed"):
        promote(config, out / "checkpoint")
    with pytest.raises(SystemExit):
        run(house, out, "--seed", "2")
    assert "holds a run on other corrections or settings" in capfd.readouterr().err
    verdict = replace(read_verdict(out / "checkpoint"), patients_needed=2)
    write_verdict(verdict, out / "checkpoint")
    assert {m.name for m in verdict.measures} >= {"lesion Dice", "lesion detection F1", "answers kept"}
    assert verdict.patients == 2
    if not verdict.promote:  # noise of an untrained model: then the node refuses with the same reason
        with pytest.raises(SightlineError, match="is not promoted"):
            promote(config, out / "checkpoint")
        return
    promote(config, out / "checkpoint")
    line = in_use(config)
    assert line.judged is not None
    assert line.judged.version == "0.0.1+retrained.1"
    assert ModelInUse(config, "cpu").current().identity.digest == new.identity.digest


def assert_nobody(house: Hospital, out: Path, printed: str) -> None:
    """No identity in any file of the output, in any file's name, or on the terminal."""
    results = [path.name for path in (house.archive / "results").iterdir()]
    corrections = [path.stem for path in house.archive.glob("results/*/corrections/*.json")]
    instances = [path.stem for path in house.archive.glob("instances/*/*.dcm")]
    marks = [WORD, DATE, ROOT, "1943", *house.patients, *results, *corrections, *instances]
    assert len(marks) > 100
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"state.pt", "model.safetensors", "card.json", "comparison.png"} <= {p.name for p in files}
    assert any("tfevents" in p.name for p in files)
    for path in files:
        content = path.read_bytes()
        for mark in marks:
            assert mark not in str(path.relative_to(out))
            assert mark.encode() not in content, (path, mark)
            assert mark.encode("utf-16-le") not in content, (path, mark)
    for mark in marks:
        assert mark not in printed.replace(str(house.archive), "").replace("\n", ""), mark


def test_the_archive_is_a_data_set(house: Hospital) -> None:
    (house.archive / "reports").mkdir(exist_ok=True)
    text = f"{WORD} seen on 17.06.1943. Hypodense liver lesion, series 3, image 6. No gallstones."
    (house.archive / "reports" / f"{ROOT}0.1.txt").write_text(text)
    assert NodeArchive.recognises(house.archive)
    dataset = open_dataset(house.archive)
    assert isinstance(dataset, NodeArchive)
    records = {record.name: record for record in dataset.records()}
    assert len(records) == 4
    assert sorted(r.split for r in records.values()) == ["test", "test", "train", "train"]
    assert list(dataset.problems()) == []
    record = records[house.pseudonyms.study(f"{ROOT}0.1")]
    assert "1943" not in record.report
    assert KIND in record.labels
    sample = dataset.load(record)
    assert sample.volume.spatial_shape == SHAPE
    assert sample.tumours is not None
    np.testing.assert_array_equal(sample.tumours == INDEX + 1, block(SHAPE, low=4, size=5))
    assert float(np.median(sample.volume.array[sample.tumours > 0])) > 250, "the box is bright"
    assert KIND in sample.tumours_labelled
    assert [(s.slice_index, "liver" in s.organs) for s in sample.snippets] == [(5, True)]


def test_studies_without_a_correction_are_read_from_their_reading(house: Hospital) -> None:
    files = sorted(house.archive.glob("results/*/corrections"))
    hidden = files[0].rename(files[0].with_name("hidden"))
    try:
        dataset = NodeArchive(house.archive)
        (record,) = [r for r in dataset.records() if r.notes["corrected"] == "no"]
        sample = dataset.load(record)
    finally:
        hidden.rename(files[0])
    assert sample.tumours is None
    assert sample.volume.spatial_shape == SHAPE
    assert record.patient in {house.pseudonyms.patient(p) for p in house.patients}
