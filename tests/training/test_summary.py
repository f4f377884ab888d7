"""Figures over hand-made patients, with and without weights, and their Markdown."""

from __future__ import annotations

import numpy as np
import pytest

from core_model.thresholds import Thresholds
from tests.training.verdicts import record
from training.bootstrap import Estimate, bootstrap
from training.summary import Summary
from training.tables import show

RECORDS = [
    record(
        1,
        planted=[("liver_tumour", 20.0), ("liver_tumour", 8.0), ("lung_nodule", 12.0)],
        candidates=[("liver_tumour", 0.9, 0), ("lung_nodule", 0.7, 2), ("liver_tumour", 0.8, None)],
        findings=[("liver_tumour", 0.5, True), ("lung_nodule", 0.3, True), ("liver_cyst", 0.1, False)],
        organ_scores={"liver_cyst": -0.2, "liver_tumour": 0.3},
        snippets=[(50, 54), (10, 10)],
        features=((1.0, 0.0), (0.9, 0.1)),
        stated={"liver_tumour": True, "lung_nodule": True, "liver_cyst": False},
    ),
    record(
        2,
        candidates=[("liver_tumour", 0.75, None)],
        findings=[("liver_tumour", 0.1, False), ("lung_nodule", 0.2, False), ("liver_cyst", 0.9, True)],
        organ_scores={"liver_cyst": 0.2, "liver_tumour": 0.4},
        snippets=[(0, 30)],
        features=((0.0, 1.0), (1.0, 0.0)),
        stated={"liver_tumour": False, "lung_nodule": False, "liver_cyst": True},
    ),
]
CARD = Thresholds(lesion={"liver_tumour": 0.85, "lung_nodule": 0.75})
DETECTION = {"organ": {"liver_cyst": 0.0}, "finding": {"lung_nodule": 0.25}}


@pytest.fixture(scope="module")
def figures() -> dict[str, float | None]:
    return Summary(RECORDS, CARD, DETECTION).figures(np.ones(2))


def test_findings_and_prompts(figures: dict[str, float | None]) -> None:
    assert figures["findings/liver_tumour/auc"] == 1
    assert figures["findings/liver_tumour/sensitivity"] == 1  # raised by its lesion
    assert figures["findings/lung_nodule/sensitivity"] == 0
    assert figures["findings/macro/f1"] == pytest.approx((1 + 1 + 0) / 3)
    assert figures["findings/gallstones/auc"] is None
    assert figures["zero_shot/liver_cyst/auc"] == 1
    assert figures["zero_shot/liver_cyst/f1"] == 1
    assert figures["zero_shot/liver_tumour/auc"] == 0
    assert "zero_shot/liver_tumour/f1" not in figures  # no development threshold, no decision
    assert figures["zero_shot_scan/macro/auc"] is None
    # Too cautious to be reported as present, but told apart at a threshold of development patients.
    assert figures["detection/lung_nodule/f1"] == 1
    assert figures["detection/lung_nodule/auc"] == figures["findings/lung_nodule/auc"] == 1
    assert "detection/liver_tumour/f1" not in figures


def test_tumours(figures: dict[str, float | None]) -> None:
    assert figures["tumour_detection/any/auc"] == 1
    assert figures["lesions/liver_tumour/sensitivity"] == 1  # the one of 8 mm is not counted
    assert figures["lesions/lung_nodule/sensitivity"] == 0  # scores less than the card asks for
    assert figures["lesions/all/sensitivity"] == 0.5
    assert figures["lesions/all/false_per_study"] == 0
    # Two false ones in two studies are allowed: the nodule at 0.7 counts as well.
    assert figures["lesions/all/sensitivity_at_1_false"] == 1
    # 50 shared of 100 reported and 200 planted voxels.
    assert figures["tumour_segmentation/liver_tumour/dice"] == pytest.approx(100 / 300)
    assert figures["tumour_segmentation/lung_nodule/dice"] == 0


def test_organs_retrieval_places_and_calibration(figures: dict[str, float | None]) -> None:
    assert figures["organ_recognition/top1"] == 0.5
    assert figures["organ_recognition/top1_of_drawn"] == 0.5
    assert figures["organ_recognition/spleen"] == 0
    assert figures["organ_dice/mean"] == pytest.approx(0.9)
    assert figures["retrieval_embedding/text_to_volume/r1"] == 0
    assert figures["retrieval_embedding/text_to_volume/r5"] == 1
    assert figures["retrieval_embedding/volume_to_text/r1"] == 0.5
    assert figures["retrieval/text_to_volume/r1"] == figures["retrieval/volume_to_text/r1"] == 1
    assert figures["localization/localize/mae_mm"] == pytest.approx((12 + 0 + 90) / 3)
    assert figures["localization/localize/within_12_mm"] == pytest.approx(2 / 3)
    assert figures["localization/middle_slice/mae_mm"] == pytest.approx((0 + 120 + 150) / 3)
    random = np.mean([np.abs(np.arange(100) - k).mean() * 3 for k in (50, 10, 0)])
    assert figures["localization/random_slice/mae_mm"] == pytest.approx(random)
    assert figures["localization/mae_of_best_baseline"] == pytest.approx(34 / 90)
    said, true = np.array([0.9, 0.3, 0.1, 0.1, 0.2, 0.9]), np.array([1, 1, 0, 0, 0, 1])
    assert figures["calibration/brier"] == pytest.approx(((said - true) ** 2).mean())


def test_a_patient_drawn_twice_counts_twice() -> None:
    summary = Summary(RECORDS, CARD, DETECTION)
    doubled = Summary([RECORDS[0], RECORDS[0]], CARD, DETECTION).figures(np.ones(2))
    weighted = summary.figures(np.array([2.0, 0.0]))
    for name, value in doubled.items():
        if not name.startswith("retrieval"):  # a drawn patient is no further candidate
            assert weighted[name] == (None if value is None else pytest.approx(value)), name


def test_equal_reports_are_one(figures: dict[str, float | None]) -> None:
    same = [
        record(k, report="No cyst.", features=((1.0, 0.0), (scan, 1 - scan)))
        for k, scan in enumerate((0.1, 0.9))
    ]
    summary = Summary(same, CARD)
    assert summary.distinct_reports == 1
    # Without findings (vanilla CLIP) vectors are all that there is.
    assert summary.figures(np.ones(2))["retrieval/text_to_volume/r1"] == 1
    assert figures["retrieval_embedding/text_to_volume/r1"] == 0


def test_intervals_hold_their_figures() -> None:
    found = bootstrap(Summary(RECORDS, CARD).figures, 2, draws=30)
    for name, estimate in found.items():
        if estimate.low is not None and estimate.high is not None:
            assert estimate.low <= estimate.value + 1e-9 or "sensitivity_at" in name, name
    with pytest.raises(ValueError, match="records is empty"):
        Summary([], CARD)


def test_figures_are_shown_with_their_unit() -> None:
    assert show(Estimate(0.871, 0.812, 0.92)) == "0.87 (0.81 to 0.92)"
    assert show(Estimate(36.31, None, None), "mm") == "36.3 mm"
    assert show(None) == "-"
