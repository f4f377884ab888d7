"""How well the rules label reports and find references, on a CSV with the truth.

``AccessionNo, report_text`` and the 18 labels (CT-CLIP's columns), or ``sentence, references`` with
references as "3/204 3/210", "-/45" where no series is named, and nothing where there is none. It changes
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.mining.concepts import CT_RATE, concepts
from training.mining.labels import Label, labels
from training.mining.references import referring_sentences
from training.mining.reports import csv_rows

Row = Mapping[str, str]


@dataclass(frozen=True)
class Score:
    """Counts of one label, or of references.

    Attributes
    ----------
    name: of the label.
    true, false, missed: found rightly, found wrongly, not found.
    unknown, absent: of those not found, where the report was taken to say nothing, and to deny it.
    """

    name: str
    true: int
    false: int
    missed: int
    unknown: int = 0
    absent: int = 0

    @property
    def precision(self) -> float:
        return self.true / max(1, self.true + self.false)

    @property
    def recall(self) -> float:
        return self.true / max(1, self.true + self.missed)

    @property
    def f1(self) -> float:
        return 2 * self.true / max(1, 2 * self.true + self.false + self.missed)

    @property
    def occurs(self) -> bool:
        """Whether there is anything to be right or wrong about."""
        return self.true + self.false + self.missed > 0


def label_scores(rows: Sequence[Row]) -> tuple[Score, ...]:
    """The scores of CT-RATE's 18 labels; a label counts as found where it is present, not where uncertain.

    Raises
    ------
    ValueError: if a column is missing, or a label is not 0 or 1.
    """
    names = [c.name for c in concepts(CT_RATE)]
    absent = [c for c in ("report_text", *names) if c not in rows[0]]
    if absent:
        raise ValueError(
            f"column {absent[0]!r} is missing; needed are AccessionNo, report_text and the 18 labels"
        )
    read = [(row, {x.concept: x for x in labels(row["report_text"])}) for row in rows]
    return tuple(_score(name, [(_truth(row, name), found[name]) for row, found in read]) for name in names)


def _truth(row: Row, name: str) -> bool:
    try:
        value = float(row[name])
    except ValueError:
        value = -1.0
    if value not in {0.0, 1.0}:
        raise ValueError(
            f"label {name!r} of report {row.get('AccessionNo', '?')} is {row[name]!r}; needed is 0 or 1"
        )
    return value == 1


def _score(name: str, read: Sequence[tuple[bool, Label]]) -> Score:
    found = [(truth, label.presence == "present") for truth, label in read]
    missed = [label.presence for truth, label in read if truth and label.presence != "present"]
    return Score(
        name,
        true=found.count((True, True)),
        false=found.count((False, True)),
        missed=len(missed),
        unknown=missed.count("unknown"),
        absent=missed.count("absent"),
    )


def macro_f1(scores: Sequence[Score]) -> float:
    """Mean F1 of the labels that occur in the truth or were found.

    Raises
    ------
    ValueError: if none does.
    """
    occurring = [s.f1 for s in scores if s.occurs]
    if not occurring:
        raise ValueError("no label is present in any report; nothing can be measured")
    return sum(occurring) / len(occurring)


def reference_score(rows: Sequence[Row]) -> Score:
    """Of references, counted by image: right where series and image are.

    Raises
    ------
    ValueError: if a truth is no list of "series/image".
    """
    true = false = missed = 0
    for row in rows:
        truth = {_pair(word) for word in row["references"].split()}
        found = {
            (r.series, image)
            for s in referring_sentences(row["sentence"])
            for r in s.references
            for image in r.images
        }
        true, false, missed = (
            true + len(truth & found),
            false + len(found - truth),
            missed + len(truth - found),
        )
    return Score("references", true, false, missed)


def _pair(word: str) -> tuple[int | None, int]:
    series, _, image = word.partition("/")
    if not image.isdigit() or not (series == "-" or series.isdigit()):
        raise ValueError(f"reference {word!r} is not of the form 3/204, or -/45 where no series is named")
    return (None if series == "-" else int(series)), int(image)


def halves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The reports that rules may be developed on, and the others: by digest of the identifier, for ever."""
    split: dict[str, list[Row]] = {"development": [], "held out": []}
    for row in rows:
        even = hashlib.sha256(row["AccessionNo"].encode()).digest()[0] % 2 == 0
        split["development" if even else "held out"].append(row)
    return split


def read_truth(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV with the truth; raises as `reports.csv_rows`."""
    return csv_rows(path)
