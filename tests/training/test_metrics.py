"""Figures of merit against counting by hand, and against scikit-learn where it has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, f1_score, precision_score, recall_score, roc_auc_score

from training.metrics import (
    Discrimination,
    auc,
    brier,
    calibration_error,
    decisions,
    froc,
    macro,
    mean,
    ranks,
    reliability,
    sensitivity_at,
    youden_threshold,
)

scores = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=12)
answers = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.8]), st.booleans(), st.integers(0, 3)),
    min_size=2,
    max_size=20,
)


def test_auc_of_known_scores() -> None:
    assert auc([0.9, 0.8], [0.1, 0.2]) == 1
    assert auc([0.1], [0.9]) == 0
    assert auc([0.5, 0.5], [0.5]) == 0.5
    assert auc([], [0.5]) is None
    assert auc([0.5], []) is None


@given(scores, scores)
def test_auc_against_counting_pairs(positive: list[float], negative: list[float]) -> None:
    pairs = [(p > q) + 0.5 * (p == q) for p in positive for q in negative]
    assert auc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
    swapped = auc(negative, positive)
    assert swapped is not None
    assert auc(positive, negative) == pytest.approx(1 - swapped)


@given(answers)
def test_weights_count_patients_as_often_as_they_are_drawn(drawn: list[tuple[float, bool, int]]) -> None:
    score, truth, weight = (np.array(column) for column in zip(*drawn, strict=True))
    weights = weight.astype(float)
    many, right = np.repeat(score, weight), np.repeat(truth, weight)
    found = Discrimination(score, truth).auc(weights)
    if right.any() and not right.all():
        assert found == pytest.approx(roc_auc_score(right, many))
        assert brier(score, truth, weights) == pytest.approx(brier_score_loss(right, many))
    else:
        assert found is None
    said = decisions(score >= 0.5, truth, weights)
    if right.any():
        assert said["f1"] == pytest.approx(f1_score(right, many >= 0.5, zero_division=0))
        assert said["sensitivity"] == pytest.approx(recall_score(right, many >= 0.5))
    else:
        assert said["f1"] is said["sensitivity"] is None
    if (many >= 0.5).any():
        assert said["ppv"] == pytest.approx(precision_score(right, many >= 0.5))
    else:
        assert said["ppv"] is None


def test_unanswered_questions_are_left_out() -> None:
    asked = Discrimination([0.9, np.nan, 0.1, np.nan], [True, True, False, False])
    assert asked.auc(np.ones(4)) == 1
    assert mean([1.0, np.nan], [1, 5]) == 1
    assert mean([np.nan], [1]) is None
    assert macro([None, 0.5, 0.7]) == pytest.approx(0.6)
    assert macro([None]) is None


def test_youden_threshold_parts_what_can_be_parted() -> None:
    assert youden_threshold([0.1, 0.4, 0.6, 0.9], [False, False, True, True]) == pytest.approx(0.5)
    assert youden_threshold([0.1, 0.2], [True, True]) is None
    level = youden_threshold([0.9, 0.1], [False, True])  # upside down: nothing is gained by a yes
    assert level is not None
    assert level > 0.9 or level <= 0.1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=20))
def test_no_threshold_beats_youdens(drawn: list[tuple[float, bool]]) -> None:
    score, truth = (np.array(column) for column in zip(*drawn, strict=True))
    level = youden_threshold(score, truth)
    if level is None:
        assert truth.all() or not truth.any()
        return

    def gain(t: float) -> float:
        return float((score[truth] >= t).mean() - (score[~truth] >= t).mean())

    assert gain(level) >= max(gain(t) for t in score) - 1e-9


def test_calibration_of_hand_made_answers() -> None:
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    truth = np.array([False, False, True, True])
    bins = reliability(probability, truth, np.ones(4))
    np.testing.assert_allclose(bins.said, [0.05, 0.975])
    np.testing.assert_allclose(bins.true, [0, 1])
    np.testing.assert_allclose(bins.share, [0.5, 0.5])
    assert calibration_error(probability, truth, np.ones(4)) == pytest.approx((0.05 + 0.025) / 2)
    assert calibration_error(probability, ~truth, np.ones(4)) == pytest.approx((0.95 + 0.975) / 2)
    assert calibration_error(probability, truth, np.zeros(4)) is None


def test_sensitivity_at_an_allowance() -> None:
    hits, false = np.array([0.9, 0.7, 0.55, -np.inf]), np.array([0.8, 0.6])
    ones, two = np.ones(4), np.ones(2)
    assert sensitivity_at(hits, ones, false, two, allowed=0) == 0.25
    assert sensitivity_at(hits, ones, false, two, allowed=1) == 0.5
    assert sensitivity_at(hits, ones, false, two, allowed=2) == 0.75  # never found stays never found
    assert sensitivity_at(hits, ones, false, np.array([1.0, 0.0]), allowed=1) == 0.75
    assert sensitivity_at(hits[:0], ones[:0], false, two, allowed=1) is None


def test_a_lesion_that_scores_as_a_false_one_goes_with_it() -> None:
    assert sensitivity_at(np.array([0.8]), np.ones(1), np.array([0.8]), np.ones(1), allowed=0) == 0


def test_froc_rises_to_all_that_can_be_found() -> None:
    rate, found = froc(np.array([0.9, 0.7, -np.inf]), np.array([0.8, 0.6]), studies=2)
    np.testing.assert_allclose(rate, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(found, [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])


def test_ranks_of_known_similarities() -> None:
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.3, 0.3]])
    assert ranks(similarity, [0, 1, 2]).tolist() == [1, 2, 3]  # ties count against


def test_an_equal_report_is_as_right_an_answer() -> None:
    similarity = np.array([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.9, 0.2, 0.5]])
    assert ranks(similarity, ["a", "a", "b"]).tolist() == [1, 1, 2]
    assert ranks(similarity, ["a", "b", "c"]).tolist() == [3, 3, 2]
