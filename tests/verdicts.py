"""Verdicts made by hand, for tests of what obeys them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core_model.verdict import Judged, Measured, Verdict, write_verdict

BETTER = Measured("lesion Dice", base=0.2, new=0.3, low=0.02, high=0.18, patients=12)
WORSE = Measured("findings AUC", base=0.8, new=0.6, low=-0.3, high=-0.1, patients=12)


def allow(new: Path, base: Path, *measures: Measured, **changes: Any) -> Verdict:
    """Write a verdict into `new` that allows it to follow `base`, unless `measures` or `changes` object."""
    values = {"patients": 12, "patients_needed": 10, "about": "patients of a test", **changes}
    verdict = Verdict(Judged.of(base), Judged.of(new), measures or (BETTER,), **values)
    write_verdict(verdict, new)
    return verdict
