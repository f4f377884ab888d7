"""A report cut into sentences, each with its section and heading.

Robust to what reports do: abbreviations, decimals, dates, numbered lists, bullets, lines that are wrapped
or that end without a full stop, and full stops without a space. Not a grammar, and no word of meaning:
what a sentence says is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from training.mining.patterns import Pattern, compile_pattern, document

WRAPPED = 0.8  # of the longest line: a line this long may go on in the next; our choice
WRAPPED_LINES = range(50, 131)  # characters of the longest line of a report that is wrapped; our choice
LONGEST_BRACKET = 120  # characters in which a bracket must close to hold a sentence together; our choice
SILENT = frozenset({"history", "technique", "comparison"})  # sections that say nothing of this scan
HEADING = 60  # longest heading in characters; our choice

_BULLET = re.compile(
    r"""(?: [•●▪■*] | [-\u2013\u2014](?=\s) | \(?\d{1,2}[.)](?:-|\))?(?=\s|[A-Z]) | \d{1,2}-\)?(?=\s)
    | [a-h]\) | ["“”»] )\s*""",
    re.X,
)
_INLINE_BULLET = re.compile(
    r"""[•●▪■] | (?<!\d)["“”](?!,) | (?<=[.;])\s+[-\u2013\u2014](?=\s*[A-Z])
    | (?<=[.:;])\s+\d{1,2}[.)](?=\s+[A-Z])""",
    re.X,
)
_STOP = re.compile(r"[.!?]+[)\]\"”]?(?=\s|$|[A-Z][a-z]|[\"“•])")
_SAID = re.compile(r"\d|\b(?:is|are|was|were|be|which|including)\b")
_HEADING = re.compile(rf"\s*([A-Za-z][^:.\n;!?]{{1,{HEADING}}}?)\s*:(?!\d)\s*")


@dataclass(frozen=True)
class Sentence:
    """One sentence of a report.

    Attributes
    ----------
    text: without its bullet, white space as single spaces. "Liver: normal." keeps its heading.
    section: "findings", "impression", "history", "technique", "comparison", or "" where no heading said.
    heading: of its paragraph or, on a line of its own, above it, e.g. "Liver"; never a section's; may be "".
    item: True if it opens an item of a list or a paragraph: it need not go on from the sentence before.
    """

    text: str
    section: str = ""
    heading: str = ""
    item: bool = False


def sentences(report: str) -> tuple[Sentence, ...]:
    """The sentences of a report, in order; empty where the report is.

    >>> [s.text for s in sentences("FINDINGS: Nodule of 3.5 mm, approx. 2 cm from the hilum. No mass.")]
    ['Nodule of 3.5 mm, approx. 2 cm from the hilum.', 'No mass.']
    """
    found: list[Sentence] = []
    section = standing = ""
    for block, after_blank in _blocks(report):
        if after_blank and section in SILENT and found and found[-1].section == section:
            section = ""  # "COMPARISON: None." and an empty line: what follows has no heading
        text, heading = block, ""
        while named := _HEADING.match(text):
            kind, rest = _section_of(named[1]), text[named.end() :]
            if kind is not None:
                section, standing, text = kind, "", rest
                continue
            heading = named[1].strip() if _is_heading(named[1]) else ""
            if heading and not rest.strip():
                standing, text = heading, ""
            break
        if heading and section in {"technique", "comparison"}:
            section = ""  # "Lungs: ..." after them is a finding
        bare = _section_of(text.strip().rstrip("."))
        if bare is not None:
            section, standing = bare, ""
            continue
        for k, piece in enumerate(_split(text)):
            found.append(Sentence(piece, section, heading or standing, item=k == 0))
    return tuple(found)


@cache
def _sections() -> tuple[tuple[Pattern, str], ...]:
    return tuple((compile_pattern(words), name) for name, words in document("text.toml")["sections"].items())


@cache
def _abbreviations() -> re.Pattern[str]:
    words = "|".join(map(re.escape, document("text.toml")["abbreviations"]))
    return re.compile(rf"(?:(?<!\w)(?:{words})|(?<!\w)[A-Z])\.$", re.I)


def _section_of(heading: str) -> str | None:
    """The section that a heading opens, or None."""
    for pattern, name in _sections():
        if pattern.expression.fullmatch(heading.strip()):
            return name
    return None


def _is_heading(words: str) -> bool:
    """Whether words before a colon name what follows, rather than being said of it."""
    return len(words.split()) <= 5 and words[0].isupper() and not _SAID.search(words)


def _blocks(report: str) -> Iterator[tuple[str, bool]]:
    """Paragraphs and list items, between which no sentence goes on, and whether an empty line is before."""
    block, last, blank = "", "", False
    lines = report.replace("\r", "").replace("\0", " ").split("\n")
    longest = max(map(len, lines))
    for line in lines:
        stripped = line.strip().strip("#=_")
        bullet = _BULLET.match(stripped)
        goes_on = bool(block) and bool(stripped) and not bullet and _goes_on(last, stripped, longest)
        if not goes_on and block:
            yield from ((item, blank and k == 0) for k, item in enumerate(_items(block)))
            block, blank = "", False
        blank = blank or not stripped
        if bullet:
            stripped = stripped[bullet.end() :]
        block, last = f"{block} {stripped}".strip(), line.rstrip()
    if block:
        yield from ((item, blank and k == 0) for k, item in enumerate(_items(block)))


def _goes_on(line: str, following: str, longest: int) -> bool:
    """Whether a sentence goes on from a line to the one that follows, in a report with such longest lines."""
    if following[0].islower() or line.endswith(","):
        return True
    ended = line.endswith((".", ":", "!", "?")) or _opens_heading(following)
    return not ended and longest in WRAPPED_LINES and len(line) >= WRAPPED * longest


def _opens_heading(line: str) -> bool:
    named = _HEADING.match(line)
    return named is not None and _is_heading(named[1])


def _items(block: str) -> Iterator[str]:
    """A block cut at bullets within its line."""
    start = 0
    for bullet in _INLINE_BULLET.finditer(block):
        if block[start : bullet.start()].strip():
            yield block[start : bullet.start()].strip()
        start = bullet.end()
    if block[start:].strip(' ."“”'):
        yield block[start:].strip()


def _split(text: str) -> Iterator[str]:
    start = 0
    for stop in _STOP.finditer(text):
        piece, rest = text[start : stop.end()], text[stop.end() :]
        if not _ends(piece, rest):
            continue
        if re.search(r"\w", piece):
            yield " ".join(piece.split())
        start = stop.end()
    if re.search(r"\w", text[start:]):
        yield " ".join(text[start:].split())


def _ends(piece: str, rest: str) -> bool:
    """Whether a sentence ends with a piece."""
    following = rest.lstrip()[:1]
    if not following:
        return True
    in_bracket = piece.count("(") > piece.count(")") and ")" in rest[:LONGEST_BRACKET]
    if in_bracket or following.islower() or following in ",;)":
        return False
    return not piece.endswith(".") or not _is_abbreviated(piece, rest)


def _is_abbreviated(piece: str, rest: str) -> bool:
    """Whether the full stop at the end of a piece belongs to its last word."""
    if re.search(r"(?<!\w)n[or]\.$", piece) and re.match(r"\s*\d", rest):  # "slice no. 45"
        return True
    if rest[0].isalpha() and re.search(r"\b[A-Z][a-z]?\.$", piece):  # "M.Sc"
        return True
    if re.fullmatch(r"\(?\d{1,2}\.", piece.strip()):  # the number of a list item
        return True
    opens = re.match(r"\s+(?:No|There|The|In|A)\b", rest)
    return _abbreviations().search(piece) is not None and opens is None
