"""Hand-made verdicts on benchmark patients, input for the tests of figures and thresholds."""

from __future__ import annotations

from collections.abc import Sequence

from training.case_store import CaseRecord
from training.judging import (
    CandidateRecord,
    CaseResult,
    FindingRecord,
    FindingResult,
    ImageRecord,
    PlantedRecord,
    PlantedResult,
    ReportedResult,
)
from training.wording import SnippetRecord, WordRecord


def verdict(
    seed: int,
    *,
    planted: Sequence[tuple[str, float, bool, float]] = (),
    reported: Sequence[tuple[str, float, bool]] = (),
    findings: Sequence[tuple[str, float, bool, str]] = (),
    organ_dice: dict[str, float] | None = None,
) -> CaseResult:
    """One patient.

    Parameters
    ----------
    planted: (abnormality, diameter in mm, found, Dice).
    reported: (abnormality, score, true).
    findings: (abnormality, probability, truth, status).
    """
    return CaseResult(
        planted=tuple(PlantedResult(seed, *p) for p in planted),
        reported=tuple(ReportedResult(seed, *q) for q in reported),
        findings=tuple(FindingResult(seed, *f) for f in findings),
        organ_dice=organ_dice or {},
    )


def record(
    seed: int,
    *,
    planted: Sequence[tuple[str, float]] = (),
    candidates: Sequence[tuple[str, float, int | None]] = (),
    findings: Sequence[tuple[str, float, bool]] = (),
    organ_scores: dict[str, float] | None = None,
    snippets: Sequence[tuple[int, int]] = (),
    report: str = "",
    features: tuple[tuple[float, ...], tuple[float, ...]] = ((1.0, 0.0), (1.0, 0.0)),
    stated: dict[str, bool] | None = None,
) -> CaseRecord:
    """One patient as it is stored; every lesion has 100 voxels.

    Parameters
    ----------
    planted: (tumour, diameter in mm); mask values count from 1.
    candidates: (type, score, index of the planted tumour that it covers by half, or None).
    findings: (abnormality, bare probability, truth).
    snippets: (true slice, found slice), of 100 slices of 3 mm.
    features: of the report and of the scan.
    stated: by the report, abnormality -> whether it is there.
    """
    own = tuple(PlantedRecord(kind, size, i, 100) for i, (kind, size) in enumerate(planted, start=1))
    image = ImageRecord(
        seed=seed,
        planted=own,
        candidates=tuple(
            CandidateRecord(kind, score, 100, {} if at is None else {at + 1: 50})
            for kind, score, at in candidates
        ),
        findings=tuple(FindingRecord(*f) for f in findings),
        abnormalities=tuple(sorted({p.abnormality for p in own} | {n for n, _, truth in findings if truth})),
        organ_dice={"liver": 0.9},
    )
    words = WordRecord(
        recognised={"liver": "liver", "spleen": "stomach"},
        organ_scores=organ_scores or {},
        scan_scores={},
        snippets=tuple(SnippetRecord("A cyst.", "liver_cyst", t, f, t, 100, 3.0) for t, f in snippets),
        report=report or f"report {seed}",
        stated=stated or {},
        report_feature=features[0],
        scan_feature=features[1],
    )
    return CaseRecord(image, words)
