"""Hand-made verdicts on benchmark patients, input for the tests of figures and thresholds."""

from __future__ import annotations

from collections.abc import Sequence

from training.benchmark import CaseResult, FindingResult, PlantedResult, ReportedResult


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
