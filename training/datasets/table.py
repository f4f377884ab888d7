"""A plain table of one's own: ``image, report`` and a column per label.

Columns: ``image`` (a NIfTI file, relative to the table) and ``report`` are needed; ``patient``, ``split``
(train, validation, test), ``series`` (number of the series that the image is), ``first_slice`` (``head`` or
``feet``: where image 1 of that series lies) and ``organ_mask`` (a TotalSegmentator v2 label map) may be
there. Every other column whose cells are 1, 0, -1 or empty is a label; -1 and empty are unknown. What else
the table holds is not read: it may name people. For the same reason patients and samples are called by
numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.datasets.files import (
    NO_REPORT,
    NOT_ON_DISK,
    read_ct,
    read_rows,
    read_totalsegmentator,
    truth,
)
from training.datasets.report_slices import report_snippets
from training.datasets.sample import Problem, Record, Sample, Split
from training.datasets.silence import V2_SILENT

NEEDED = ("image", "report")
KNOWN = (*NEEDED, "patient", "split", "series", "first_slice", "organ_mask")
SPLITS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "": "",
}
FIRST = {"head": True, "feet": False}
VALUES = frozenset({"", "0", "1", "-1", "0.0", "1.0", "-1.0", "true", "false"})
NO_LABEL = "column is no label"
UNKNOWN_VALUE = "value is not understood"


class Table:
    """A CSV or TSV file of one's own.

    Parameters
    ----------
    file: the table.

    Raises
    ------
    ValueError: if it has no rows, or lacks one of the columns `NEEDED`.
    """

    name = "table"

    def __init__(self, file: Path) -> None:
        self.file = file
        self._problems: list[Problem] = []
        try:
            rows = list(read_rows(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{file} cannot be read as a table: {type(error).__name__}") from error
        if not rows:
            raise ValueError(f"{file} has no rows; a line of column names and one per image are needed")
        lacking = [c for c in NEEDED if c not in rows[0]]
        if lacking:
            raise ValueError(f"{file} has no column {lacking[0]!r}; it has {', '.join(rows[0])}")
        others = [c for c in rows[0] if c not in KNOWN]
        self.vocabulary = tuple(c for c in others if all(_cell(row, c) in VALUES for row in rows))
        self._problems += [Problem(c, NO_LABEL) for c in others if c not in self.vocabulary]
        self._rows: dict[str, Mapping[str, str]] = {}
        patients: dict[str, str] = {}
        self._records: list[Record] = []
        for number, row in enumerate(rows, start=1):
            name = f"row_{number:05d}"
            record = self._record(name, row, patients)
            if record is not None:
                self._rows[name] = row
                self._records.append(record)

    @staticmethod
    def recognises(folder: Path) -> bool:
        """A file that ends with .csv or .tsv."""
        return folder.is_file() and folder.suffix.lower() in {".csv", ".tsv"}

    def records(self) -> Sequence[Record]:
        """All rows with an image and a report, in order."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Rows without an image or report, values that are not understood, columns that are no labels."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One image, its organ mask if the table names one, and the snippets of its report.

        Raises
        ------
        UnusableSampleError: if image or mask is corrupt, or they differ in grid.
        """
        row = self._rows[record.name]
        volume = read_ct(record.image)
        mask = _cell(row, "organ_mask", lower=False)
        organs = read_totalsegmentator(self.file.parent / mask, volume) if mask else None
        series = _cell(row, "series")
        snippets = report_snippets(
            record.report,
            volume,
            organs,
            series=int(series) if series.isdigit() else None,
            superior_first=FIRST.get(_cell(row, "first_slice")),
        )
        return Sample(record, volume, organs, snippets=snippets, organs_silent=V2_SILENT)

    def _record(self, name: str, row: Mapping[str, str], patients: dict[str, str]) -> Record | None:
        image = self.file.parent / row["image"].strip()
        report = row["report"].strip()
        if not row["image"].strip() or not image.is_file():
            self._problems.append(Problem(name, NOT_ON_DISK))
            return None
        if not report:
            self._problems.append(Problem(name, NO_REPORT))
            return None
        for column, able in (("split", SPLITS), ("first_slice", {**FIRST, "": None})):
            if _cell(row, column) not in able:
                self._problems.append(Problem(name, UNKNOWN_VALUE, f"column {column!r}"))
        person = _cell(row, "patient", lower=False)
        patient = patients.setdefault(person, f"patient_{len(patients) + 1:05d}") if person else name
        return Record(
            name,
            patient,
            SPLITS.get(_cell(row, "split"), ""),
            image,
            report=report,
            labels=truth(row, self.vocabulary),
            notes={},
        )


def _cell(row: Mapping[str, str], column: str, *, lower: bool = True) -> str:
    text = row.get(column, "").strip()
    return text.lower() if lower else text


__all__ = ["Table"]
