"""Where in its organ a sentence says that something lies: "upper pole of the left kidney", "segment VI".

Shares of the organ's extent, in radiologists' usual thirds; real borders (lobes, segments) are not known
here. Not a parser of reports: one sentence, of an organ that is known. Our choice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right"]
Share = tuple[float, float]

PAIRED = frozenset({"adrenals", "kidneys", "lung"})
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_BOTH = re.compile(r"\b(both|bilateral|bilaterally)\b", re.IGNORECASE)
_VERTEBRAE = {"cervical_spine": ("C", 7), "thoracic_spine": ("T|Th|D", 12), "lumbar_spine": ("L", 5)}
LOW, MIDDLE, HIGH = (0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0)


@dataclass(frozen=True)
class Site:
    """A part of an organ.

    Attributes
    ----------
    side: of a paired organ.
    upward: share of the organ's height (of that side), 0 at the feet's end.
    leftward: share of its width, 0 at the patient's right end.
    """

    side: Side | None = None
    upward: Share | None = None
    leftward: Share | None = None


# (organs, words, upward, leftward); the first that matches counts. Lobes of a lung lie over one another
# obliquely, so that their heights overlap.
_Rule = tuple[frozenset[str], re.Pattern[str], Share | None, Share | None]


def _rule(of: str, words: str, upward: Share | None = None, leftward: Share | None = None) -> _Rule:
    return frozenset(of.split()), re.compile(rf"\b(?:{words})\b", re.IGNORECASE), upward, leftward


_RULES: tuple[_Rule, ...] = (
    _rule("lung", "upper lobes?", (0.4, 1.0)),
    _rule("lung", "middle lobe|lingula", (0.15, 0.65)),
    _rule("lung", "lower lobes?", (0.0, 0.65)),
    _rule("lung", "apex|apices|apical", (0.75, 1.0)),
    _rule("liver", "segments? (?:2|3|II|III)", None, (0.55, 1.0)),
    _rule("liver", "segments? (?:4|IV)[ab]?", None, (0.4, 0.75)),
    _rule("liver", "segments? (?:5|6|V|VI)", (0.0, 0.55), (0.0, 0.6)),
    _rule("liver", "segments? (?:7|8|VII|VIII)", (0.45, 1.0), (0.0, 0.6)),
    _rule("liver", "left (?:hepatic )?lobe", None, (0.5, 1.0)),
    _rule("liver", "right (?:hepatic )?lobe", None, (0.0, 0.6)),
    _rule("liver", "dome", HIGH),
    _rule("pancreas", "head|uncinate", None, LOW),
    _rule("pancreas", "neck|body", None, MIDDLE),
    _rule("pancreas", "tail", None, HIGH),
    _rule("colon", "ca?ecum|ascending", None, LOW),
    _rule("colon", "hepatic flexure", (0.4, 1.0), LOW),
    _rule("colon", "splenic flexure", (0.5, 1.0), HIGH),
    _rule("colon", "transverse", (0.4, 1.0)),
    _rule("colon", "descending", None, HIGH),
    _rule("colon", "sigmoid|rectosigmoid", LOW),
    _rule("aorta", "ascending|arch", HIGH),
    _rule("aorta", "infrarenal|abdominal", (0.0, 0.5)),
    _rule("aorta", "thoracic", (0.4, 1.0)),
)
_LEVELS = (
    (re.compile(r"\b(?:upper|superior)\b", re.IGNORECASE), HIGH),
    (re.compile(r"\b(?:mid|middle|interpolar)\b", re.IGNORECASE), MIDDLE),
    (re.compile(r"\b(?:lower|inferior|basal)\b", re.IGNORECASE), LOW),
)


def stated_site(text: str, organ: str) -> Site | None:
    """The part of an organ that a sentence names; None where it names none.

    Parameters
    ----------
    organ: a reading organ, that the sentence is about.

    >>> stated_site("Solid mass in the upper pole of the left kidney", "kidneys")
    Site(side='left', upward=(0.6666666666666666, 1.0), leftward=None)
    >>> stated_site("Metastasis of L3", "lumbar_spine").upward
    (0.2, 0.8)
    """
    side = _side(text) if organ in PAIRED else None
    rules = (shares for organs, words, *shares in _RULES if organ in organs and words.search(text))
    levels = (share for words, share in _LEVELS if words.search(text))
    upward, leftward = next(rules, (_vertebra(text, organ) or next(levels, None), None))
    site = Site(side, upward, leftward)
    return None if site == Site() else site


def _side(text: str) -> Side | None:
    """Left or right; None where a text names neither, or both."""
    sides = {found.lower() for found in _SIDE.findall(text)}
    if len(sides) != 1 or _BOTH.search(text):
        return None
    return "left" if "left" in sides else "right"


def _vertebra(text: str, organ: str) -> Share | None:
    """Of a vertebra by its number, and one on either side."""
    letter, count = _VERTEBRAE.get(organ, ("", 0))
    found = re.search(rf"\b(?:{letter})-?(\d{{1,2}})\b", text) if count else None
    if found is None or not 1 <= int(found[1]) <= count:
        return None
    from_top = int(found[1])
    return max(0.0, (count - from_top - 1) / count), min(1.0, (count - from_top + 2) / count)
