"""Zero-shot classification by prompts: similarities to scores, scores to figures.

A score is the softmax over the similarities with a label's text for and its text against. Volumes and texts
come in as vectors; thresholds and figures are `curves`'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.metrics import macro
from training.protocols.curves import Choice, Curve, Figures, Floats, Rule, figures, fixed
from training.protocols.published import Prompts

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
TEST, DEVELOPMENT = "test_threshold", "development_threshold"


def prompt_vectors(labels: Sequence[str], prompts: Prompts, embed: Embed) -> tuple[Vectors, Vectors]:
    """(L, E) unit length vectors of the texts for and against each label.

    Parameters
    ----------
    embed: texts -> (T, E) unit length. Several templates are averaged and made unit length again, as
        RadFinder's ``mean7``.
    """

    def mean(texts: Sequence[str]) -> Vectors:
        total = embed(texts).mean(0)
        return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), dtype=np.float32)

    both = [prompts.texts(label) for label in labels]
    return np.stack([mean(yes) for yes, _ in both]), np.stack([mean(no) for _, no in both])


def softmax_scores(present: npt.ArrayLike, absent: npt.ArrayLike, scale: float = 1.0) -> Floats:
    """Softmax over two similarities, that of the text for; any shape.

    >>> softmax_scores([0.5], [0.5])
    array([0.5])
    """
    margin = scale * (np.asarray(present, dtype=np.float64) - np.asarray(absent, dtype=np.float64))
    return np.asarray(0.5 * (1 + np.tanh(margin / 2)))  # the logistic function, without overflow


def merge_calcification(scores: Floats, labels: Sequence[str], judged: Sequence[str]) -> Floats:
    """The scores of the labels that are judged; arterial calcification takes the greater of both scores.

    CT-CLIP ``eval.py`` (``evaluate_external``).

    Parameters
    ----------
    scores: (N, L) of `labels`.
    judged: of `labels`.

    Returns
    -------
    (N, J) of `judged`.
    """
    columns = {name: scores[:, i] for i, name in enumerate(labels)}
    arterial, coronary = "Arterial wall calcification", "Coronary artery wall calcification"
    if coronary not in judged:
        columns[arterial] = np.maximum(columns[arterial], columns[coronary])
    return np.stack([columns[name] for name in judged], axis=1)


@dataclass(frozen=True)
class Scored:
    """Scores of some items beside the truth.

    Attributes
    ----------
    labels: L names.
    scores: (N, L), NaN where an item was not scored.
    truth: (N, L) bool.
    """

    labels: tuple[str, ...]
    scores: Floats
    truth: npt.NDArray[np.bool_]

    def curves(self) -> dict[str, Curve]:
        """The curve of each label."""
        return {name: Curve(self.scores[:, i], self.truth[:, i]) for i, name in enumerate(self.labels)}

    def thresholds(self, rule: Rule) -> dict[str, float]:
        """What a rule chooses on these items, per label that has both positives and negatives."""
        ones = np.ones(len(self.scores))
        found = {name: rule.threshold(curve, ones) for name, curve in self.curves().items()}
        return {name: value for name, value in found.items() if value is not None}


class Classification:
    """The figures of one set of scores.

    Parameters
    ----------
    scored: of the test items.
    rule: chooses the published threshold on the test items themselves, anew in every draw.
    development: thresholds from other patients, by label; None where there are none.
    """

    def __init__(self, scored: Scored, rule: Rule, development: Mapping[str, float] | None = None) -> None:
        self.scored = scored
        self._curves = scored.curves()
        self._choices: dict[str, dict[str, Choice]] = {name: {TEST: rule.choose} for name in scored.labels}
        for name, threshold in (development or {}).items():
            if name in self._choices:
                self._choices[name][DEVELOPMENT] = fixed(threshold, rule.inclusive)

    def figures(self, weights: Floats) -> Figures:
        """ "macro/FIGURE" over the labels that have positives and negatives, and "LABEL/FIGURE".

        Parameters
        ----------
        weights: (N,) of the items.
        """
        each = {name: figures(curve, weights, self._choices[name]) for name, curve in self._curves.items()}
        keys = dict.fromkeys(key for found in each.values() for key in found)
        means: Figures = {f"macro/{key}": macro(f.get(key) for f in each.values()) for key in keys}
        return means | {f"{name}/{key}": value for name, f in each.items() for key, value in f.items()}

    def judged(self) -> tuple[str, ...]:
        """The labels that have both positives and negatives."""
        positives = self.scored.truth.sum(0)
        return tuple(
            name
            for name, count in zip(self.scored.labels, positives.tolist(), strict=True)
            if 0 < count < len(self.scored.truth)
        )
