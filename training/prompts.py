"""The words that training uses for organs and abnormalities: dictionary wordings and templates.

The templates T1..T7 are those of RadFinder's zero-shot evaluation (model.md section 6); the
dictionary wordings are `core_model/abnormality.csv`, those of normal organs also the phantoms' reports'.
"""

from __future__ import annotations

from core_model.abnormality import Abnormality
from core_model.anatomy import Organ
from training.phantoms.phrases import NORMAL

_FOR = (
    "{a}.",
    "Findings are compatible with {a}.",
    "There is {a}.",
    "{a} is seen.",
    "{a} is observed.",
    "{a} is present.",
)
_AGAINST = (
    "No {a}.",
    "Findings are not compatible with {a}.",
    "There is no {a}.",
    "{a} is not seen.",
    "Not {a}.",
    "{a} is not present.",
)
_ORGAN = ("{o}", "The {o}.", "This is the {o}.", "CT of the {o}.", "The {o} is shown.")

_NORMAL = (
    "{o} shows no significant abnormalities.",
    "No abnormality of the {o}.",
    "Normal {o}.",
    "The {o}: normal.",
)


def texts_for(abnormality: Abnormality) -> tuple[str, ...]:
    """Wordings that say the abnormality is there."""
    return (*abnormality.present, *(t.format(a=abnormality.display) for t in _FOR))


def texts_against(abnormality: Abnormality) -> tuple[str, ...]:
    """Wordings that say it is not."""
    return (*abnormality.absent, *(t.format(a=abnormality.display) for t in _AGAINST))


def texts_of_organ(organ: Organ) -> tuple[str, ...]:
    """Wordings that name an organ."""
    return tuple(t.format(o=organ.display) for t in _ORGAN)


def texts_of_normal(organ: Organ) -> tuple[str, ...]:
    """Wordings that say nothing is wrong with an organ; the first template is fVLM's."""
    return (*(t.format(o=organ.display) for t in _NORMAL), *NORMAL.get(organ.name, ()))
