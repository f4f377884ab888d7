"""Figures of what has a place: tumours one by one, and sentences that name a slice.

Functions of patient weights, as all of `training.summary`, of which this is a part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core_model.abnormality import abnormalities
from core_model.thresholds import Thresholds
from training.case_store import CaseRecord
from training.judging import CaseResult, ImageRecord, detection_score, dice_of, is_true
from training.metrics import Array, macro, mean, ratio, sensitivity_at

MIN_LESION_MM = 10.0  # issue 3: "tumours >= 10 mm"
NEAR_MM = (12.0, 24.0)
Figures = dict[str, float | None]


class Lesions:
    """Tumours one by one: found or not, false ones, overlap; by type and in all.

    Attributes
    ----------
    hits: (L,) detection scores of the planted tumours of `MIN_LESION_MM` and more.
    false: (F,) scores of the false candidates.
    kind, false_kind; patient, false_patient: their type, and index of the patient.
    """

    def __init__(
        self, records: Sequence[CaseRecord], verdicts: Sequence[CaseResult], thresholds: Thresholds
    ) -> None:
        planted = [
            (p, i, detection_score(p, r.image.candidates), v.found)
            for i, (r, verdict_) in enumerate(zip(records, verdicts, strict=True))
            for p, v in zip(r.image.planted, verdict_.planted, strict=True)
            if p.diameter_mm >= MIN_LESION_MM and p.voxels
        ]
        false = [
            (c, i)
            for i, r in enumerate(records)
            for c in r.image.candidates
            if not is_true(c, r.image.planted)
        ]
        self.studies = len(records)
        self.hits = np.array([score for _, _, score, _ in planted], dtype=np.float64)
        self.kind = np.array([p.abnormality for p, _, _, _ in planted], dtype=object)
        self.patient = np.array([i for _, i, _, _ in planted], dtype=int)
        self._found = np.array([f for _, _, _, f in planted], dtype=np.float64)
        self.false = np.array([c.score for c, _ in false], dtype=np.float64)
        self.false_kind = np.array([c.abnormality for c, _ in false], dtype=object)
        self.false_patient = np.array([i for _, i in false], dtype=int)
        self._reported = [
            (q.abnormality, i) for i, v in enumerate(verdicts) for q in v.reported if not q.true
        ]
        self._dice = {
            a.name: np.array(
                [_patient_dice(r.image, a.name, thresholds.lesion_score(a.name)) for r in records]
            )
            for a in abnormalities()
            if a.tumour
        }

    def figures(self, weights: Array) -> Figures:
        """At the card's thresholds, and at one false lesion per study."""
        found: Figures = {}
        for name in ("all", *self._dice):
            own = self.kind == name if name != "all" else np.ones(len(self.hits), bool)
            own_false = self.false_kind == name if name != "all" else np.ones(len(self.false), bool)
            w = weights[self.patient[own]]
            reported = sum(weights[i] for kind, i in self._reported if name in ("all", kind))
            found[f"lesions/{name}/sensitivity"] = mean(self._found[own], w)
            found[f"lesions/{name}/false_per_study"] = ratio(float(reported), float(weights.sum()))
            found[f"lesions/{name}/sensitivity_at_1_false"] = sensitivity_at(
                self.hits[own],
                w,
                self.false[own_false],
                weights[self.false_patient[own_false]],
                allowed=float(weights.sum()),
            )
        each = {f"tumour_segmentation/{k}/dice": mean(v, weights) for k, v in self._dice.items()}
        return {**found, "tumour_segmentation/macro/dice": macro(each.values()), **each}


def _patient_dice(record: ImageRecord, kind: str, threshold: float) -> float:
    """Dice of all reported against all planted tumours of a type in one patient; NaN without one."""
    planted = {p.mask_value: p.voxels for p in record.planted if p.abnormality == kind and p.voxels}
    if not planted:
        return float("nan")
    own = [c for c in record.candidates if c.abnormality == kind and c.score >= threshold]
    shared = sum(n for c in own for value, n in c.overlaps.items() if value in planted)
    return dice_of(shared, sum(c.voxels for c in own), sum(planted.values()))


class Localizations:
    """Sentences that name a slice, and how far off they were placed along the axis, in mm.

    Attributes
    ----------
    patient: (S,) index of the patient.
    errors: read-out -> (S,) mm; "localize", "slab", "middle_slice" and "random_slice".
    """

    def __init__(self, records: Sequence[CaseRecord]) -> None:
        snippets = [(i, s) for i, r in enumerate(records) for s in r.words.snippets]
        self.patient = np.array([i for i, _ in snippets], dtype=int)
        every = [np.abs(np.arange(s.slices) - s.true_slice) * s.spacing_mm for _, s in snippets]
        self.errors: dict[str, Array] = {
            "localize": np.array([e[s.found_slice] for e, (_, s) in zip(every, snippets, strict=True)]),
            "slab": np.array([e[s.slab_slice] for e, (_, s) in zip(every, snippets, strict=True)]),
            "middle_slice": np.array([e[s.slices // 2] for e, (_, s) in zip(every, snippets, strict=True)]),
            "random_slice": np.array([e.mean() for e in every]),  # expected, not drawn
        }
        self._near = {
            k: {n: np.array(v <= n, dtype=np.float64) for n in NEAR_MM} for k, v in self.errors.items()
        }
        self._near["random_slice"] = {n: np.array([(e <= n).mean() for e in every]) for n in NEAR_MM}

    def figures(self, weights: Array) -> Figures:
        """Mean absolute error and share within 12 and 24 mm, of each read-out and baseline."""
        w = weights[self.patient] if len(self.patient) else np.zeros(0)
        found: Figures = {}
        for name, error in self.errors.items():
            found[f"localization/{name}/mae_mm"] = mean(error, w)
            for limit, near in self._near[name].items():
                found[f"localization/{name}/within_{limit:g}_mm"] = mean(near, w)
        own = found["localization/localize/mae_mm"]
        bases = [found[f"localization/{k}_slice/mae_mm"] for k in ("middle", "random")]
        best = min((b for b in bases if b is not None), default=None)
        found["localization/mae_of_best_baseline"] = None if own is None or not best else own / best
        return found
