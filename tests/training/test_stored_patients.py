"""Patients are painted with many tumours, read as the reader reads, and kept as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core_model.clock import Clock
from core_model.inference import supports_bf16
from core_model.reader import Reader
from core_model.reading import ModelIdentity
from core_model.second_look import near_organs
from core_model.volume import canonical
from tests.tiny import CARD, tiny_model
from tests.training.test_labelmaps import organ_labels, write_map
from training.benchmark import TRAINING_SEED, Case, make_case
from training.phantoms.labelmaps import load_folder
from training.phantoms.lesions import lesion_kinds
from training.stored_patients import (
    CHANCES,
    PatientFile,
    PatientReader,
    StoredPatient,
    from_bytes,
    main,
    patient_files,
    source_of,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(TRAINING_SEED, 5.0, CHANCES)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(tiny_model(), CARD, ModelIdentity("tiny", "1", "0" * 64))


@pytest.fixture(scope="module")
def patient(case: Case, checkpoint: Checkpoint) -> StoredPatient:
    return PatientReader(checkpoint, CPU).read(case)


def test_a_patient_has_more_tumours_than_one_of_the_benchmark(case: Case) -> None:
    usual = make_case(TRAINING_SEED, 5.0)
    assert case.volume.spatial_shape == usual.volume.spatial_shape
    tumours = {k.abnormality for k in lesion_kinds()} & set(CHANCES)
    count = [sum(p.abnormality in tumours for p in c.phantom.planted) for c in (case, usual)]
    assert count[0] > count[1]
    assert all(CHANCES[k.abnormality] > k.chance for k in lesion_kinds() if k.abnormality in CHANCES)


def test_first_masks_are_those_of_the_reader(
    case: Case, checkpoint: Checkpoint, patient: StoredPatient
) -> None:
    reader = Reader(checkpoint, CPU, supports_bf16(CPU))
    features = reader._features(canonical(case.volume), Clock(None), lesions=True).features
    with torch.inference_mode():
        logits = reader._detector.first_masks(features)
    label = features.organ_probability.argmax(0)
    assert torch.equal(patient.label, label.to(torch.uint8))
    assert torch.equal(patient.hu, features.hu.round().to(torch.int16))
    read = near_organs(label) & features.body
    assert 0 < int(read.sum()) < read.numel()
    kept = from_bytes(patient.first)
    inside = logits.clamp(-13.3, 7.9)[:, read]
    assert float((kept[:, read] - inside).abs().max()) < 0.06
    assert float(kept[:, ~read].max()) < -13


def test_lesions_are_those_that_were_planted(case: Case, patient: StoredPatient) -> None:
    names = [a.name for a in abnormalities()]
    planted = [p.abnormality for p in case.phantom.planted if p.mask_value]
    assert patient.spots
    for number, spot in enumerate(patient.spots, start=1):
        own = patient.lesions == number
        assert int(own.sum()) == spot.voxels > 0
        middle = own.nonzero().float().mean(0)
        assert middle.tolist() == pytest.approx(spot.centre, abs=0.51)
        assert names[spot.kind] in planted
    assert int(patient.lesions.max()) == len(patient.spots)


def test_organs_are_those_that_were_painted(
    case: Case, checkpoint: Checkpoint, patient: StoredPatient
) -> None:
    assert patient.organs.shape == patient.hu.shape
    painted = {int(v) for v in np.unique(case.organs)}
    assert set(patient.organs.unique().tolist()) <= painted
    liver = patient.organs == organ("liver").label
    painted_mm3 = float((case.phantom.organs == organ("liver").label).sum()) * 5.0**3
    stored_mm3 = float(liver.sum()) * checkpoint.model.config.spacing_mm**3
    assert stored_mm3 == pytest.approx(painted_mm3, rel=0.1)
    assert float(patient.hu[liver].float().median()) == pytest.approx(
        float(np.median(case.volume.array[case.organs == organ("liver").label])), abs=15
    )


def test_boxes_of_a_file_are_those_of_the_patient(patient: StoredPatient, tmp_path: Path) -> None:
    file = tmp_path / "0.safetensors"
    patient.save(file)
    held = PatientFile(file)
    assert held.shape == tuple(patient.hu.shape)
    assert held.spots == patient.spots
    assert torch.equal(held.medians, patient.medians)
    assert torch.equal(held.whole("label"), patient.label)
    box = (slice(1, 4), slice(2, 9), slice(0, 5))
    for name, value in held.box(box).items():
        assert torch.equal(value, getattr(patient, name)[..., *box]), name
    kept = load_file(file)
    save_file({name: value for name, value in kept.items() if name != "organs"}, file, {"spots": "[]"})
    with pytest.raises(ValueError, match=r"0\.safetensors holds no patient .* delete it and store anew"):
        PatientFile(file)
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"0\.safetensors holds no patient .* delete it and store anew"):
        PatientFile(file)


def test_the_command_stores_patients_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tiny_model(), CARD, tmp_path / "checkpoint")
    painted = []

    def small(seed: int, spacing_mm: float, chances: dict[str, float], source: None) -> Case:
        painted.append(seed)
        return make_case(seed, 8.0, chances, source)

    monkeypatch.setattr("training.stored_patients.make_case", small)
    given = [str(tmp_path / "checkpoint"), "--out", str(tmp_path / "patients"), "--device", "cpu"]
    main([*given, "--n", "2", "--part", "2/2"])
    main([*given, "--n", "2"])
    assert painted == [TRAINING_SEED + 1, TRAINING_SEED]
    files = patient_files(tmp_path / "patients", load_checkpoint(tmp_path / "checkpoint"))
    assert [f.stem for f in files] == [str(TRAINING_SEED), str(TRAINING_SEED + 1)]
    save_checkpoint(tiny_model(1), CARD, tmp_path / "checkpoint")
    with pytest.raises(SystemExit):
        main(given)
    save_checkpoint(tiny_model(), CARD, tmp_path / "checkpoint")
    main([*given, "--n", "2"])
    assert len(painted) == 2


def test_no_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path), "--n", "0"])


def test_patients_are_grown_from_label_maps_as_often_as_wanted(tmp_path: Path) -> None:
    write_map(organ_labels(), tmp_path / "a.nii.gz")
    maps = load_folder([tmp_path], 5.0)
    seeds = range(TRAINING_SEED, TRAINING_SEED + 60)
    grown = [source_of(seed, maps, 0.5) is not None for seed in seeds]
    assert 20 < sum(grown) < 40
    assert grown == [source_of(seed, maps, 0.5) is not None for seed in seeds]
    assert all(source_of(seed, maps, 0.0) is None and source_of(seed, [], 1.0) is None for seed in seeds)
    case = make_case(TRAINING_SEED, 5.0, CHANCES, source_of(TRAINING_SEED, maps, 1.0))
    # That of the map, deformed: a tenth of a patient's.
    assert case.volume.spatial_shape[0] <= maps[0].labels.shape[0] < 60
    assert any(p.organ == "liver" for p in case.phantom.planted)


def test_a_folder_without_label_maps_and_a_share_that_is_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tiny_model(), CARD, tmp_path / "checkpoint")
    given = [str(tmp_path / "checkpoint"), "--out", str(tmp_path / "out"), "--label-maps", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(given)
    assert "holds no *.nii or *.nii.gz label map" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*given, "--map-share", "2"])
    assert "--map-share is 2.0; it is a share, from 0 to 1" in capsys.readouterr().err
