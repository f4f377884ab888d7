"""What a sentence says of something that it mentions: that it is there, is not, may be, or was.

NegEx's idea (Chapman 2001): a cue before or after the mention, and where its scope ends. Added are clauses,
because translated reports chain them with commas, post-negation over a whole clause, and cues that only look
like negation ("no change in"). Which words are cues is a table. No parser, no coreference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, get_args

from training.mining.patterns import Pattern, compile_pattern, document

Status = Literal["present", "absent", "uncertain", "elsewhere"]
Kind = Literal["none", "absent", "uncertain", "elsewhere"]

RELATIVE_WORDS = 4  # most words between "which" and its verb; our choice

_FRESH = re.compile(
    r";|,\s*(?:an?|the|there|this|these)\b", re.I
)  # after a negation: something of its own begins
_AUXILIARY = re.compile(r"\b(?:is|are|was|were|has been|have been)\s*$", re.I)  # the cue's own verb


@dataclass(frozen=True)
class Assertion:
    """What is said of one mention.

    Attributes
    ----------
    status: "elsewhere" is of another examination, a history or a wish, and says nothing of this one.
    cue: the words that decided, "" where none did and the mention counts as present.
    """

    status: Status
    cue: str = ""


@dataclass(frozen=True)
class _Cue:
    kind: Kind
    before: bool  # it precedes what it is said of
    start: int
    end: int


@dataclass(frozen=True)
class _Cues:
    """The compiled cue table."""

    kinds: tuple[tuple[Kind, bool, Pattern], ...]
    ends: Pattern
    ends_forward: Pattern
    field: re.Pattern[str]
    predicate: Pattern
    closing: re.Pattern[str]
    relative: Pattern
    earlier: Pattern


@cache
def _cues() -> _Cues:
    table = document("cues.toml")
    kinds = tuple(
        (kind, place == "before", compile_pattern(words))
        for kind in get_args(Kind)
        for place, words in table[kind].items()
    )
    return _Cues(
        kinds,
        compile_pattern(table["ends"]["words"]),
        compile_pattern(table["ends"]["forward"]),
        re.compile(rf"\s*:\s*({compile_pattern(table['field']['words']).expression.pattern})", re.I),
        compile_pattern(table["predicate"]["words"]),
        re.compile(rf"{compile_pattern(table['predicate']['closing']).expression.pattern}\s*$", re.I),
        compile_pattern(table["relative"]["words"]),
        compile_pattern(table["earlier"]["words"]),
    )


@lru_cache(maxsize=4096)
def clauses(sentence: str) -> tuple[tuple[int, int], ...]:
    """The clauses of a sentence as (start, end), without gaps; all but the last have a predicate.

    >>> s = "Heart size is normal, pericardial effusion was not observed."
    >>> [s[a:b] for a, b in clauses(s)]
    ['Heart size is normal,', ' pericardial effusion was not observed.']
    """
    cues = _cues()
    breaks = [*re.finditer(r";|,|(?<=\w)\s+(?:and|but|while|whereas|however|although)(?=\s)", sentence)]
    found, start = [], 0
    for k, gap in enumerate(breaks):
        end = breaks[k + 1].start() if k + 1 < len(breaks) else len(sentence)
        left, right = sentence[start : gap.start()], sentence[gap.end() : end]
        hard = gap[0] == ";" or gap[0].strip().lower() in {"but", "while", "whereas", "however", "although"}
        if left.strip() and (hard or (_stands(left, cues) and _opens(right, cues))):
            found.append((start, gap.end()))
            start = gap.end()
    return (*found, (start, len(sentence)))


def _stands(text: str, cues: _Cues) -> bool:
    """Whether a piece has a predicate, and not only in a relative clause."""
    return bool(cues.closing.search(text)) or any(
        not _is_relative(text[: p.start()], cues) for p in cues.predicate.finditer(text)
    )


def _opens(text: str, cues: _Cues) -> bool:
    """Whether a piece begins a clause: a subject and then its predicate, or a new negation."""
    predicate = cues.predicate.search(text)
    if predicate is None:
        return re.match(r"\s*(?:no|none|not|without)\b", text, re.I) is not None
    subject = re.sub(r"^\s*(?:and|or|but)\b", "", text[: predicate.start()])
    return bool(re.search(r"\w", subject)) and not _is_relative(text[: predicate.start()], cues)


def _is_relative(before: str, cues: _Cues) -> bool:
    """Whether what comes before a predicate makes it one of a relative clause."""
    ends = [match.end() for match in cues.relative.finditer(before)]
    if not ends:
        return False
    since = before[ends[-1] :]
    return len(since.split()) <= RELATIVE_WORDS and "," not in since


def assess(sentence: str, start: int, end: int) -> Assertion:
    """What a sentence says of the mention in [start, end) of it.

    >>> s = "No pleural effusion; mild atelectasis, possibly pneumonia."
    >>> [assess(s, s.index(w), s.index(w) + len(w)).status for w in ("effusion", "atelectasis", "pneumonia")]
    ['absent', 'present', 'uncertain']
    """
    if field := _cues().field.match(sentence, end):
        return Assertion("absent", field[1])
    first, last = next((a, b) for a, b in clauses(sentence) if a <= start < b)
    reaching = [c for c in _in_clause(sentence, first, last) if _reaches(sentence, c, start, end)]
    for kind in ("absent", "elsewhere", "uncertain"):
        for cue in reaching:
            if cue.kind == kind:
                return Assertion(kind, sentence[cue.start : cue.end])
    if re.match(r"[^.,;()]{0,60}\?", sentence[end:last]):
        return Assertion("uncertain", "?")
    return Assertion("present")


def _in_clause(sentence: str, first: int, last: int) -> list[_Cue]:
    """The cues of a clause: a longer one hides those within it, and what only looks like one is left out."""
    found: list[_Cue] = []
    for kind, before, pattern in _cues().kinds:
        for match in pattern.finditer(sentence, first, last):
            found.append(_Cue(kind, before, match.start(), match.end()))
    found.sort(key=lambda c: (c.start - c.end, c.kind != "none"))
    kept: list[_Cue] = []
    for cue in found:
        hidden = any(cue.start < k.end and k.start < cue.end and not _same(cue, k) for k in kept)
        if not hidden:
            kept.append(cue)
    return [cue for cue in kept if cue.kind != "none"]


def _same(one: _Cue, other: _Cue) -> bool:
    """Whether the same words are a cue on both sides: "none" before or after."""
    return (one.kind, one.start, one.end) == (other.kind, other.start, other.end)


def _reaches(sentence: str, cue: _Cue, start: int, end: int) -> bool:
    """Whether a cue's scope covers the mention."""
    cues = _cues()
    if cue.start < end and start < cue.end:
        return True
    if cue.before:
        if cue.end > start:
            return False
        between = sentence[cue.end : start]
        ended = (
            cues.ends.search(between)
            or cues.ends_forward.search(between)
            or _FRESH.search(between + sentence[start : start + 1])
        )
        return not ended and not (cue.kind == "absent" and _asserted(between, cues))
    if cue.start < end:
        return False
    between = _AUXILIARY.sub("", sentence[end : cue.start])
    return not cues.ends.search(between) and not _asserted(between, cues)


def _asserted(between: str, cues: _Cues) -> bool:
    """Whether words between mention and cue say already what the mention is: the cue is not for it."""
    for predicate in cues.predicate.finditer(between):
        if not _is_relative(between[: predicate.start()], cues) and not cues.earlier.search(between):
            return True
    return False
