"""Patients are painted with many tumours, read as the reader reads, and kept as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core_model.abnormality import abnormalities
from core_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core_model.reader import Reader
from core_model.reading import ModelIdentity
from tests.tiny import CARD, tiny_model
from training.benchmark import TRAINING_SEED, Case, make_case
from training.judging import bare
from training.phantoms.lesions import lesion_kinds
from training.stored_places import (
    CHANCES,
    PatientPlaces,
    PlaceReader,
    Planted,
    main,
    place_files,
    weights,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(TRAINING_SEED, 5.0, CHANCES)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(tiny_model(), CARD, ModelIdentity("tiny", "1", "0" * 64))


@pytest.fixture(scope="module")
def places(case: Case, checkpoint: Checkpoint) -> PatientPlaces:
    return PlaceReader(checkpoint, CPU).read(case)


def test_a_patient_has_more_tumours_than_one_of_the_benchmark(case: Case) -> None:
    usual = make_case(TRAINING_SEED, 5.0)
    assert case.volume.spatial_shape == usual.volume.spatial_shape
    tumours = {k.abnormality for k in lesion_kinds()} & set(CHANCES)
    count = [sum(p.abnormality in tumours for p in c.phantom.planted) for c in (case, usual)]
    assert count[0] > count[1]
    assert all(CHANCES[k.abnormality] > k.chance for k in lesion_kinds() if k.abnormality in CHANCES)


def test_places_are_those_that_the_reader_judges(
    case: Case, checkpoint: Checkpoint, places: PatientPlaces
) -> None:
    reader = Reader(checkpoint, CPU, False)
    reader.thresholds = bare(reader.thresholds)
    found = reader.read(case.volume)
    kinds = {abnormalities()[k].name for k in set(places.kind.tolist())}
    assert {lesion.type for lesion in found.lesions} <= kinds
    assert len(places.kind) >= len(found.lesions) > 0
    # Without trees a score is what the mask says at the place.
    for name in kinds:
        own = places.evidence[[abnormalities()[k].name == name for k in places.kind]]
        best = max(p.score for p in found.encoding.known_places if p.abnormality == name)
        assert best == pytest.approx(1 / (1 + np.exp(-own.max())), abs=0.02)


def test_a_place_is_a_tumour_of_its_kind_or_none(case: Case, places: PatientPlaces) -> None:
    kinds = {p.mask_value: p.abnormality for p in case.phantom.planted}
    for kind, value in zip(places.kind.tolist(), places.lesion.tolist(), strict=True):
        assert value == 0 or kinds[value] == abnormalities()[kind].name
    tumours = [a.name for a in abnormalities() if a.tumour]
    assert sorted(p.abnormality for p in places.planted) == sorted(
        p.abnormality for p in case.phantom.planted if p.abnormality in tumours
    )


def test_they_are_kept_as_they_are(places: PatientPlaces, tmp_path: Path) -> None:
    places.save(tmp_path / "0.safetensors")
    held = PatientPlaces.load(tmp_path / "0.safetensors")
    for name in ("features", "evidence", "kind", "lesion"):
        np.testing.assert_array_equal(getattr(held, name), getattr(places, name))
    assert held.planted == places.planted
    (tmp_path / "0.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"0\.safetensors holds no places .* delete it and store anew"):
        PatientPlaces.load(tmp_path / "0.safetensors")


def test_tumours_that_were_planted_more_often_count_for_less() -> None:
    kind = [a.name for a in abnormalities()].index("renal_tumour")
    one = PatientPlaces(
        np.zeros((2, 1), dtype=np.float32),
        np.zeros(2, dtype=np.float32),
        np.full(2, kind, dtype=np.int16),
        np.array([1, 0], dtype=np.uint8),
        (Planted("renal_tumour", 1, 20.0),),
    )
    assert weights(one).tolist() == pytest.approx([0.3 / CHANCES["renal_tumour"], 1.0])
    assert weights(one, {}).tolist() == [1.0, 1.0]


def test_the_command_stores_patients_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tiny_model(), CARD, tmp_path / "checkpoint")
    painted = []

    def small(seed: int, spacing_mm: float, chances: dict[str, float]) -> Case:
        painted.append(seed)
        return make_case(seed, 8.0, chances)

    monkeypatch.setattr("training.stored_places.make_case", small)
    given = [str(tmp_path / "checkpoint"), "--out", str(tmp_path / "places"), "--device", "cpu"]
    main([*given, "--n", "2", "--part", "2/2"])
    main([*given, "--n", "2"])
    assert painted == [TRAINING_SEED + 1, TRAINING_SEED]
    files = place_files(tmp_path / "places", load_checkpoint(tmp_path / "checkpoint"))
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
