"""From which probability on something is called present, absent or a lesion.

Only levels; who measures the probabilities is `core_model.reader`, who sets the levels
`training.calibrate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core_model.reading import Status


@dataclass(frozen=True)
class Thresholds:
    """Decision levels from the checkpoint's card (`training.calibrate` sets them on phantoms).

    Attributes
    ----------
    mask: voxel probability above which a voxel shows what a text says (`Reader.segment`).
    lesion: lesion score from which a lesion is reported, per abnormality.
    absent_below, present_from: finding probability; between them it is undetermined.
    offset: added to the logit of each finding, per abnormality; temperature: divides the sum before
        the sigmoid (Platt scaling with one slope).
    prior: how probable each finding is before its scan is seen (`core_model.report_match`).
    organ_ml: organs smaller than this count as not in view.
    raise_findings: a reported lesion raises its finding's probability to its own score, so that
        the two never contradict each other (calibration looks at the bare findings).
    """

    mask: float = 0.5
    lesion: dict[str, float] | None = None
    absent_below: float = 0.4
    present_from: float = 0.6
    offset: dict[str, float] | None = None
    temperature: float = 1.0
    prior: dict[str, float] | None = None
    organ_ml: float = 1.0
    raise_findings: bool = True

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> Thresholds:
        """From the card's "thresholds"; what is missing keeps its default."""
        known = {k: v for k, v in card.get("thresholds", {}).items() if k in cls.__dataclass_fields__}
        return cls(**known)

    def lesion_score(self, abnormality: str) -> float:
        """The score from which a lesion of this kind is reported."""
        return (self.lesion or {}).get(abnormality, 0.6)

    def finding_offset(self, abnormality: str) -> float:
        """What is added to this finding's logit."""
        return (self.offset or {}).get(abnormality, 0.0)

    def status(self, probability: float) -> Status:
        """Present, absent, or undetermined between the two levels."""
        if probability >= self.present_from:
            return "present"
        return "absent" if probability < self.absent_below else "undetermined"
