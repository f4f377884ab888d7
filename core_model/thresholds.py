"""From which probability on something is called present, absent or a lesion.

Only levels; who measures the probabilities is `core_model.reader`, who sets the levels
`training.calibrate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from core_model.reading import Status

MOST_CERTAIN = 1e-5  # of probabilities nearer to 0 or 1 the logit is that of this


@dataclass(frozen=True)
class Thresholds:
    """Decision levels from the checkpoint's card (`training.calibrate` sets them on phantoms).

    Attributes
    ----------
    mask: voxel probability above which a voxel belongs to a lesion, or to a candidate that the second look
        outlines (`core_model.detection.seconded`).
    first_masks: abnormalities that keep their first masks, though the model has a second look at them.
    second_pieces: abnormalities whose candidates are the pieces of what the second look draws, and not of
        their first masks.
    lesion_offset, lesion_temperature: added to the logit of a lesion's score, and then dividing it, per
        abnormality, to make a probability of it (Platt scaling).
    lesion: that probability from which a lesion is reported, per abnormality.
    absent_below, present_from: finding probability; between them it is undetermined.
    offset: added to the logit of each finding, per abnormality; temperature: divides the sum before
        the sigmoid (Platt scaling with one slope).
    prior: how probable each finding is before its scan is seen (`core_model.report_match`).
    organ_ml: organs smaller than this count as not in view.
    raise_findings: a reported lesion raises its finding's probability to its own score, so that
        the two never contradict each other (calibration looks at the bare findings).
    """

    mask: float = 0.5
    first_masks: tuple[str, ...] = ()
    second_pieces: tuple[str, ...] = ()
    lesion_offset: dict[str, float] | None = None
    lesion_temperature: dict[str, float] | None = None
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
        names = {name: tuple(known.get(name, ())) for name in ("first_masks", "second_pieces")}
        return cls(**known | names)

    def lesion_probability(self, abnormality: str, score: float) -> float:
        """What a lesion's score means, by `lesion_offset` and `lesion_temperature`.

        >>> Thresholds(lesion_offset={"liver_tumour": -2.0}).lesion_probability("liver_tumour", 0.5)
        0.11920292202211755
        """
        offset = (self.lesion_offset or {}).get(abnormality, 0.0)
        temperature = (self.lesion_temperature or {}).get(abnormality, 1.0)
        if temperature != 1:
            # No temperature moves a score of 0 or 1, but it moves those beside it past them.
            score = min(max(score, MOST_CERTAIN), 1 - MOST_CERTAIN)
        return rescaled(score, offset, temperature)

    def lesion_score(self, abnormality: str) -> float:
        """The probability from which a lesion of this kind is reported."""
        return (self.lesion or {}).get(abnormality, 0.6)

    def finding_offset(self, abnormality: str) -> float:
        """What is added to this finding's logit."""
        return (self.offset or {}).get(abnormality, 0.0)

    def status(self, probability: float) -> Status:
        """Present, absent, or undetermined between the two levels."""
        if probability >= self.present_from:
            return "present"
        return "absent" if probability < self.absent_below else "undetermined"


def rescaled(probability: float, offset: float, temperature: float) -> float:
    """A probability with its logit shifted, then divided by a temperature, as the reader does.

    >>> rescaled(0.9, 0.0, 1.0), round(rescaled(0.9, 0.0, 2.0), 6), round(rescaled(0.5, 2.0, 2.0), 4)
    (0.9, 0.75, 0.7311)
    """
    if (offset, temperature) == (0, 1) or not 0 < probability < 1:
        return probability
    logit = math.log(probability / (1 - probability))
    return 1 / (1 + math.exp(-(logit + offset) / temperature))
