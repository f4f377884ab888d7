"""References to images in reports: "series 3, image 204", "(3/204)", "IMA 8-34", "se 4 im 77".

Precision before recall: what may be a date, a fraction, a score, a measure, a vertebral level or an image of
an earlier examination is dropped, with its reason. Where in the scan an image lies is not decided here but in
`positions`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from training.mining.patterns import document
from training.mining.reference_grammar import HIGHEST_SERIES, Proposal, Token, proposals, tokens
from training.mining.text import Sentence, sentences

Plane = Literal["axial", "other", ""]

# Bounds that keep pairs of bare numbers apart from dates, times, fractions and ranges; our choice.
FRACTION = 10  # "(3/4)", "(4/10)": never an image
NO_DATE = 32  # an image number from here on is neither day nor month
NO_TIME = 60
CLEAR_SERIES, CLEAR_IMAGE = 15, 50  # "(6-131)" cannot be meant as a range, "(10-20)" can
CLEAR_GAP = 20  # "IMA 8-34" is no range of images
YEARS = range(1900, 2101)
MONTHS, SHORT_YEARS = 12, range(60, 100)  # "CT of (3/98)"
_UNCHANGED = re.compile(r"\b(?:unchanged|stable|similar)\W+(?:\w+\W+){0,3}$", re.I)
SECTION = 12  # up to here "section 8" may be a segment


@dataclass(frozen=True)
class Reference:
    """Images that a sentence names.

    Attributes
    ----------
    series: its number, None where only an image is named.
    images: their numbers, each of "images 45-52".
    total: the count of images in "image 45 of 120", else None.
    plane: "other" where the words say coronal, sagittal or the like, "" where they say nothing.
    words: as they stand there.
    start, end: in the sentence.
    """

    series: int | None
    images: tuple[int, ...]
    total: int | None
    plane: Plane
    words: str
    start: int
    end: int


@dataclass(frozen=True)
class DroppedReference:
    """Words that look like a reference but are not taken for one, and why."""

    words: str
    reason: str
    start: int
    end: int


@dataclass(frozen=True)
class ReferringSentence:
    """A sentence that names images, or seems to.

    Attributes
    ----------
    text: the sentence without its references.
    """

    sentence: Sentence
    references: tuple[Reference, ...]
    dropped: tuple[DroppedReference, ...]
    text: str


@dataclass(frozen=True)
class Habit:
    """How a report refers to images, from those references that leave no doubt.

    Attributes
    ----------
    series: the series that it names.
    marks: what it puts between series and image where both are bare numbers.
    """

    series: frozenset[int] = frozenset()
    marks: frozenset[str] = frozenset()


def referring_sentences(report: str) -> tuple[ReferringSentence, ...]:
    """The sentences of a report with what may be a reference, in order.

    >>> [r.references[0].images for r in referring_sentences("Cyst (series 3, image 47). Nodule 3/5 mm.")]
    [(47,)]
    """
    read = [(s, tokens(s.text)) for s in sentences(report)]
    proposed = [(s, t, proposals(t)) for s, t in read]
    habit = habit_of([p for _, _, ps in proposed for p in ps])
    found = (_decide(s, t, ps, habit) for s, t, ps in proposed if ps)
    return tuple(r for r in found if r.references or r.dropped)


def habit_of(proposed: Sequence[Proposal]) -> Habit:
    """How a report refers, from all that it may refer by."""
    series, marks = set(), set()
    for p in proposed:
        if p.series is None or p.doubt or _doubt(p, Habit()):
            continue
        series.add(p.series)
        if p.mark:
            marks.add(p.mark)
    return Habit(frozenset(series), frozenset(marks))


def _decide(
    sentence: Sentence, found: Sequence[Token], proposed: Sequence[Proposal], habit: Habit
) -> ReferringSentence:
    kept: list[Reference] = []
    dropped: list[DroppedReference] = []
    for p in proposed:
        start, end = _span(sentence.text, found, p)
        words = sentence.text[start:end]
        reason = p.doubt or _doubt(p, habit) or _context_doubt(p, found, sentence.text)
        if reason:
            dropped.append(DroppedReference(words, reason, start, end))
        else:
            kept.append(Reference(p.series, p.images, p.total, _plane(found, p), words, start, end))
    spans = [*((r.start, r.end) for r in kept), *((d.start, d.end) for d in dropped)]
    text = without(sentence.text, spans if kept else ())
    return ReferringSentence(sentence, tuple(kept), tuple(dropped), text)


def _span(text: str, found: Sequence[Token], p: Proposal) -> tuple[int, int]:
    """Where a proposal stands, with the bracket that closes one of its own."""
    start, end = found[p.first].start, found[p.last].end
    words = text[start:end]
    closes = words.count("(") > words.count(")") and text[end : end + 1] == ")"
    return start, end + closes


def _doubt(p: Proposal, habit: Habit) -> str:
    """What speaks against a proposal by its numbers alone, "" for nothing."""
    if 0 in p.images or p.series == 0:
        return "0 numbers no image"
    if p.form == "worded":
        return ""
    if p.form == "image":
        return "may be a year" if any(i in YEARS for i in p.images) else ""
    return _pair_doubt(p, habit) if p.form == "pair" else _bare_doubt(p, habit)


def _pair_doubt(p: Proposal, habit: Habit) -> str:
    """Of two numbers after a word: "IMA 8-34", "series 3/204"."""
    assert p.series is not None
    a, b = p.series, p.images[0]
    usual = p.mark in habit.marks and a in habit.series
    if p.mark == "-":
        clear = a <= CLEAR_SERIES and (b - a > CLEAR_GAP or b < a)
        return "" if clear or usual else "may be a range of images"
    return "" if a <= HIGHEST_SERIES or usual else "may be an image and how many there are"


def _bare_doubt(p: Proposal, habit: Habit) -> str:
    """Of two numbers in brackets and nothing else."""
    assert p.series is not None
    a, b = p.series, p.images[0]
    usual = p.mark in habit.marks and a in habit.series
    doubts = (
        (b in YEARS, "may be a date"),
        (b <= FRACTION, "may be a fraction or a score"),
        (a > HIGHEST_SERIES and a not in habit.series, "no series has such a number"),
        (p.mark == "/" and b < NO_DATE and not usual, "may be a date"),
        (p.mark == ":" and b < NO_TIME and not usual, "may be a time or a ratio"),
        (p.mark == "-" and (a > CLEAR_SERIES or b < CLEAR_IMAGE) and not usual, "may be a range"),
    )
    return next((reason for holds, reason in doubts if holds), "")


def _context_doubt(p: Proposal, found: Sequence[Token], text: str) -> str:
    """What the words around speak against it."""
    before, after = text[: found[p.first].start], text[found[p.last].end :]
    own = found[p.first : p.last + 1]
    if any(t.kind == "earlier" for t in own) or _is_earlier(before) or _earlier_after().match(after):
        return "is of an earlier examination"
    if p.form == "bare pair":
        outside = re.sub(r"[(\[][^()\[\]]*$", "", before)
        kinds = ("score", "date_or_level") if _dateable(p) else ("score",)
        if any(_after_word(kind).search(outside) for kind in kinds):
            return "stands after words of a date, a score or a level"
        return "may be a date" if any(re.match(r"0\d", t.text) for t in own) else ""
    return _image_doubt(p, own[0].text, before) if p.form == "image" else ""


def _image_doubt(p: Proposal, word: str, before: str) -> str:
    """What speaks against an image that is named without its series."""
    if re.search(r"\bkey\s*$", before, re.I):
        return "counts key images"
    if word == "im" and before.count("(") <= before.count(")"):
        return "may be another word"  # German: "im 4. Segment"
    if word.lower().startswith(("section", "cut")) and max(p.images) <= SECTION:
        return "may be a segment or a chapter"
    return ""


def _is_earlier(before: str) -> bool:
    """Whether words lead to an earlier image: "previously 4 mm (" do, "unchanged from prior (" do not."""
    match = _earlier_before().search(before)
    return match is not None and not _UNCHANGED.search(before[: match.start()])


def _dateable(p: Proposal) -> bool:
    """Whether the numbers of a pair may be a day, a month and year, or levels."""
    assert p.series is not None
    return p.images[0] < NO_DATE or (p.series <= MONTHS and p.images[0] in SHORT_YEARS)


@cache
def _after_word(kind: str) -> re.Pattern[str]:
    words = "|".join(document("references.toml")[kind])
    return re.compile(rf"(?<![^\W\d])(?:{words})(?:\s+(?:is|was|of|are))?[\s.:,=]*$", re.I)


@cache
def _earlier_before() -> re.Pattern[str]:
    words = "|".join(document("references.toml")["earlier"])
    between = "mm|cm|was|were|measured|measuring|at|on|in|of|the|study|exam|examination|ct|scan|axial"
    return re.compile(rf"(?<!\w)(?:{words})(?:[\s:(\[]|\d[\d.,x\u00d7/-]*+|\b(?:{between})\b)*$", re.I)


@cache
def _earlier_after() -> re.Pattern[str]:
    words = "|".join(document("references.toml")["earlier"])
    return re.compile(rf"\s*[)\]]?,?\s*(?:of|on|in|from)\s+(?:the\s+|an?\s+)?(?:{words})(?!\w)", re.I)


def _plane(found: Sequence[Token], p: Proposal) -> Plane:
    """The plane that stands in a reference or just before it."""
    kinds = {t.kind for t in found[max(0, p.first - 2) : p.last + 1]}
    if "other_plane" in kinds:
        return "other"
    return "axial" if "axial" in kinds else ""


def without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """A text without some spans, and without brackets and marks that are left empty.

    >>> without("Cyst (3/47), stable.", [(6, 10)])
    'Cyst, stable.'
    """
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]}\0{text[end:]}"
    text = re.sub(r"\s*[(\[](?:[\s,;:.&]|and|\0)*\0(?:[\s,;:.&]|and|\0)*[)\]]", "", text)
    text = re.sub(r"(?<=[(\[])\0[\s,;]*", "", text)
    text = re.sub(
        r"\s*[(\[]\s*(?:previously|formerly|prior|earlier|compared to|was)?[\s,;:]*\0\s*[)\]]",
        "",
        text,
        flags=re.I,
    )
    text = re.sub(r"\s*[,;]?\s*(?:\b(?:on|see|at|in|and|of|axial)\s+)*\0", "", text, flags=re.I)
    text = re.sub(r"\s*[(\[]\s*(?:axial|coronal|sagittal)?\s*[)\]]", "", text, flags=re.I)
    text = re.sub(r"\s+([.,;)])", r"\1", re.sub(r"\s{2,}", " ", text))
    return text.strip().lstrip(",;:. ")
