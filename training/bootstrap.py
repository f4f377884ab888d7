"""Intervals of figures by drawing patients with replacement.

A draw says how often each patient counts, so figures are functions of weights per patient.
The percentile interval, 95 % (RadFinder: percentile 95 %, seed 42, model.md section 6; the
number of draws is ours to choose).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]
Figures = Callable[[Weights], dict[str, float | None]]
LEVEL = 0.95
SEED = 42


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `low` and `high` are None where too few draws define it."""

    value: float
    low: float | None
    high: float | None


def bootstrap(figures: Figures, patients: int, draws: int, seed: int = SEED) -> dict[str, Estimate]:
    """Every figure that is defined on all patients, with its interval.

    Parameters
    ----------
    figures: (patients,) weights -> figures by name.
    draws: 0 gives no intervals.

    Raises
    ------
    ValueError: if there is no patient, or `draws` is negative.
    """
    if patients < 1 or draws < 0:
        raise ValueError(f"patients is {patients} and draws {draws}; needed are 1 and 0 at least")
    values = {k: v for k, v in figures(np.ones(patients)).items() if v is not None}
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {k: [] for k in values}
    for _ in range(draws):
        weights = rng.multinomial(patients, np.full(patients, 1 / patients)).astype(np.float64)
        for name, value in figures(weights).items():
            if value is not None and name in drawn:
                drawn[name].append(value)
    return {k: _estimate(v, drawn[k], draws) for k, v in values.items()}


def _estimate(value: float, drawn: list[float], draws: int) -> Estimate:
    if len(drawn) < max(2, draws / 2):  # mostly undefined: an interval would pretend
        return Estimate(value, None, None)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
