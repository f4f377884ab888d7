"""ROC curves under weights and published thresholds, against scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from training.protocols.curves import CORNER, GRID, YOUDEN, Curve, area, decisions, figures, fixed

Arrays = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.float64]]


@st.composite
def scored(draw: st.DrawFn) -> Arrays:
    """Scores with ties, a truth of both kinds, and how often each item counts."""
    n = draw(st.integers(4, 40))
    levels = st.integers(0, 12).map(lambda k: k / 12)
    scores = np.array(draw(st.lists(levels, min_size=n, max_size=n)))
    truth = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=float)
    assume(weights[truth].sum() > 0 and weights[~truth].sum() > 0)
    return scores, truth, weights


@settings(max_examples=40)
@given(scored())
def test_area_is_scikit_learns_under_any_weights(items: Arrays) -> None:
    scores, truth, weights = items
    expected = roc_auc_score(truth, scores, sample_weight=weights)
    assert area(*Curve(scores, truth).sums(weights)) == pytest.approx(expected)


@settings(max_examples=40)
@given(scored(), st.integers(0, 13))
def test_decisions_are_scikit_learns(items: Arrays, level: int) -> None:
    scores, truth, weights = items
    threshold = (level - 0.5) / 12
    curve = Curve(scores, truth)
    said = scores >= threshold
    found = decisions(*curve.sums(weights), curve.above(threshold, inclusive=True))
    weighed = {"sample_weight": weights}
    assert found["precision"] == pytest.approx(precision_score(truth, said, zero_division=0, **weighed))
    assert found["sensitivity"] == pytest.approx(recall_score(truth, said, **weighed))
    assert found["specificity"] == pytest.approx(recall_score(~truth, ~said, **weighed))
    assert found["f1"] == pytest.approx(f1_score(truth, said, zero_division=0, **weighed))
    weighted = f1_score(truth, said, average="weighted", zero_division=0, **weighed)
    assert found["f1_weighted"] == pytest.approx(weighted)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said, **weighed))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said, **weighed))


@settings(max_examples=40)
@given(scored())
def test_youden_is_the_published_rule(items: Arrays) -> None:
    """RadFinder: argmax of tpr - fpr over scikit-learn's curve, 0.5 where that threshold is infinite."""
    scores, truth, _ = items
    assume(truth.any() and not truth.all())
    false, true, levels = roc_curve(truth, scores)
    best = levels[int(np.argmax(true - false))]
    expected = best if np.isfinite(best) else 0.5
    curve, ones = Curve(scores, truth), np.ones(len(scores))
    assert YOUDEN.threshold(curve, ones) == pytest.approx(expected)
    k = YOUDEN.choose(curve, *curve.sums(ones))
    assert set(curve.levels[:k]) == {x for x in scores if x >= expected}


@settings(max_examples=60)
@given(scored())
def test_corner_is_the_published_rule(items: Arrays) -> None:
    """fVLM: over 100 thresholds, the last of those nearest to (0, 1); above it is positive."""
    scores, truth, _ = items
    assume(truth.any() and not truth.all())
    distances = []
    for threshold in GRID:
        said = scores > threshold
        sensitivity, false = said[truth].sum() / truth.sum(), said[~truth].sum() / (~truth).sum()
        distances.append(np.sqrt((1 - sensitivity) ** 2 + false**2))
    last = max(i for i, d in enumerate(distances) if d <= min(distances))
    curve, ones = Curve(scores, truth), np.ones(len(scores))
    assert CORNER.threshold(curve, ones) == pytest.approx(GRID[last])
    k = CORNER.choose(curve, *curve.sums(ones))
    assert set(curve.levels[:k]) == {x for x in scores if x > GRID[last]}


def test_a_threshold_from_elsewhere_is_applied_as_its_rule_does() -> None:
    curve = Curve([0.2, 0.4, 0.4, 0.8], [False, True, False, True])
    ones = np.ones(4)
    found = figures(curve, ones, {"at": fixed(0.4, inclusive=True), "above": fixed(0.4, inclusive=False)})
    assert (found["at/sensitivity"], found["at/specificity"]) == (1.0, 0.5)
    assert (found["above/sensitivity"], found["above/specificity"]) == (0.5, 1.0)


def test_what_was_not_scored_is_left_out() -> None:
    scores, truth = np.array([0.1, np.nan, 0.7, np.nan, 0.4]), np.array([0, 1, 1, 0, 1], dtype=bool)
    curve = Curve(scores, truth)
    assert area(*curve.sums(np.ones(5))) == 1.0
    assert list(curve.levels) == [0.7, 0.4, 0.1]


@pytest.mark.parametrize("truth", [[True, True], [False, False]])
def test_a_label_of_one_kind_has_no_figures(truth: list[bool]) -> None:
    curve = Curve([0.1, 0.9], truth)
    assert figures(curve, np.ones(2), {"test": YOUDEN.choose}) == {}
    assert YOUDEN.threshold(curve, np.ones(2)) is None


def test_a_label_that_nobody_was_scored_for_has_no_figures() -> None:
    curve = Curve([np.nan, np.nan], [True, False])
    assert figures(curve, np.ones(2), {}) == {}
    assert CORNER.threshold(curve, np.ones(2)) is None
