"""The sentences of a report, each with the reading organs that it is about, and how that was decided.

Rules alone: what a sentence names, without the neighbours that it only measures by; else its heading; else
the organ of the abnormality that it names; else, for "It ...", the sentence before. `instruct` is the better
option where a model lies on the disk; both give the same type, and the decision says which it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from training.mining.assertion import Status
from training.mining.concepts import CT_RATE, DICTIONARY, Mention, concepts
from training.mining.labels import read_sentences
from training.mining.patterns import Pattern, compile_pattern, document
from training.mining.vocabulary import Place, places_in

Decision = Literal["named", "heading", "abnormality", "carried", "model", "none"]


@dataclass(frozen=True)
class Statement:
    """What a sentence says of an abnormality, and in which words it names it."""

    abnormality: str
    status: Status
    words: str


@dataclass(frozen=True)
class MinedSentence:
    """One sentence of a report.

    Attributes
    ----------
    text: as it stands there.
    section: as in `text.Sentence`.
    organs: reading organs that it is about; empty where none is.
    decision: by what they were found: a rule, or "model".
    statements: of the abnormality dictionary.
    labels: of CT-RATE's labels.
    """

    text: str
    section: str
    organs: tuple[str, ...]
    decision: Decision
    statements: tuple[Statement, ...]
    labels: tuple[Statement, ...] = ()


def organ_sentences(report: str) -> tuple[MinedSentence, ...]:
    """The sentences of a report that speak of this scan, by rules.

    >>> [(s.organs, s.decision) for s in organ_sentences("The liver is enlarged. It is of low density.")]
    [(('liver',), 'named'), (('liver',), 'carried')]
    """
    sought = (*concepts(DICTIONARY), *concepts(CT_RATE))
    found: list[MinedSentence] = []
    for read in read_sentences(report, sought):
        text = read.sentence.text
        organs, decision = _organs(text, read.sentence.heading, read.mentions)
        if not organs and found and not read.sentence.item and _carries().expression.match(text):
            organs, decision = found[-1].organs, "carried"
        if not organs:
            decision = "none"
        said = (_statements(read.mentions, table) for table in (DICTIONARY, CT_RATE))
        found.append(MinedSentence(text, read.sentence.section, organs, decision, *said))
    return tuple(found)


def _organs(text: str, heading: str, mentioned: Sequence[Mention]) -> tuple[tuple[str, ...], Decision]:
    places = places_in(text)
    own = [p for p in places if not _is_neighbour(text, p)]
    named = _unique([p.organ for p in own or places])
    if named:
        return named, "named"
    if places:
        return (), "none"  # of a place that is no reading organ
    if headed := _unique([p.organ for p in places_in(heading)]):
        return headed, "heading"
    return _unique([m.organ for m in mentioned]), "abnormality"


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n for n in names if n))


def _is_neighbour(text: str, place: Place) -> bool:
    """Whether a place is only what something lies beside: "adjacent to the aorta"."""
    return _beside().search(text[: place.start]) is not None


def _statements(mentioned: Sequence[Mention], table: str) -> tuple[Statement, ...]:
    """What is said of the concepts of a table, once per concept and status."""
    known = {c.name for c in concepts(table)}
    first = {(m.concept, m.assertion.status): m.words for m in reversed(mentioned) if m.concept in known}
    return tuple(Statement(name, status, words) for (name, status), words in reversed(first.items()))


@cache
def _beside() -> re.Pattern[str]:
    pattern = compile_pattern(document("text.toml")["beside"]).expression.pattern
    return re.compile(rf"{pattern}\s+(?:[a-z]+\s+){{0,3}}$", re.I)


@cache
def _carries() -> Pattern:
    return compile_pattern(document("text.toml")["carried"])
