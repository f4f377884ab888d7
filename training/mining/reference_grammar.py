"""The grammar of references to images: tokens of a sentence, and what a run of them may mean.

Reads "series 3, image 204", "images 45-52 of series 2", "se4 im77", "IMA 8-34", "(3/263, 265; 4/38)". It
proposes; `references` decides what is too doubtful to keep, with the whole report in view.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from training.mining.patterns import document

Form = Literal["worded", "image", "pair", "bare pair"]

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|\d+(?:\.\d+)?|[^\W\d_]+(?:\(s\))?|\S")
_OPEN, _CLOSE, _PARTS, _SIGNS = "([", ")]", ",;", "#:=."
_DASHES = "-\u2010\u2011\u2012\u2013\u2014"
_CONTEXT = {"score", "date_or_level"}  # words around a pair, of no kind of their own
_MARKS = frozenset("/-:")
_GAP = frozenset({*",;:/.()-[", "of", "filler", "phase", "axial", "other_plane"})  # between series and image
LONGEST_RANGE = 60  # images; our choice
HIGHEST_SERIES = 30  # of a bare pair: more is a blood pressure, an area code or an image; our choice


@dataclass(frozen=True)
class Token:
    """A word, an integer ("number"), another figure ("figure") or a sign (its own kind) of a sentence."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def value(self) -> int:
        """Of a number."""
        return int(self.text)


@dataclass(frozen=True)
class Proposal:
    """What may be a reference.

    Attributes
    ----------
    form: "worded" names series and image by words, "image" the image alone, "pair" two numbers after a word,
        "bare pair" two numbers in brackets.
    series, images, total: as in `references.Reference`.
    mark: between the numbers of a pair, "" else.
    first, last: index of its tokens, both included.
    doubt: why it cannot be one, "" where nothing speaks against it.
    """

    form: Form
    series: int | None
    images: tuple[int, ...]
    total: int | None
    mark: str
    first: int
    last: int
    doubt: str = ""


@cache
def _kinds() -> dict[str, str]:
    table = document("references.toml")
    return {word: kind for kind, words in reversed(table.items()) if kind not in _CONTEXT for word in words}


def tokens(sentence: str) -> tuple[Token, ...]:
    """The tokens of a sentence; a decimal is one figure, "se4" is two tokens."""
    found = []
    for match in _TOKEN.finditer(sentence):
        text = match[0]
        kind = _kinds().get(text.lower().replace("(s)", "s"), "word" if text[0].isalpha() else text)
        if text[0].isdigit():
            kind = "number" if text.isascii() and text.isdigit() and len(text) <= 4 else "figure"
        found.append(Token("-" if text in _DASHES else kind, text, match.start(), match.end()))
    return tuple(found)


def proposals(found: Sequence[Token]) -> tuple[Proposal, ...]:
    """All that may be references in the tokens of a sentence, in order and without overlap."""
    parser, result, at = _Parser(found), [], 0
    while at < len(found):
        read = parser.at(at)
        result += read
        at = max([at, *(p.last for p in read)]) + 1
    return tuple(result)


class _Parser:
    """Reads proposals at given tokens."""

    def __init__(self, found: Sequence[Token]) -> None:
        self.tokens = found

    def at(self, at: int) -> list[Proposal]:
        """The proposals that begin at a token; several only for a list in brackets."""
        kind = self.kind(at)
        read: list[Proposal | None] = []
        if kind == "series":
            read = [self.series_first(at)]
        elif kind in {"image", "images"}:
            read = [self.image_first(at)]
        elif self.text(at) == "s":
            read = [self.letters(at)]
        elif self.is_number(at) and self.kind(at - 1) in {*_OPEN, *_PARTS} and self.kind(at + 1) == "image":
            read = [self.listed(at, at + 1, self.value(at))]  # (3 image 204)
        elif kind in _OPEN:
            read = [*self.in_brackets(at)]
        return [p for p in read if p is not None]

    def kind(self, at: int) -> str:
        return self.tokens[at].kind if 0 <= at < len(self.tokens) else ""

    def text(self, at: int) -> str:
        return self.tokens[at].text.lower() if 0 <= at < len(self.tokens) else ""

    def value(self, at: int) -> int:
        return self.tokens[at].value

    def skip(self, at: int, kinds: str | frozenset[str], most: int = 4) -> int:
        """The first token from `at` that is none of some kinds."""
        end = at + most
        while at < end and self.kind(at) and self.kind(at) in kinds:
            at += 1
        return at

    def is_number(self, at: int) -> bool:
        """Whether a number stands here that is no measure, nor the lower end of one."""
        if self.kind(at) != "number":
            return False
        following = self.skip(at + 1, "-", 1)
        if self.kind(at + 1) in _MARKS | {"to", "join"} and self.kind(at + 2) in {"number", "figure"}:
            following = self.skip(at + 3, "-", 1)
        return self.kind(following) != "unit" and self.kind(at + 1) != "unit"

    def number(self, at: int) -> int | None:
        """The index of a number after signs such as "#" or "no."."""
        at = self.skip(at, frozenset({"sign", *_SIGNS}))
        return at if self.is_number(at) else None

    def series_first(self, at: int) -> Proposal | None:
        """series 3, image 204 | series/image 3/204 | series 3/204."""
        together = self.skip(at + 1, frozenset({"/", "-", "join"}), 1)
        if self.kind(together) in {"image", "images"}:
            return self.pair_after(at, together + 1)
        n = self.number(at + 1)
        if n is None:
            return None
        gap = self.skip(n + 1, _GAP, 5)
        if self.kind(gap) in {"image", "images"}:
            return self.listed(at, gap, self.value(n))
        if self.kind(n + 1) in {"join", ","} and self.is_number(n + 2):
            gap = self.skip(n + 3, frozenset({*",;:("}), 2)
            if self.kind(gap) in {"image", "images"} and (m := self.number(gap + 1)) is not None:
                return Proposal("worded", None, (self.value(m),), None, "", at, m, "names several series")
        return self.pair_after(at, n)

    def letters(self, at: int) -> Proposal | None:
        """s3 i45 and s:3, i:45; s3/45 is none."""
        n = self.skip(at + 1, ":", 1)
        i = self.skip(n + 1, ",/:-", 1)
        m = self.skip(i + 1, ":", 1)
        if not self.is_number(n) or self.text(i) != "i" or not self.is_number(m):
            return None
        return Proposal("worded", self.value(n), (self.value(m),), None, "", at, m)

    def pair_after(self, at: int, n: int) -> Proposal | None:
        """The pair that stands after a word."""
        start = self.number(n)
        if start is None or self.kind(start + 1) not in _MARKS or not self.is_number(start + 2):
            return None
        a, b, last = self.value(start), self.value(start + 2), start + 2
        following, doubt = self.skip(last + 1, _GAP, 3), ""
        if self.kind(following) in {"image", "images"}:
            last, doubt = self.number(following + 1) or last, "names several series"
        return Proposal("pair", a, (b,), None, self.kind(start + 1), at, last, doubt)

    def image_first(self, at: int) -> Proposal | None:
        """image 204 of series 3 | images 45, 48 and 52 | image 45 of 120 | IMA 8-34."""
        together = self.skip(at + 1, "/-", 1)
        if self.kind(together) == "series":
            return None  # "image/series 204/3": which is which is not certain
        return self.listed(at, at, None)

    def listed(self, first: int, word: int, series: int | None) -> Proposal | None:
        """The numbers after an image word, and the series or the total after them."""
        n = self.number(word + 1)
        if n is None:
            return None
        mark = self.kind(n + 1)
        may_pair = series is None and self.kind(word) == "image" and self.value(n) <= HIGHEST_SERIES
        if may_pair and mark in _MARKS and self.is_number(n + 2):
            after, last = self.series_after(n + 3)
            if after is None:
                return Proposal("pair", self.value(n), (self.value(n + 2),), None, mark, first, n + 2)
        numbers, last, total, doubt = self.numbers(n, plural=self.kind(word) == "images")
        if series is None:
            series, last = self.series_after(last + 1)
        if self.text(last + 1) == "of" and self.is_number(last + 2):
            total, last = self.value(last + 2), last + 2
        form: Form = "image" if series is None else "worded"
        return Proposal(form, series, tuple(numbers), total, "", first, last, doubt)

    def numbers(self, n: int, *, plural: bool) -> tuple[list[int], int, int | None, str]:
        """A list of numbers and ranges from its first number on.

        Returns
        -------
        The numbers, the index of the last token, the total in "45/120", and what makes them doubtful.
        """
        found, at, total, doubt = [self.value(n)], n, None, ""
        while True:
            mark = self.kind(at + 1)
            if mark in {"-", "to"} and self.is_number(at + 2):
                a, b = found[-1], self.value(at + 2)
                if not a < b <= a + LONGEST_RANGE:
                    doubt = "a range that runs backwards or is too long to be one place"
                else:
                    found += range(a + 1, b + 1)
                at += 2
            elif mark == "/" and self.is_number(at + 2) and not plural and found == [self.value(n)]:
                total, at = self.value(at + 2), at + 2
            elif (following := self.next_number(at, plural=plural)) is not None:
                found.append(self.value(following))
                at = following
            else:
                return found, at, total, doubt

    def next_number(self, at: int, *, plural: bool) -> int | None:
        """The index of the number that goes on with a list after token `at`, or None."""
        start = self.skip(at + 1, frozenset({*",;/", "join"}), 2)
        if start == at + 1:
            return None
        n = self.skip(start, frozenset({"image", "images"}), 1)
        following = self.kind(n + 1)
        if not self.is_number(n) or following in {"word", "figure", "filler", "phase"}:
            return None
        if following == "verb" and not plural:
            return None
        return None if following in {"/", ":"} and self.kind(n + 2) == "number" else n

    def series_after(self, at: int) -> tuple[int | None, int]:
        """The series that follows an image, and the index of the last token that was read."""
        word = self.skip(at, _GAP, 4)
        n = self.number(word + 1) if self.kind(word) == "series" else None
        if n is None:
            return None, at - 1
        has_own = self.kind(self.skip(n + 1, ",:(", 2)) in {"image", "images"}
        if has_own and self.kind(at) != "of":  # "image 45, series 4 image 50"
            return None, at - 1
        return self.value(n), n

    def in_brackets(self, at: int) -> list[Proposal]:
        """(3/204) | (3/263, 265; 4/38) | (axial 3/204) | (3/45-52)."""
        close = next((k for k in range(at + 1, len(self.tokens)) if self.kind(k) in _CLOSE), None)
        if close is None or any(self.kind(k) in {"series", "image", "images"} for k in range(at, close)):
            return []
        found: list[Proposal] = []
        start = at + 1
        for k in range(start, close + 1):
            if k == close or self.kind(k) in {*_PARTS, "join"}:
                part = self.bracket_part(start, k, found[-1] if found else None)
                found += [part] if part else []
                start = k + 1
        return found

    def bracket_part(self, first: int, end: int, before: Proposal | None) -> Proposal | None:
        n = self.skip(first, frozenset({"filler", "axial", "other_plane", "earlier", "of", ":"}))
        kinds = [self.kind(k) for k in range(n, end)]
        if not kinds or kinds[0] != "number" or not all(k == "number" or k in _MARKS for k in kinds):
            return None
        values = [self.value(k) for k in range(n, end) if self.kind(k) == "number"]
        if len(kinds) != 2 * len(values) - 1:
            return None
        if len(values) == 1 and before is not None and before.last == first - 2:
            return Proposal("bare pair", before.series, (values[0],), None, before.mark, first, end - 1)
        if len(values) == 2:
            return Proposal("bare pair", values[0], (values[1],), None, kinds[1], first, end - 1)
        if len(values) == 3 and kinds[1] in {"/", ":"} and kinds[3] == "-" and values[1] < values[2]:
            images = tuple(range(values[1], min(values[2], values[1] + LONGEST_RANGE) + 1))
            return Proposal("bare pair", values[0], images, None, kinds[1], first, end - 1)
        return None
