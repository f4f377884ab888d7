"""Thresholds and temperature from hand-made verdicts, and the card they end up in."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.reader import Reader
from core_model.thresholds import Thresholds
from tests.tiny import tiny_checkpoint
from tests.training.verdicts import record, verdict
from training.benchmark import DEVELOPMENT_SEED
from training.calibrate import (
    FALSE_PER_STUDY,
    LOWEST_SCORE,
    allowance,
    detection_thresholds,
    finding_scale,
    lesion_scale,
    lesion_thresholds,
    main,
    priors,
)
from training.case_store import CaseRecord

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


@pytest.mark.parametrize(("true_t", "shift"), [(0.5, 0.0), (1.0, 2.0), (2.0, -1.0)])
def test_temperature_and_offset_are_recovered(true_t: float, shift: float) -> None:
    rng = np.random.default_rng(0)
    findings = []
    for name, own in (("liver_cyst", shift), ("renal_cyst", 0.0)):
        logits = rng.normal(0, 2, 3000)
        truth = rng.random(3000) < 1 / (1 + np.exp(-logits))
        # Over-confident by a factor of true_t, and one of the two off by a shift.
        said = 1 / (1 + np.exp(-(logits * true_t - own)))
        findings += [(name, float(p), bool(t), "absent") for p, t in zip(said, truth, strict=True)]
    offset, temperature = finding_scale([verdict(0, findings=findings)])
    assert temperature == pytest.approx(true_t, rel=0.1)
    assert offset["liver_cyst"] == pytest.approx(shift, abs=0.15)
    assert offset["renal_cyst"] == pytest.approx(0, abs=0.15)


def test_certain_and_wrong_stays_finite() -> None:
    findings = [("liver_cyst", 1.0, False, "present"), ("liver_cyst", 0.0, True, "absent")]
    offset, temperature = finding_scale([verdict(0, findings=findings)])
    assert 1 < temperature <= 5
    assert abs(offset["liver_cyst"]) < 0.1


def test_few_patients_hardly_move_an_offset() -> None:
    one = [("liver_cyst", 0.5, True, "present")]
    many = one * 200
    few, sure = (finding_scale([verdict(0, findings=f)])[0]["liver_cyst"] for f in (one, many))
    assert 0 < few < sure


def test_offsets_and_temperatures_make_probabilities_of_lesion_scores() -> None:
    rng = np.random.default_rng(0)
    reported = []
    for name, own, true_t in (
        ("colon_tumour", -2.0, 2.0),
        ("lung_nodule", 0.0, 1.0),
        ("renal_tumour", 1.0, 0.6),
    ):
        logits = rng.normal(0, 3, 6000)
        truth = rng.random(6000) < 1 / (1 + np.exp(-(logits + own) / true_t))
        said = 1 / (1 + np.exp(-logits))
        reported += [(name, float(p), bool(t)) for p, t in zip(said, truth, strict=True)]
    offsets, temperatures = lesion_scale([verdict(0, reported=reported)])
    assert offsets == {
        "colon_tumour": pytest.approx(-2, abs=0.2),
        "lung_nodule": pytest.approx(0, abs=0.2),
        "renal_tumour": pytest.approx(1, abs=0.2),
    }
    assert temperatures == {
        "colon_tumour": pytest.approx(2, rel=0.1),
        "lung_nodule": pytest.approx(1, rel=0.1),
        "renal_tumour": pytest.approx(0.6, rel=0.1),
    }
    offset, temperature = lesion_scale([verdict(0, reported=[("colon_tumour", 0.5, False)])])
    assert -2 < offset["colon_tumour"] < 0
    assert temperature["colon_tumour"] == pytest.approx(1, rel=0.2)


def test_certain_and_wrong_lesions_leave_finite_scales_that_keep_the_order() -> None:
    reported = [("colon_tumour", 1.0, False), ("colon_tumour", 0.999, False), ("colon_tumour", 0.0, True)]
    offset, temperature = lesion_scale([verdict(0, reported=reported)])
    assert 1 < temperature["colon_tumour"] <= 5
    thresholds = Thresholds(lesion_offset=offset, lesion_temperature=temperature)
    said = [thresholds.lesion_probability("colon_tumour", s) for s in (0.0, 0.5, 0.999, 1.0)]
    assert said == sorted(said)
    assert said[-1] < 0.999


def test_more_false_lesions_may_be_allowed() -> None:
    results = [verdict(k, reported=[("liver_tumour", 0.9 - k / 100, False)]) for k in range(10)]
    assert lesion_thresholds(results)["liver_tumour"] == pytest.approx(0.895, abs=1e-4)
    assert lesion_thresholds(results, false_per_study=0.5)["liver_tumour"] == pytest.approx(0.855, abs=1e-4)
    assert lesion_thresholds(results, false_per_study=1)["liver_tumour"] == LOWEST_SCORE
    assert lesion_thresholds(results, allow={"liver_tumour": 0.5}) == lesion_thresholds(results) | {
        "liver_tumour": pytest.approx(0.855, abs=1e-4)
    }


def test_a_prior_is_the_mean_over_those_whose_organ_is_in_view() -> None:
    results = [
        verdict(0, findings=[("liver_cyst", 0.2, False, "absent"), ("gallstones", 0.9, True, "present")]),
        verdict(1, findings=[("liver_cyst", 0.6, True, "present")]),
        verdict(2),
    ]
    assert priors(results) == {"gallstones": 0.9, "liver_cyst": 0.4}


def test_detection_thresholds_part_the_development_patients() -> None:
    records = [
        record(k, findings=[("liver_cyst", 0.1 + k / 20, k > 2)], organ_scores={"liver_cyst": k / 10})
        for k in range(5)
    ]
    chosen = detection_thresholds(records, Thresholds())
    half_way = {"finding": pytest.approx(0.225), "organ": pytest.approx(0.25)}
    assert chosen == {"scan": {}, **{level: {"liver_cyst": value} for level, value in half_way.items()}}


def test_detection_thresholds_are_of_findings_as_reported() -> None:
    records = [
        record(
            k,
            findings=[("liver_tumour", 0.2, k > 2)],
            candidates=[("liver_tumour", 0.9, None)] if k > 2 else [],
        )
        for k in range(5)
    ]
    chosen = detection_thresholds(records, Thresholds(lesion={"liver_tumour": 0.5}, raise_findings=True))
    assert chosen["finding"] == {"liver_tumour": pytest.approx(0.55)}  # lesions raised the present ones


def test_the_card_gets_the_thresholds_and_stays_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tiny_checkpoint(tmp_path, note="kept")
    seen = []

    def read_cases(
        reader: Reader, first_seed: int, n: int, thresholds: Thresholds, folder: Path | None
    ) -> Iterator[CaseRecord]:
        seen.append((first_seed, n, thresholds.lesion_score("liver_tumour"), thresholds.mask, folder))
        for k in range(n):
            yield record(
                k,
                candidates=[("liver_tumour", 0.8, None)],
                findings=[("liver_cyst", 0.7, True), ("liver_tumour", 0.4, False)],
            )

    monkeypatch.setattr("training.calibrate.read_cases", read_cases)
    cases = tmp_path / "cases"
    allowed = ["--false-per-study", "0.2", "--allow", "renal_tumour=1"]
    pieces = ["--second-pieces", "renal_tumour", "colon_tumour"]
    main([str(tmp_path), "--n", "3", "--device", "cpu", *allowed, *pieces, "--cases", str(cases)])
    # Every lesion is looked at, whatever its score.
    assert seen == [(DEVELOPMENT_SEED, 3, 0.0, 0.5, cases)]
    assert "liver_tumour" in capsys.readouterr().out
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert card["note"] == "kept"
    assert card["calibration"] == {
        "development_phantoms": 3,
        "first_seed": DEVELOPMENT_SEED,
        "false_per_study": 0.2,
        "allow": {"renal_tumour": 1.0},
        "detection_thresholds": {"finding": {}, "organ": {}, "scan": {}},
    }
    loaded = Reader.load(tmp_path, "cpu")
    assert loaded.identity == before  # thresholds are no part of the digest
    assert loaded.thresholds == Thresholds.from_card(card)
    assert loaded.thresholds.second_pieces == ("colon_tumour", "renal_tumour")
    # None of them is true: they mean little, and are not reported.
    said = loaded.thresholds.lesion_probability("liver_tumour", 0.8)
    assert said < loaded.thresholds.lesion_score("liver_tumour") == LOWEST_SCORE
    assert loaded.thresholds.lesion_score("colon_tumour") == LOWEST_SCORE


@pytest.mark.parametrize("text", ["liver_tumour", "liver_tumour=-1", "liver_tumour=much", "toe=1", "=1"])
def test_an_allowance_that_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not TYPE=VALUE"):
        allowance(text)
