"""Report texts from files: CSV of several sets, a text file, or a folder of text files.

Knows the columns of CT-CLIP's labelled reports, CT-RATE and Merlin; others are named. It decides nothing.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Columns of a set: identifier, and (heading, column) of its parts (model.md 4.1 and 4.3).
LAYOUTS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("AccessionNo", (("", "report_text"),)),
    (
        "VolumeName",
        (
            ("CLINICAL INFORMATION", "ClinicalInformation_EN"),
            ("TECHNIQUE", "Technique_EN"),
            ("FINDINGS", "Findings_EN"),
            ("IMPRESSION", "Impressions_EN"),
        ),
    ),
    ("study id", (("", "Findings"),)),
)
MISSING = {"", "not given", "not given.", "nan"}


@dataclass(frozen=True)
class ReportText:
    """One report: its identifier in the set, and its text."""

    name: str
    text: str


def read_reports(path: Path, columns: tuple[str, str] | None = None) -> Iterator[ReportText]:
    """The reports of a file or folder, in its order.

    Parameters
    ----------
    path: a CSV, a text file (one report), or a folder whose ``*.txt`` are one report each.
    columns: identifier and text of a CSV of another layout.

    Raises
    ------
    ValueError: if there is no report, or the columns are not known.
    """
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise ValueError(f"{path} holds no *.txt; name a folder of reports or a CSV")
        for file in files:
            yield ReportText(file.stem, file.read_text(encoding="utf-8", errors="replace"))
    elif path.suffix.lower() == ".csv":
        for row in csv_rows(path):
            yield _report(row, columns, path)
    else:
        yield ReportText(path.stem, path.read_text(encoding="utf-8", errors="replace"))


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV.

    Raises
    ------
    ValueError: if it has no rows.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="") as file:
        found = [dict(row) for row in csv.DictReader(file)]
    if not found:
        raise ValueError(f"{path} has no rows; a line of column names and one per report are needed")
    return found


def _report(row: Mapping[str, str], columns: tuple[str, str] | None, path: Path) -> ReportText:
    if columns is not None:
        absent = [c for c in columns if c not in row]
        if absent:
            raise ValueError(f"{path} has no column {absent[0]!r}; it has {', '.join(row)}")
        return ReportText(row[columns[0]], row[columns[1]] or "")
    for name, parts in LAYOUTS:
        if name in row and any(column in row for _, column in parts):
            return ReportText(row[name], _joined(row, parts))
    raise ValueError(f"{path} has none of the known layouts; name its columns with --columns ID TEXT")


def _joined(row: Mapping[str, str], parts: Sequence[tuple[str, str]]) -> str:
    texts = [(heading, (row.get(column) or "").strip()) for heading, column in parts]
    kept = [
        f"{heading}:\n{text}" if heading else text for heading, text in texts if text.lower() not in MISSING
    ]
    return "\n".join(kept)
