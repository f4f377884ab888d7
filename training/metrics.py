"""Figures of merit on plain arrays: discrimination, calibration, lesion detection, retrieval.

Pure functions. Every figure takes weights, how often each item counts: a bootstrap that draws
patients with replacement is nothing else than other weights (`training.bootstrap`). Plots and
standard curves use scikit-learn; here is what it has not, or not fast enough to be resampled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BINS = 10  # of calibration, equally wide; our choice


def mean(values: npt.ArrayLike, weights: npt.ArrayLike) -> float | None:
    """Weighted mean of the values that are not NaN; None where no weight is left."""
    v, w = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    known = ~np.isnan(v)
    total = float(w[known].sum())
    return float((v[known] * w[known]).sum() / total) if total > 0 else None


def ratio(part: float, whole: float) -> float | None:
    """`part` / `whole`; None where the whole is zero."""
    return float(part) / float(whole) if whole else None


def macro(values: Iterable[float | None]) -> float | None:
    """Plain mean of the figures that are defined; None where none is."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


class Discrimination:
    """Area under the ROC curve of one question (Mann-Whitney, ties count half).

    Parameters
    ----------
    scores: (N,), NaN where the question was not answered: those are left out.
    truth: (N,) bool.
    """

    def __init__(self, scores: npt.ArrayLike, truth: npt.ArrayLike) -> None:
        s, t = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
        self._positive, self._negative = np.flatnonzero(t & ~np.isnan(s)), np.flatnonzero(~t & ~np.isnan(s))
        p, q = s[self._positive][:, None], s[self._negative][None]
        self._wins = (p > q) + 0.5 * (p == q)  # (P, Q)

    def auc(self, weights: npt.ArrayLike) -> float | None:
        """The area; None where a side has no weight."""
        w = np.asarray(weights, dtype=np.float64)
        p, q = w[self._positive], w[self._negative]
        return ratio(float(p @ self._wins @ q), float(p.sum() * q.sum()))


def auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float | None:
    """Area under the ROC curve of two groups of scores; None where one is empty.

    >>> auc([0.9, 0.4], [0.1, 0.4])
    0.875
    """
    p, q = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    truth = np.arange(len(p) + len(q)) < len(p)
    return Discrimination(np.concatenate([p, q]), truth).auc(np.ones(len(truth)))


def decisions(positive: Bools, truth: Bools, weights: Array) -> dict[str, float | None]:
    """Sensitivity, specificity, positive predictive value and F1 of yes-or-no answers.

    Parameters
    ----------
    positive, truth: (N,) bool, said and true.

    Returns
    -------
    Each figure, None where it is not defined (F1: where nothing is true).
    """
    tp = float(weights[positive & truth].sum())
    fp = float(weights[positive & ~truth].sum())
    fn = float(weights[~positive & truth].sum())
    tn = float(weights[~positive & ~truth].sum())
    return {
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "ppv": ratio(tp, tp + fp),
        "f1": ratio(2 * tp, 2 * tp + fp + fn) if tp + fn else None,
    }


def youden_threshold(scores: npt.ArrayLike, truth: npt.ArrayLike) -> float | None:
    """The score from which "yes" maximises sensitivity + specificity - 1 (RadFinder's choice).

    Midway to the next lower score, so that it does not hang on one patient's exact value. None
    where all or none are true.

    >>> youden_threshold([0.1, 0.4, 0.6, 0.9], [False, False, True, True])
    0.5
    """
    s, t = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    s, t = s[~np.isnan(s)], t[~np.isnan(s)]
    if t.all() or not t.any():
        return None
    false_rate, true_rate, levels = roc_curve(t, s, drop_intermediate=False)
    best = float(levels[int((true_rate - false_rate).argmax())])
    below = s[s < best]
    if not np.isfinite(best):  # no score separates: say yes to nobody
        return float(s.max()) + 1e-6
    middle = float((best + below.max()) / 2) if len(below) else best
    return middle if middle > below.max(initial=-np.inf) else best  # neighbours in floating point


@dataclass(frozen=True)
class Reliability:
    """Said against true frequency, per bin of probability that holds anything.

    Attributes
    ----------
    said, true, share: (B,) mean probability, frequency of the truth, share of all answers.
    """

    said: Array
    true: Array
    share: Array


def reliability(probability: Array, truth: Bools, weights: Array, bins: int = BINS) -> Reliability:
    """Bins of equal width over 0..1."""
    where = np.minimum((probability * bins).astype(int), bins - 1)
    w = np.bincount(where, weights, bins)
    said = np.bincount(where, weights * probability, bins)
    true = np.bincount(where, weights * truth, bins)
    held = w > 0
    return Reliability(said[held] / w[held], true[held] / w[held], w[held] / w.sum())


def calibration_error(probability: Array, truth: Bools, weights: Array, bins: int = BINS) -> float | None:
    """Expected calibration error: mean gap of said and true frequency over the bins' answers."""
    if weights.sum() == 0:
        return None
    r = reliability(probability, truth, weights, bins)
    return float((np.abs(r.said - r.true) * r.share).sum())


def brier(probability: Array, truth: Bools, weights: Array) -> float | None:
    """Mean squared error of the probabilities."""
    return mean((probability - truth) ** 2, weights)


def sensitivity_at(
    hits: Array, hit_weights: Array, false: Array, false_weights: Array, allowed: float
) -> float | None:
    """Share of lesions that are found where at most `allowed` false ones (by weight) are reported.

    Parameters
    ----------
    hits: (L,) highest threshold at which each planted lesion is still found, -inf where never.
    false: (F,) scores of false candidates.
    allowed: false lesions in all studies together.

    Returns
    -------
    None where there is no lesion. The threshold is common to all and as low as `allowed` permits.
    """
    order = np.argsort(-false, kind="stable")
    beyond = np.flatnonzero(np.cumsum(false_weights[order]) > allowed + 1e-9)
    limit = float(false[order[beyond[0]]]) if len(beyond) else -np.inf
    return ratio(float(hit_weights[hits > limit].sum()), float(hit_weights.sum()))


def froc(hits: Array, false: Array, studies: int) -> tuple[Array, Array]:
    """Free-response curve: (T,) false lesions per study and (T,) sensitivity, from strict to lenient."""
    levels = np.unique(np.concatenate([hits[np.isfinite(hits)], false]))[::-1]
    rate = np.array([0.0, *((false >= t).sum() / studies for t in levels)])
    found = np.array([0.0, *((hits >= t).mean() if len(hits) else 0.0 for t in levels)])
    return rate, found


def ranks(similarity: Array, groups: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Rank of the best right answer to each query, 1 is first.

    Parameters
    ----------
    similarity: (N, N), query i (row) against candidate j.
    groups: (N,) equal values are equal texts: any candidate of the query's group is right.

    Returns
    -------
    (N,): one more than the wrong candidates that are at least as similar (ties count against).
    """
    g = np.asarray(groups)
    same = g[:, None] == g[None]
    best = np.where(same, similarity, -np.inf).max(1, keepdims=True)
    return np.asarray(1 + ((similarity >= best) & ~same).sum(1), dtype=np.int64)
