"""What is looked for in reports, and the mentions of it in a sentence.

A concept is an abnormality with the words for it and the places that those words need beside them; tables
hold them (``ct_rate.toml``: CT-RATE's 18 labels; ``abnormalities.toml``: the dictionary). A mention
says nothing yet of the whole report: `labels` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from training.mining.assertion import Assertion, assess, clauses
from training.mining.patterns import Pattern, compile_pattern, document
from training.mining.vocabulary import Place, places_in

CT_RATE, DICTIONARY = "ct_rate.toml", "abnormalities.toml"


@dataclass(frozen=True, eq=False)
class Rule:
    """Words for an abnormality, and what they need beside them.

    Attributes
    ----------
    find: the words.
    places: one of these must be named; empty where the words say enough.
    anywhere: with `places`: they count as well where no place is known at all.
    """

    find: Pattern
    places: frozenset[str]
    anywhere: bool


@dataclass(frozen=True, eq=False)
class Concept:
    """An abnormality as reports write it.

    Attributes
    ----------
    name: of the label or of the dictionary.
    organ: reading organ, "" where it is of none.
    rules: any of them makes a mention.
    unless: words that are no mention though a rule finds them.
    normal: words that say that it is absent without naming it.
    """

    name: str
    organ: str
    rules: tuple[Rule, ...]
    unless: Pattern
    normal: Pattern


@dataclass(frozen=True)
class Mention:
    """An abnormality named in a sentence.

    Attributes
    ----------
    concept, organ: its names.
    words: as they stand there.
    assertion: what the sentence says of it.
    """

    concept: str
    organ: str
    words: str
    assertion: Assertion


@cache
def concepts(table: str) -> tuple[Concept, ...]:
    """The concepts of a table (`CT_RATE` or `DICTIONARY`), in its order."""
    return tuple(_concept(entry) for entry in document(table)["concept"])


def _concept(entry: dict[str, Any]) -> Concept:
    rules = tuple(
        Rule(compile_pattern(r["find"]), frozenset(r.get("places", ())), bool(r.get("anywhere", False)))
        for r in entry["rule"]
    )
    return Concept(
        entry["name"],
        entry["organ"],
        rules,
        compile_pattern(entry.get("unless", ())),
        compile_pattern(entry.get("normal", ())),
    )


def mentions(
    sentence: str, looked_for: Sequence[Concept], context: frozenset[str] = frozenset()
) -> tuple[Mention, ...]:
    """The mentions in a sentence, by concept and then by position.

    Parameters
    ----------
    context: places that hold where the sentence names none: of its heading or of the sentence before.
    """
    parts = clauses(sentence)
    places = places_in(sentence)
    found = []
    for concept in looked_for:
        for start, end in _spans(concept, sentence, parts, places, context):
            assertion = assess(sentence, start, end)
            found.append(Mention(concept.name, concept.organ, sentence[start:end], assertion))
        for match in concept.normal.finditer(sentence):
            found.append(Mention(concept.name, concept.organ, match[0], Assertion("absent", match[0])))
    return tuple(found)


def _spans(
    concept: Concept,
    sentence: str,
    parts: Sequence[tuple[int, int]],
    places: Sequence[Place],
    context: frozenset[str],
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    barred: list[tuple[int, int]] | None = None
    for rule in concept.rules:
        for match in rule.find.finditer(sentence):
            start, end = match.span()
            if barred is None:
                barred = [m.span() for m in concept.unless.finditer(sentence)]
            known = any(start < b and a < end for a, b in (*barred, *found))
            if not known and _in_place(rule, start, parts, places, context):
                found.append((start, end))
    return sorted(found)


def _in_place(
    rule: Rule, start: int, parts: Sequence[tuple[int, int]], places: Sequence[Place], context: frozenset[str]
) -> bool:
    if not rule.places:
        return True
    first, last = next((a, b) for a, b in parts if a <= start < b)
    near = {p.name for p in places if first <= p.start < last}
    named = near or {p.name for p in places} or context
    return bool(named & rule.places) or (rule.anywhere and not named)
