"""One label's ROC curve under weights, and the published ways to choose a threshold on it.

A bootstrap of 10,000 draws over 18 labels is 180,000 curves: scores are sorted once, and a draw is only other
weights. On plain data the figures are scikit-learn's, which the tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.metrics import ratio

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Figures = dict[str, float | None]
GRID = np.linspace(0, 1, 100)  # fVLM ``calc_metrics.py``: thresholds that are tried


class Curve:
    """Scores of one label, sorted.

    Parameters
    ----------
    scores: (N,), NaN where an item was not scored: it is left out.
    truth: (N,) bool.

    Attributes
    ----------
    levels: (T,) distinct scores, highest first.
    on_grid: (100,) how many levels lie above each threshold of `GRID`.
    """

    def __init__(self, scores: npt.ArrayLike, truth: npt.ArrayLike) -> None:
        s, t = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
        answered = np.flatnonzero(~np.isnan(s))
        self._order = answered[np.argsort(-s[answered], kind="stable")]
        self._truth = t[self._order]
        ordered = s[self._order]
        last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else self._order
        self._last = last
        self.levels: Floats = ordered[last]
        self.on_grid: npt.NDArray[np.int64] = np.searchsorted(-self.levels, -GRID, side="left")

    def sums(self, weights: Floats) -> tuple[Floats, Floats]:
        """(T + 1,) weight of true and of false positives if the k highest levels are called positive."""
        w = weights[self._order]
        true = np.cumsum(w * self._truth)[self._last]
        every = np.cumsum(w)[self._last]
        zero = np.zeros(1)
        return np.concatenate([zero, true]), np.concatenate([zero, every - true])

    def above(self, threshold: float, inclusive: bool) -> int:
        """How many levels lie above a threshold, or at it where `inclusive`."""
        return int(np.searchsorted(-self.levels, -threshold, side="right" if inclusive else "left"))


def area(true: Floats, false: Floats) -> float | None:
    """Area under the ROC curve of `Curve.sums`; None where one side has no weight."""
    return ratio(float(np.trapezoid(true, false)), float(true[-1] * false[-1]))


def decisions(true: Floats, false: Floats, k: int) -> Figures:
    """Figures of calling the k highest levels positive; 0 where a precision or F1 would divide by zero, as
    scikit-learn with ``zero_division=0``; None where nothing is weighed on a side that is needed.

    "f1_weighted" is the mean of the F1 of both classes by their frequency, which the protocols call F1.
    """
    tp, fp, p, n = float(true[k]), float(false[k]), float(true[-1]), float(false[-1])
    fn, tn = p - tp, n - fp
    f1, f1_negative = 2 * tp / ((2 * tp + fp + fn) or 1.0), 2 * tn / ((2 * tn + fp + fn) or 1.0)
    sensitivity, specificity = ratio(tp, p), ratio(tn, n)
    both = None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
    return {
        "precision": tp / ((tp + fp) or 1.0),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": f1,
        "f1_weighted": ratio(p * f1 + n * f1_negative, p + n),
        "accuracy": ratio(tp + tn, p + n),
        "balanced_accuracy": both,
    }


Choice = Callable[[Curve, Floats, Floats], int]


def youden(curve: Curve, true: Floats, false: Floats) -> int:
    """Levels called positive where sensitivity + specificity is greatest; the strictest of equal ones.

    RadFinder ``evaluate_chexzero``, down to its fallback: where calling nobody positive is best, 0.5.
    """
    k = int((true / true[-1] - false / false[-1]).argmax())
    return k if k else curve.above(0.5, inclusive=True)


def nearest_corner(curve: Curve, true: Floats, false: Floats) -> int:
    """Levels above that threshold of `GRID` whose point is nearest to (0, 1); the highest of equal ones.

    CT-CLIP's rule as fVLM's and HLIP's code has it (``find_threshold``).
    """
    above = curve.on_grid
    # In the published form, not by `hypot`: which of two equally near points is last hangs on the last bit.
    distance = np.sqrt((1 - true[above] / true[-1]) ** 2 + (false[above] / false[-1]) ** 2)
    return int(above[len(GRID) - 1 - int(distance[::-1].argmin())])


@dataclass(frozen=True)
class Rule:
    """A way to choose a threshold.

    Attributes
    ----------
    name: said in every result.
    choose: how many levels of a curve are called positive.
    inclusive: whether a score at the threshold is positive.
    grid: whether thresholds are those of `GRID`, not scores.
    """

    name: str
    choose: Choice
    inclusive: bool
    grid: bool

    def threshold(self, curve: Curve, weights: Floats) -> float | None:
        """The threshold, a score or a value of the grid; None where one side has no weight."""
        true, false = curve.sums(weights)
        if true[-1] == 0 or false[-1] == 0:
            return None
        k = self.choose(curve, true, false)
        if not self.grid:
            best = (true / true[-1] - false / false[-1]).argmax()
            return float(curve.levels[k - 1]) if best else 0.5
        return float(GRID[np.flatnonzero(curve.on_grid == k)[-1]])


YOUDEN = Rule("Youden", youden, inclusive=True, grid=False)
CORNER = Rule("nearest to (0, 1) over 100 thresholds", nearest_corner, inclusive=False, grid=True)


def fixed(threshold: float, inclusive: bool) -> Choice:
    """The levels beyond a threshold that was chosen elsewhere."""

    def choose(curve: Curve, _true: Floats, _false: Floats) -> int:
        return curve.above(threshold, inclusive)

    return choose


def figures(curve: Curve, weights: Floats, choices: dict[str, Choice]) -> Figures:
    """ "auroc", and the figures of each choice as "CHOICE/FIGURE"; empty where one side has no weight.

    That is how the published code leaves a label out of the mean.
    """
    true, false = curve.sums(weights)
    if not len(curve.levels) or true[-1] == 0 or false[-1] == 0:
        return {}
    found: Figures = {"auroc": area(true, false)}
    for name, choose in choices.items():
        said = decisions(true, false, choose(curve, true, false))
        found |= {f"{name}/{key}": value for key, value in said.items()}
    return found
