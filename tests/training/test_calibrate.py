"""Thresholds and temperature from hand-made verdicts, and the card they end up in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.reader import Reader, Thresholds
from tests.tiny import tiny_checkpoint
from tests.training.verdicts import verdict
from training.benchmark import DEVELOPMENT_SEED, CaseResult
from training.calibrate import FALSE_PER_STUDY, LOWEST_SCORE, lesion_thresholds, main, temperature

TUMOURS = [a.name for a in abnormalities() if a.tumour]


def test_threshold_keeps_false_lesions_within_the_allowance() -> None:
    false = [("liver_tumour", s, False) for s in (0.95, 0.9, 0.7, 0.6)]
    results = [verdict(k, reported=false if k == 0 else ()) for k in range(20)]  # two false are allowed
    assert lesion_thresholds(results)["liver_tumour"] == pytest.approx(0.705, abs=1e-4)


def test_threshold_is_the_lowest_where_nothing_is_false() -> None:
    results = [verdict(k, reported=[("lung_nodule", 0.6, True)]) for k in range(4)]
    assert lesion_thresholds(results) == dict.fromkeys(TUMOURS, LOWEST_SCORE)


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), max_size=30), st.integers(1, 40))
def test_allowance_holds_for_any_scores(reported: list[tuple[float, bool]], n: int) -> None:
    results = [verdict(k) for k in range(n - 1)]
    results.append(verdict(n, reported=[("renal_tumour", s, true) for s, true in reported]))
    chosen = lesion_thresholds(results)["renal_tumour"]
    assert chosen >= LOWEST_SCORE
    kept = [s for s, true in reported if s >= chosen and not true]
    assert len(kept) <= FALSE_PER_STUDY * n


@pytest.mark.parametrize("true_t", [0.5, 1.0, 2.0])
def test_temperature_is_recovered(true_t: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 4000)
    truth = rng.random(4000) < 1 / (1 + np.exp(-logits))
    said = 1 / (1 + np.exp(-logits * true_t))  # over-confident by a factor of true_t
    findings = [("liver_cyst", float(p), bool(t), "absent") for p, t in zip(said, truth, strict=True)]
    assert temperature([verdict(0, findings=findings)]) == pytest.approx(true_t, rel=0.1)


def test_certain_and_wrong_stays_finite() -> None:
    findings = [("liver_cyst", 1.0, False, "present"), ("liver_cyst", 0.0, True, "absent")]
    assert 1 < temperature([verdict(0, findings=findings)]) <= 5


def test_the_card_gets_the_thresholds_and_stays_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tiny_checkpoint(tmp_path, note="kept")
    seen = []

    def read_cases(reader: Reader, first_seed: int, n: int) -> Iterator[CaseResult]:
        seen.append((first_seed, n, reader.thresholds.lesion_score("liver_tumour")))
        for k in range(n):
            yield verdict(
                k,
                reported=[("liver_tumour", 0.8, False)],
                findings=[("liver_cyst", 0.7, True, "present"), ("liver_cyst", 0.4, False, "absent")],
            )

    monkeypatch.setattr("training.calibrate.read_cases", read_cases)
    main([str(tmp_path), "--n", "3", "--device", "cpu"])
    assert seen == [(DEVELOPMENT_SEED, 3, 0.0)]  # every lesion is looked at, whatever its score
    assert "liver_tumour" in capsys.readouterr().out
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert card["note"] == "kept"
    assert card["calibration"] == {"development_phantoms": 3, "first_seed": DEVELOPMENT_SEED}
    loaded = Reader.load(tmp_path, "cpu")
    assert loaded.identity == before  # thresholds are no part of the digest
    assert loaded.thresholds == Thresholds(**card["thresholds"])
    assert loaded.thresholds.lesion_score("liver_tumour") == pytest.approx(0.805, abs=1e-3)
    assert loaded.thresholds.lesion_score("colon_tumour") == LOWEST_SCORE
