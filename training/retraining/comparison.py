"""Old and new checkpoint on the same held-out patients: what each found of what radiologists said.

Read whole and at their own thresholds, as the node reads. Intervals are by patient, of the difference. Four
measures, more is better in all: Dice of outlined lesions, F1 of their detection, agreement of findings with
verdicts, and the findings' AUC. A fifth guards the rest: how far answers moved that nobody corrected; it
counts against a checkpoint only beyond `LEAST_KEPT`. No training, and no decision: that is
`core_model.verdict`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from core_model.abnormality import abnormalities
from core_model.reader import Reader
from core_model.reading import Reading
from core_model.verdict import Measured
from training.bootstrap import Estimate, Weights, bootstrap
from training.datasets.archive import CorrectedStudy
from training.judging import MIN_OVERLAP, dice
from training.metrics import Discrimination, mean, ratio
from training.retraining.cases import finding_truth, lesion_labels

DICE, DETECTION = "lesion Dice", "lesion detection F1"
AGREEMENT, AUC = "agreement with verdicts", "findings AUC"
KEPT = "answers kept"
PATIENTS_NEEDED = 10  # held-out patients without whom nothing is promoted; our choice
LEAST_KEPT = 0.95  # mean probability by which uncorrected findings may move is 0.05; our choice


@dataclass(frozen=True)
class StudyScore:
    """One reading of one held-out study beside what the radiologist said.

    Attributes
    ----------
    dice: of each kind of lesion that was outlined.
    found, false, missed: lesions; nothing where no outline was sent.
    answers: probability, said present, and truth of each finding that was judged.
    rest: (A,) probability of each finding that was not; NaN where judged or undetermined.
    """

    dice: tuple[float, ...]
    found: int
    false: int
    missed: int
    answers: tuple[tuple[float, bool, bool], ...]
    rest: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Both checkpoints on one study of one patient (keyed digest)."""

    patient: str
    base: StudyScore
    new: StudyScore


def score(reading: Reading, study: CorrectedStudy) -> StudyScore:
    """A reading beside the correction of its study.

    Raises
    ------
    UnusableSampleError: as `training.retraining.cases.lesion_labels`.
    """
    truth = finding_truth(study)
    labels = lesion_labels(study)
    overlaps, found, false, missed = [], 0, 0, 0
    if labels is not None:
        for index, entry in enumerate(abnormalities(), start=1):
            true = labels == index
            own = [n.label for n in reading.lesions if n.type == entry.name]
            said = np.isin(reading.lesion_mask.array, own) if own else np.zeros_like(true)
            if true.any():
                overlaps.append(dice(said, true))
                parts, n = ndimage.label(true, np.ones((3, 3, 3)))
                covered = [float(said[parts == k].mean()) >= MIN_OVERLAP for k in range(1, n + 1)]
                found, missed = found + sum(covered), missed + n - sum(covered)
            if entry.tumour:
                false += sum(not true[reading.lesion_mask.array == label].any() for label in own)
    answers, rest = [], np.full(len(abnormalities()), np.nan)
    names = [a.name for a in abnormalities()]
    for finding in reading.findings:
        index = names.index(finding.abnormality)
        if finding.probability is None:
            continue
        if truth[index] >= 0:
            answers.append((finding.probability, finding.status == "present", bool(truth[index] == 1)))
        else:
            rest[index] = finding.probability
    return StudyScore(tuple(overlaps), found, false, missed, tuple(answers), rest)


def read_pairs(base: Reader, new: Reader, studies: Iterable[tuple[str, CorrectedStudy]]) -> list[Pair]:
    """Read each study with both.

    Parameters
    ----------
    studies: patient and study, one at a time.
    """
    return [
        Pair(patient, score(base.read(study.volume), study), score(new.read(study.volume), study))
        for patient, study in studies
    ]


def measures(pairs: Sequence[Pair], draws: int) -> list[Measured]:
    """All measures that the patients define, with the interval of each difference by patient."""
    if not pairs:
        return []
    patients = sorted({pair.patient for pair in pairs})
    where = np.array([patients.index(pair.patient) for pair in pairs])
    sides = [_Side([pair.base for pair in pairs]), _Side([pair.new for pair in pairs])]
    moved = _moved(pairs)

    def figures(weights: Weights) -> dict[str, float | None]:
        w = weights[where]
        found: dict[str, float | None] = {}
        base, new = (side.figures(w) for side in sides)
        kept = mean(1 - moved, w)
        base[KEPT] = None if kept is None else LEAST_KEPT
        new[KEPT] = None if kept is None else min(kept, LEAST_KEPT)
        for name in base:
            a, b = base[name], new[name]
            found |= {f"base/{name}": a, f"new/{name}": b}
            found[f"difference/{name}"] = None if a is None or b is None else b - a
        return found

    estimates = bootstrap(figures, len(patients), draws)
    counts = _patients_of(pairs)
    return [
        made
        for name in (DICE, DETECTION, AGREEMENT, AUC, KEPT)
        if (made := _measured(name, estimates, counts[name])) is not None
    ]


class _Side:
    """One checkpoint's scores as arrays; the first axis counts studies, lesions or answers."""

    def __init__(self, scores: Sequence[StudyScore]) -> None:
        self._dice = np.array([value for s in scores for value in s.dice])
        self._of_dice = np.array([n for n, s in enumerate(scores) for _ in s.dice], dtype=int)
        self._counts = np.array([(s.found, s.false, s.missed) for s in scores], dtype=float)  # (N, 3)
        answers = [(n, *answer) for n, s in enumerate(scores) for answer in s.answers]
        self._of_answers = np.array([a[0] for a in answers], dtype=int)
        self._right = np.array([a[2] == a[3] for a in answers], dtype=float)
        self._auc = Discrimination([a[1] for a in answers], [a[3] for a in answers])

    def figures(self, weights: Weights) -> dict[str, float | None]:
        found, false, missed = weights @ self._counts
        return {
            DICE: mean(self._dice, weights[self._of_dice]) if len(self._dice) else None,
            DETECTION: ratio(2 * found, 2 * found + false + missed),
            AGREEMENT: mean(self._right, weights[self._of_answers]) if len(self._right) else None,
            AUC: self._auc.auc(weights[self._of_answers]),
        }


def _moved(pairs: Sequence[Pair]) -> np.ndarray:
    """(N,) mean change of the probabilities that nobody judged; NaN where there is none."""
    changes = [np.abs(pair.new.rest - pair.base.rest) for pair in pairs]
    return np.array([c[~np.isnan(c)].mean() if (~np.isnan(c)).any() else np.nan for c in changes])


def _patients_of(pairs: Sequence[Pair]) -> dict[str, int]:
    def count(kept: Sequence[bool]) -> int:
        return len({p.patient for p, k in zip(pairs, kept, strict=True) if k})

    outlined = count([bool(p.base.dice) for p in pairs])
    lesions = count([p.base.found + p.base.missed + p.base.false + p.new.false > 0 for p in pairs])
    judged = count([bool(p.base.answers) for p in pairs])
    return {
        DICE: outlined,
        DETECTION: lesions,
        AGREEMENT: judged,
        AUC: judged,
        KEPT: count([True] * len(pairs)),
    }


def _measured(name: str, estimates: dict[str, Estimate], patients: int) -> Measured | None:
    base, new, difference = (estimates.get(f"{side}/{name}") for side in ("base", "new", "difference"))
    if base is None or new is None or difference is None or difference.low is None or difference.high is None:
        return None
    return Measured(name, base.value, new.value, difference.low, difference.high, patients)


__all__ = ["LEAST_KEPT", "PATIENTS_NEEDED", "Pair", "StudyScore", "measures", "read_pairs", "score"]
