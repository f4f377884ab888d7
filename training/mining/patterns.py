"""The pattern language of the tables, and how a table is read.

A pattern is a regular expression written for readers of radiology, not of regular expressions: a space
stands for spaces, hyphens or strokes (`` ?`` for none as well), ``*`` after a letter for the rest of a word,
``..`` for up to five words in between, and everything is matched from the start of a word, in either case.
Not a tokenizer: what lies between the words is left alone.
"""

from __future__ import annotations

import csv
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

GAP_WORDS = 5  # most words that ".." stands for; our choice
FEWEST_LETTERS = 3


@dataclass(frozen=True, eq=False)
class Pattern:
    """Several patterns as one; texts that hold none of their fixed letters are passed over, which is fast.

    Attributes
    ----------
    expression: all of them, the longest first.
    letters: one run of lower-case letters of each; None where one has no run that is long enough.
    """

    expression: re.Pattern[str]
    letters: tuple[str, ...] | None

    def may_match(self, text: str) -> bool:
        """False where `text` cannot match."""
        if self.letters is None:
            return True
        lower = text.lower()
        for run in self.letters:  # noqa: SIM110 - a generator is half as fast, and this runs most of all
            if run in lower:
                return True
        return False

    def finditer(self, text: str, start: int = 0, end: int = sys.maxsize) -> Iterator[re.Match[str]]:
        """As of `re.Pattern`."""
        return self.expression.finditer(text, start, end) if self.may_match(text) else iter(())

    def search(self, text: str) -> re.Match[str] | None:
        """As of `re.Pattern`."""
        return self.expression.search(text) if self.may_match(text) else None


def compile_pattern(words: Iterable[str]) -> Pattern:
    """One expression that finds any of several patterns, the longest first.

    Raises
    ------
    ValueError: if a pattern is blank or no regular expression; names it.

    >>> [m[0] for m in compile_pattern(["lymph node*"]).finditer("Lymph nodes and a lymph-node")]
    ['Lymph nodes', 'lymph-node']
    >>> bool(compile_pattern(["heart .. increas*"]).search("the heart size has increased"))
    True
    """
    ordered = sorted((part for word in words for part in _alternatives(word)), key=len, reverse=True)
    parts = "|".join(_expression(word) for word in ordered)
    runs = [_letters(word) for word in ordered]
    expression = re.compile(rf"(?<!\w)(?:{parts})(?!\w)" if parts else r"(?!)", re.I)
    return Pattern(expression, tuple(dict.fromkeys(runs)) if all(runs) else None)


def _letters(pattern: str) -> str:
    """The longest run of letters that a pattern cannot do without, "" where it tells no texts apart."""
    runs = re.findall(r"[a-z]+", re.sub(r"\[[^]]*\]|\\.|\w\?", " ", _without_groups(pattern).lower()))
    longest = max(runs, key=len, default="")
    return longest if len(longest) >= FEWEST_LETTERS else ""


def _alternatives(pattern: str) -> list[str]:
    """A pattern cut at the bars that stand in no group, so that the longest can come first."""
    found, depth = [""], 0
    for character in pattern:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return found


def _without_groups(pattern: str) -> str:
    while (inner := re.sub(r"\([^()]*\)\??", " ", pattern)) != pattern:
        pattern = inner
    return pattern


def _expression(words: str) -> str:
    if not words.strip():
        raise ValueError("a pattern is blank; remove it or write a word")
    gap = rf"(?:[^\\w;:.]+\\w+(?:\\.\\d+)?){{0,{GAP_WORDS}}}?[^\\w;:.]+"
    expression = re.sub(r"\s*\.\.\s*", gap, re.sub(r"(?<=\w)\*", r"\\w*", words.strip()))
    expression = re.sub(r" +", r"[\\s/-]+", re.sub(r" +\?", r"[\\s/-]*", expression))
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"pattern {words!r} is no regular expression: {error}") from error
    return expression


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a CSV table of this package."""
    return list(csv.DictReader(_text(name).splitlines()))


def document(name: str) -> dict[str, Any]:
    """The content of a TOML table of this package."""
    return tomllib.loads(_text(name))


def _text(name: str) -> str:
    return (resources.files("training.mining") / "tables" / name).read_text(encoding="utf-8")
