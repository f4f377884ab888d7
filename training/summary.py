"""The benchmark's figures: records of patients in, functions of patient weights out.

`Summary.figures` gives every figure by name ("findings/liver_cyst/auc"); `training.bootstrap`
puts the intervals round them. The arrays are made once, so that a thousand draws stay cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.report_match import report_vector, scan_vector
from core_model.thresholds import Thresholds
from training.case_store import CaseRecord
from training.judging import CaseResult, scored, verdict
from training.metrics import (
    Array,
    Bools,
    Discrimination,
    brier,
    calibration_error,
    decisions,
    macro,
    mean,
    ranks,
)
from training.places import Lesions, Localizations

TOP = (1, 5, 10)
Figures = dict[str, float | None]
Section = Callable[[Array], Figures]
Ranks = npt.NDArray[np.int64]


class Question:
    """One abnormality asked of every patient.

    Parameters
    ----------
    scores: (P,) NaN where it was not answered.
    truth, said: (P,) bool; `said` None where no threshold is known.
    """

    def __init__(self, scores: Array, truth: Bools, said: Bools | None) -> None:
        self.scores, self.truth, self.said = scores, truth, said
        self.answered = ~np.isnan(scores)
        self._discrimination = Discrimination(scores, truth)

    def figures(self, weights: Array) -> Figures:
        """AUC and, where a threshold is known, the figures of its decisions."""
        found: Figures = {"auc": self._discrimination.auc(weights)}
        if self.said is not None:
            a = self.answered
            found |= decisions(self.said[a], self.truth[a], weights[a])
        return found


def _decided(scores: Array, truth: Bools, threshold: float | None) -> Question:
    """A question decided at a threshold of development patients, or not at all."""
    return Question(scores, truth, None if threshold is None else scores >= threshold)


class Summary:
    """All figures of one evaluation.

    Parameters
    ----------
    records: of the patients.
    thresholds: the card's.
    detection: {"finding": {abnormality: threshold}, "organ": {...}, "scan": {...}} from development
        patients (`training.calibrate`); what is missing has an AUC and no decisions.

    Raises
    ------
    ValueError: if there is no record.
    """

    def __init__(
        self,
        records: Sequence[CaseRecord],
        thresholds: Thresholds,
        detection: dict[str, dict[str, float]] | None = None,
    ) -> None:
        if not records:
            raise ValueError("records is empty; figures need one patient at least")
        self.records = [replace(r, image=scored(r.image, thresholds)) for r in records]
        self.verdicts: list[CaseResult] = [verdict(r.image, thresholds) for r in self.records]
        levels = detection or {}
        findings = self._findings()
        self.questions = {
            "findings": findings,
            "detection": {
                name: _decided(q.scores, q.truth, levels.get("finding", {}).get(name))
                for name, q in findings.items()
            },
            "zero_shot": self._prompts("organ", levels.get("organ", {})),
            "zero_shot_scan": self._prompts("scan", levels.get("scan", {})),
        }
        self.lesions = Lesions(self.records, self.verdicts, thresholds)
        self.localization = Localizations(self.records)
        _, self._reports = np.unique([r.words.report for r in self.records], return_inverse=True)
        self.retrieved = self._retrieve(thresholds.prior or {})
        self._sections: list[Section] = [
            self._organs(),
            *(self._asked(name) for name in self.questions),
            self._tumours(),
            self.lesions.figures,
            self._retrieval,
            self.localization.figures,
            self._calibration,
        ]

    def figures(self, weights: Array) -> Figures:
        """Every figure with each patient counted `weights` times; None where it is not defined."""
        return {k: v for section in self._sections for k, v in section(weights).items()}

    def counts(self) -> dict[str, Any]:
        """How much stands behind the figures."""
        return {
            "patients": len(self.records),
            "distinct_reports": self.distinct_reports,
            "snippets": len(self.localization.patient),
            "tumours": len(self.lesions.hits),
            "positives": {k: int(q.truth[q.answered].sum()) for k, q in self.questions["findings"].items()},
            "answered": {k: int(q.answered.sum()) for k, q in self.questions["findings"].items()},
        }

    def answers(self) -> tuple[Array, Bools, npt.NDArray[np.int64]]:
        """All findings that were answered: (N,) probability, truth, and index of the patient."""
        asked = self.questions["findings"].values()
        probability = np.concatenate([q.scores[q.answered] for q in asked])
        truth = np.concatenate([q.truth[q.answered] for q in asked])
        return probability, truth, np.concatenate([np.flatnonzero(q.answered) for q in asked])

    def _truth(self, name: str) -> Bools:
        return np.array([name in r.image.abnormalities for r in self.records])

    def _findings(self) -> dict[str, Question]:
        questions = {}
        for entry in abnormalities():
            own = [next((f for f in v.findings if f.abnormality == entry.name), None) for v in self.verdicts]
            scores = np.array([np.nan if f is None else f.probability for f in own])
            said = np.array([f is not None and f.status == "present" for f in own])
            questions[entry.name] = Question(scores, self._truth(entry.name), said)
        return questions

    def _prompts(self, level: str, thresholds: dict[str, float]) -> dict[str, Question]:
        questions = {}
        for entry in abnormalities():
            key = entry.name
            asked = [r.words.organ_scores if level == "organ" else r.words.scan_scores for r in self.records]
            scores = np.array([a.get(key, np.nan) for a in asked])
            questions[key] = _decided(scores, self._truth(key), thresholds.get(key))
        return questions

    def _asked(self, section: str) -> Section:
        def figures(weights: Array) -> Figures:
            each = {name: q.figures(weights) for name, q in self.questions[section].items()}
            keys = dict.fromkeys(k for f in each.values() for k in f)
            means = {f"{section}/macro/{k}": macro(f.get(k) for f in each.values()) for k in keys}
            return means | {f"{section}/{n}/{k}": v for n, f in each.items() for k, v in f.items()}

        return figures

    def _organs(self) -> Section:
        names = [o.name for o in organs()]
        right = np.array([_row(r.words.recognised, names, lambda a, b: float(a == b)) for r in self.records])
        drawn = [{o: named for o, named in r.words.recognised.items() if named} for r in self.records]
        named = np.array([_row(words, names, lambda a, b: float(a == b)) for words in drawn])
        overlap = np.array([_row(r.image.organ_dice, names, lambda a, _: float(a)) for r in self.records])

        def figures(weights: Array) -> Figures:
            spread = np.repeat(weights[:, None], len(names), axis=1)
            each = {f"organ_dice/{n}": mean(overlap[:, i], weights) for i, n in enumerate(names)}
            top = {f"organ_recognition/{n}": mean(right[:, i], weights) for i, n in enumerate(names)}
            return {
                "organ_recognition/top1": mean(right, spread),
                "organ_recognition/top1_of_drawn": mean(named, spread),  # CT-GLIP is given the masks
                "organ_dice/mean": macro(each.values()),
                **top,
                **each,
            }

        return figures

    def _tumours(self) -> Section:
        """Detection of patients with a tumour: of a type, and of any."""
        own = {a.name: self.questions["findings"][a.name] for a in abnormalities() if a.tumour}
        scores = np.array([np.nan_to_num(q.scores, nan=-1.0) for q in own.values()]).max(0)
        truth = np.array([q.truth for q in own.values()]).any(0)
        everyone = Discrimination(np.where(scores < 0, np.nan, scores), truth)

        def figures(weights: Array) -> Figures:
            each = {f"tumour_detection/{k}/auc": q.figures(weights)["auc"] for k, q in own.items()}
            return {
                "tumour_detection/any/auc": everyone.auc(weights),
                "tumour_detection/macro/auc": macro(each.values()),
                **each,
            }

        return figures

    def _retrieve(self, prior: Mapping[str, float]) -> dict[str, tuple[Ranks, Ranks]]:
        """Ranks of scans by reports and of reports by scans, in each way that they are compared.

        "retrieval": by what the report states beside the findings, where the reader has any;
        "retrieval_embedding": by one learnt vector of each.
        """
        words = [r.words for r in self.records]
        similarity = {
            "retrieval_embedding": np.array([w.report_feature for w in words])
            @ np.array([w.scan_feature for w in words]).T  # (report, scan)
        }
        names = sorted({f.abnormality for v in self.verdicts for f in v.findings})
        if names:
            reports = np.array([report_vector(w.stated, names) for w in words])
            found = [{f.abnormality: f.probability for f in v.findings} for v in self.verdicts]
            similarity["retrieval"] = reports @ np.array([scan_vector(f, prior, names) for f in found]).T
        else:
            similarity["retrieval"] = similarity["retrieval_embedding"]
        same = self._reports
        return {name: (ranks(own, same), ranks(own.T, same)) for name, own in similarity.items()}

    @property
    def distinct_reports(self) -> int:
        """How many of the reports differ from one another."""
        return int(self._reports.max()) + 1

    def _retrieval(self, weights: Array) -> Figures:
        """Ranks stay those among all patients: a drawn patient is no further candidate."""
        found: Figures = {}
        for way, (scans, reports) in self.retrieved.items():
            for name, rank in (("text_to_volume", scans), ("volume_to_text", reports)):
                for k in TOP:
                    found[f"{way}/{name}/r{k}"] = mean(rank <= k, weights)
                found[f"{way}/{name}/mean_rank"] = mean(rank, weights)
        return found

    def _calibration(self, weights: Array) -> Figures:
        probability, truth, patient = self.answers()
        w = weights[patient]
        return {
            "calibration/ece": calibration_error(probability, truth, w),
            "calibration/brier": brier(probability, truth, w),
        }


def _row(values: dict[str, Any], names: Sequence[str], score: Callable[[Any, str], float]) -> list[float]:
    return [score(values[n], n) if n in values else np.nan for n in names]
