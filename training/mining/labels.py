"""What a report says of each abnormality: present, absent, uncertain, or nothing.

Every sentence of the findings and the impression counts; history, technique and comparison do not. One
mention as present outweighs any as absent, because a report denies on one side what it finds on the other.
Unknown is kept apart from absent: silence is no finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from training.mining.concepts import CT_RATE, Concept, Mention, concepts, mentions
from training.mining.text import SILENT, Sentence, sentences
from training.mining.vocabulary import places_in

Presence = Literal["present", "absent", "uncertain", "unknown"]


@dataclass(frozen=True)
class Label:
    """One abnormality of one report.

    Attributes
    ----------
    concept: its name.
    presence: what the report says.
    evidence: the sentences that say so; empty where it is unknown.
    """

    concept: str
    presence: Presence
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class ReadSentence:
    """A sentence and the abnormalities that it mentions."""

    sentence: Sentence
    mentions: tuple[Mention, ...]


def read_sentences(report: str, looked_for: Sequence[Concept]) -> Iterator[ReadSentence]:
    """The sentences of a report that speak of this scan, with their mentions."""
    context: frozenset[str] = frozenset()
    for sentence in sentences(report):
        if sentence.section in SILENT:
            continue
        heading = frozenset(p.name for p in places_in(sentence.heading))
        if sentence.item or heading:
            context = heading
        yield ReadSentence(sentence, mentions(sentence.text, looked_for, context))
        context = frozenset(p.name for p in places_in(sentence.text)) or context


def labels(report: str, looked_for: Sequence[Concept] | None = None) -> tuple[Label, ...]:
    """What a report says of each concept, in their order.

    Parameters
    ----------
    looked_for: CT-RATE's 18 labels unless given.

    >>> {x.concept: x.presence for x in labels("No pleural effusion.") if x.presence != "unknown"}
    {'Pleural effusion': 'absent'}
    """
    sought = concepts(CT_RATE) if looked_for is None else looked_for
    read = list(read_sentences(report, sought))
    return tuple(_label(concept.name, read) for concept in sought)


def _label(concept: str, read: Sequence[ReadSentence]) -> Label:
    for status in ("present", "uncertain", "absent"):
        evidence = tuple(
            r.sentence.text
            for r in read
            if any(m.concept == concept and m.assertion.status == status for m in r.mentions)
        )
        if evidence:
            return Label(concept, status, evidence)
    return Label(concept, "unknown", ())
