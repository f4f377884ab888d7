"""Intervals by drawing patients: they hold what they promise, and nothing is pretended."""

from __future__ import annotations

import numpy as np
import pytest

from training.bootstrap import Estimate, Weights, bootstrap


def mean_of(values: list[float]) -> dict[str, Estimate]:
    array = np.array(values)

    def figures(weights: Weights) -> dict[str, float | None]:
        assert weights.sum() == len(array)
        return {"mean": float((array * weights).sum() / weights.sum()), "undefined": None}

    return bootstrap(figures, len(array), draws=400)


def test_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(10, 2, 100)
    found = mean_of(values.tolist())["mean"]
    error = 1.96 * values.std() / 10
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.1)
    assert found.high == pytest.approx(values.mean() + error, abs=0.1)


def test_the_same_draws_every_time_and_nothing_undefined() -> None:
    assert mean_of([1.0, 2.0, 5.0]) == mean_of([1.0, 2.0, 5.0])
    assert set(mean_of([1.0, 2.0])) == {"mean"}


def test_a_figure_that_most_draws_lack_has_no_interval() -> None:
    calls = []

    def figures(weights: Weights) -> dict[str, float | None]:
        calls.append(weights)
        return {"rare": 1.0 if len(calls) == 1 else None}

    assert bootstrap(figures, 5, draws=20) == {"rare": Estimate(1.0, None, None)}
    assert len(calls) == 21


def test_no_draws_no_interval() -> None:
    assert bootstrap(lambda w: {"n": float(w.sum())}, 3, draws=0) == {"n": Estimate(3.0, None, None)}


@pytest.mark.parametrize(("patients", "draws"), [(0, 10), (3, -1)])
def test_nonsense_is_refused(patients: int, draws: int) -> None:
    with pytest.raises(ValueError, match="needed are 1 and 0 at least"):
        bootstrap(lambda w: {}, patients, draws)
