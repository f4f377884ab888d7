"""The abnormality dictionary grown from a corpus: more wordings, for and against, out of real sentences.

Collects the short sentences that say one thing about one abnormality, without sizes, references and
comparisons, counts reports per wording, and keeps the frequent ones that differ. Exports in the columns of
``core_model/abnormality.csv``. It adds no abnormality: a new one needs an organ, a code and a person.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from typing import Literal, get_args

from core_model.abnormality import abnormalities
from core_model.anatomy import table_rows
from training.mining.organ_sentences import MinedSentence, organ_sentences
from training.mining.patterns import Pattern, compile_pattern, document
from training.mining.references import referring_sentences

Polarity = Literal["present", "absent"]

MOST_WORDS = 16  # of a wording: longer ones say more than one thing; our choice
ALIKE = 0.7  # share of common words from which two wordings count as one; our choice

_SIZE = re.compile(
    r"""[(\[]? \s* (?:(?:up\ to|approximately|about|measuring|of)\ )* \d+(?:[.,]\d+)?
    (?:\s*[x\u00d7*-]\s*\d+(?:[.,]\d+)?)* \s* (?:mm|cm|hu)\b 
    (?:\ in\ (?:size|diameter|thickness))? \s*[)\]]?""",
    re.I | re.X,
)


@dataclass(frozen=True)
class Wording:
    """A way in which reports say that an abnormality is there, or not.

    Attributes
    ----------
    text: the most frequent form, without sizes and references.
    reports: how many reports say it so, or nearly so.
    """

    abnormality: str
    polarity: Polarity
    text: str
    reports: int


def grow(reports: Iterable[str], *, least: int = 2, most: int = 20) -> tuple[Wording, ...]:
    """The frequent wordings of a corpus that the dictionary has not, by abnormality and frequency.

    Parameters
    ----------
    reports: their texts.
    least: in how many reports a wording must occur.
    most: how many are kept per abnormality and polarity.

    Raises
    ------
    ValueError: if `least` or `most` is not positive.
    """
    if least < 1 or most < 1:
        raise ValueError(f"least {least} and most {most} must both be 1 or more")
    counts: dict[tuple[str, Polarity], Counter[str]] = defaultdict(Counter)
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    for report in reports:
        said = {(key, bare(text)): text for key, text in _said(report)}
        for (key, words), text in said.items():
            counts[key][words] += 1
            forms[words][text] += 1
    found = []
    for entry in abnormalities():
        for polarity in get_args(Polarity):
            known = entry.present if polarity == "present" else entry.absent
            frequent = _frequent(counts[entry.name, polarity], known, least)
            found += [Wording(entry.name, polarity, _commonest(forms[w]), n) for w, n in frequent[:most]]
    return tuple(found)


def table(wordings: Sequence[Wording]) -> str:
    """The dictionary with more wordings, as the text of an ``abnormality.csv``.

    Raises
    ------
    ValueError: if a wording holds the bar that separates them.
    """
    more: dict[tuple[str, str], list[str]] = defaultdict(list)
    for wording in wordings:
        if "|" in wording.text:
            raise ValueError(f"wording {wording.text!r} holds a bar; it separates wordings in the table")
        more[wording.abnormality, wording.polarity].append(wording.text)
    written = table_rows("abnormality.csv")
    out = StringIO()
    writer = csv.DictWriter(out, written[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in written:
        grown = {p: "|".join([row[p], *more[row["name"], p]]) for p in ("present", "absent")}
        writer.writerow({**row, **grown})
    return out.getvalue()


def bare(text: str) -> str:
    """The words of a wording that make it what it is: lower case, without sides, degrees and articles.

    >>> bare("There is a mild pleural effusion on the right.")
    'pleural effusion'
    """
    words = re.findall(r"[a-z]+", text.lower())
    return " ".join(w for w in words if w not in _idle())


def _said(report: str) -> Iterator[tuple[tuple[str, Polarity], str]]:
    """(abnormality, polarity) and wording of the sentences that say one thing."""
    referring = {r.sentence.text: r.text for r in referring_sentences(report)}
    for sentence in organ_sentences(report):
        key = _one_thing(sentence)
        text = _SIZE.sub(" ", referring.get(sentence.text, sentence.text))
        text = re.sub(r"\s+([.,;])", r"\1", " ".join(text.split())).strip(" ,;:")
        fit = 2 <= len(text.split()) <= MOST_WORDS and not re.search(r"[\d|?:;]", text)
        if key is not None and fit and not _compares().search(text):
            yield key, f"{text[0].upper()}{text[1:].rstrip('.')}."


def _one_thing(sentence: MinedSentence) -> tuple[str, Polarity] | None:
    """What a sentence says, if it is of one abnormality and its organ alone."""
    if len(sentence.statements) != 1:
        return None
    said = sentence.statements[0]
    words = set(bare(said.words).split())
    if not all(words & set(bare(label.words).split()) for label in sentence.labels):
        return None  # another thing is said as well
    organ = next(a.organ for a in abnormalities() if a.name == said.abnormality)
    if sentence.organs != (organ,):
        return None
    if said.status == "present":
        return said.abnormality, "present"
    return (said.abnormality, "absent") if said.status == "absent" else None


def _frequent(counts: Counter[str], known: Sequence[str], least: int) -> list[tuple[str, int]]:
    """Bare wordings that are frequent and differ from each other and the known ones, and their counts."""
    groups: list[tuple[str, int]] = []
    for words, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        like = next((k for k, (other, _) in enumerate(groups) if alike(words, other)), None)
        if like is None:
            groups.append((words, count))
        else:
            groups[like] = (groups[like][0], groups[like][1] + count)
    old = [bare(text) for text in known]
    kept = [(w, n) for w, n in groups if n >= least and not any(alike(w, k) for k in old)]
    return sorted(kept, key=lambda group: -group[1])


def alike(one: str, other: str) -> bool:
    """Whether two bare wordings share so many words that they count as one."""
    a, b = set(one.split()), set(other.split())
    return len(a & b) >= ALIKE * len(a | b)


def _commonest(forms: Counter[str]) -> str:
    return min(forms, key=lambda text: (-forms[text], len(text), text))


@cache
def _idle() -> frozenset[str]:
    return frozenset(document("text.toml")["idle"])


@cache
def _compares() -> Pattern:
    return compile_pattern(document("text.toml")["compares"])
