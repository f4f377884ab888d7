"""The pattern language of the tables, and how a table is read.

A pattern is a regular expression written for readers of radiology, not of regular expressions: a space
stands for spaces, hyphens or strokes (`` ?`` for none as well), ``*`` after a letter for the rest of a word, ``..`` for up to five words in between, and
everything is matched from the start of a word, in either case. Not a tokenizer: what lies between the
words is left alone.
"""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from typing import Any

GAP_WORDS = 5  # most words that ".." stands for; our choice


def compile_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """One expression that finds any of several patterns, the longest first.

    Raises
    ------
    ValueError: if a pattern is blank or no regular expression; names it.

    >>> compile_pattern(["lymph node*"]).findall("Lymph nodes and a lymph-node")
    ['Lymph nodes', 'lymph-node']
    >>> bool(compile_pattern(["heart .. increas*"]).search("the heart size has increased"))
    True
    """
    parts = [_expression(word) for word in sorted(words, key=len, reverse=True)]
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)" if parts else r"(?!)", re.I)


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
