"""Merlin: abdominal CTs with whole reports and findings labels.

Layout: Stanford AIMI's ``merlinabdominalctdataset``. The column ``Findings`` holds findings and impression in
one text. Many sentences name a slice, "(3/204)", of a series whose numbering the NIfTI files have lost: they
become snippets only where organ masks tell the direction. The set has none; label maps that TotalSegmentator
v2 made of it are read from ``organ_masks`` beside ``merlin_data``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.datasets.files import (
    NO_REPORT,
    OTHER_LABELS,
    Tables,
    match,
    niftis,
    read_ct,
    read_rows,
    read_totalsegmentator,
    stem,
    truth,
)
from training.datasets.report_slices import report_snippets
from training.datasets.sample import Problem, Record, Sample, Split
from training.datasets.silence import V2_SILENT

KEY = "study id"
REPORTS, LABELS = "reports_final", "zero_shot_findings_disease_cls.csv"
SPLITS: Mapping[str, Split] = {"train": "train", "val": "validation", "test": "test"}
MASKS = "organ_masks"
_HEADER = re.compile(r"(?:^|\s)impressions?\s*:\s*", re.I)
_FINDINGS = re.compile(r"^\s*findings\s*:\s*", re.I)
_ITEM = re.compile(r"(?:^|\n|\s{3})\s*(\d{1,2})[.,)]\s+")
LATE = (
    0.6  # share of a report after which a lone "1." opens its impression; RadFinder's splitter has the same
)


def root_of(folder: Path) -> Path:
    """The folder of the tables: the download's own, or the one that holds it."""
    inner = folder / "merlinabdominalctdataset"
    return inner if inner.is_dir() else folder


class Merlin:
    """Merlin on disk, whole or in part. The set names no patients: each study counts as one.

    Labels are those of ``zero_shot_findings_disease_cls.csv`` in its own words; its -1 is unknown, and left
    out.

    Parameters
    ----------
    folder: ``merlinabdominalctdataset``, or the folder that holds it.

    Raises
    ------
    ValueError: if the reports are an Excel file and openpyxl is not installed.
    """

    name = "Merlin"

    def __init__(self, folder: Path) -> None:
        self.root = root_of(folder)
        self._problems: list[Problem] = []
        tables = Tables(self._problems)
        table = next((p for p in _report_tables(self.root) if p.exists()), self.root / f"{REPORTS}.xlsx")
        if table.suffix == ".xlsx" and table.exists() and importlib.util.find_spec("openpyxl") is None:
            raise ValueError(
                f"{table.name} is an Excel file, and openpyxl is not installed: run pip install openpyxl, "
                f"or save the sheet as {REPORTS}.csv beside it"
            )
        reader = read_rows if table.suffix == ".csv" else read_sheet
        reports = tables.read(table, KEY, ("Findings", "Split"), reader=reader)
        labels = tables.read(self.root / LABELS, KEY)
        columns = next(iter(labels.values()), {})
        self.vocabulary = tuple(c for c in columns if c not in {KEY, ""} and not c.startswith("Unnamed"))
        files = {stem(p.name): p for p in niftis(self.root / "merlin_data")}
        self._records: list[Record] = []
        for name, image in match(reports, files, self._problems):
            row = reports[name]
            findings, impression = split_report(row["Findings"])
            if not (findings or impression):
                self._problems.append(Problem(name, NO_REPORT))
                continue
            said = {"FINDINGS": findings, "IMPRESSION": impression}
            self._records.append(
                Record(
                    name,
                    name,
                    SPLITS.get(row["Split"].strip().lower(), ""),
                    image,
                    report="\n".join(f"{heading}:\n{text}" for heading, text in said.items() if text),
                    labels=truth(labels.get(name, {}), self.vocabulary),
                    notes={},
                )
            )
        strange = [name for name in labels if name not in reports] if reports else []
        self._problems += [
            Problem(name, OTHER_LABELS, "labels of a study without a report") for name in strange
        ]

    @staticmethod
    def recognises(folder: Path) -> bool:
        """The folder of volumes and the table of reports."""
        root = root_of(folder)
        return (root / "merlin_data").is_dir() and any(p.is_file() for p in _report_tables(root))

    def records(self) -> Sequence[Record]:
        """All volumes with a report, in the table's order."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Volumes without a row, rows without a volume, empty reports, labels of studies that are none."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One volume, its organ mask and the snippets of its report where a mask was made.

        Raises
        ------
        UnusableSampleError: if the volume or mask is corrupt, or they differ in grid.
        """
        volume = read_ct(record.image)
        mask = self.root / MASKS / record.image.name
        organs = read_totalsegmentator(mask, volume) if mask.exists() else None
        snippets = report_snippets(record.report, volume, organs)
        return Sample(record, volume, organs, snippets=snippets, organs_silent=V2_SILENT)


def split_report(text: str) -> tuple[str, str]:
    """Findings and impression of one text, without their headings.

    The impression follows the heading ``IMPRESSION(S):``, or is the numbered list at the end: items 1, 2, ...
    in order, or a lone item 1 in the last part (`LATE`). Neither: all of it is findings.

    >>> split_report("FINDINGS: Liver: normal. IMPRESSION: 1. Normal.")
    ('Liver: normal.', '1. Normal.')
    >>> split_report("The liver is normal and shows no mass.\\n1. Normal liver.\\n2. No mass.")
    ('The liver is normal and shows no mass.', '1. Normal liver.\\n2. No mass.')
    """
    header = _HEADER.search(text)
    if header is not None:
        findings, impression = text[: header.start()], text[header.end() :]
    else:
        start = _list_start(text)
        findings, impression = text[:start], text[start:]
    return _FINDINGS.sub("", findings).strip(), impression.strip()


def _list_start(text: str) -> int:
    """Where the last list begins that counts from 1 to the text's end; the text's length if none does."""
    items = [(int(m[1]), m.start()) for m in _ITEM.finditer(text)]
    for at in range(len(items) - 1, -1, -1):
        number, start = items[at]
        if number == 1:
            rest = [n for n, _ in items[at:]]
            counted = len(rest) > 1 and rest == list(range(1, len(rest) + 1))
            return start if counted or start > LATE * len(text) else len(text)
    return len(text)


def read_sheet(path: Path) -> Iterator[Mapping[str, str]]:
    """The rows of an Excel file's first sheet, as `read_rows` gives those of a CSV; needs openpyxl.

    Raises
    ------
    OSError: if it is no Excel file.
    """
    # Of use to this one table alone, and not everywhere installed.
    openpyxl: Any = importlib.import_module("openpyxl")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise OSError(f"{path.name} is no Excel file") from error
    rows = book.worksheets[0].iter_rows(values_only=True)
    header = ["" if cell is None else str(cell) for cell in next(rows, ())]
    for cells in rows:
        yield {
            key: "" if cell is None else str(cell) for key, cell in zip(header, cells, strict=False) if key
        }


def _report_tables(root: Path) -> tuple[Path, Path]:
    return root / f"{REPORTS}.csv", root / f"{REPORTS}.xlsx"


__all__ = ["MASKS", "Merlin", "read_sheet", "split_report"]
