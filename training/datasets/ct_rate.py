"""CT-RATE: chest CTs with reports, 18 labels and TotalSegmentator masks, as its authors publish it.

Layout: model card of ibrahimhamamci/CT-RATE. Two trees of volumes exist. ``{train,valid}_fixed`` hold HU
with right spacing and are never rescaled again: applying the metadata's slope and intercept once more is the
commonest mistake with this set. ``{train,valid}`` (legacy) hold stored values, and need slope, intercept and
spacing of the metadata. Labels are predictions of the authors' text classifier, not read by anybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd

from training.datasets.files import (
    NO_REPORT,
    Tables,
    match,
    niftis,
    read_ct,
    read_lines,
    read_totalsegmentator,
    stem,
)
from training.datasets.sample import Problem, Record, Sample, Split, UnusableSampleError
from training.datasets.silence import V2_SILENT
from training.mining.concepts import CT_RATE as CONCEPTS
from training.mining.concepts import concepts
from training.mining.reports import MISSING

NAME = re.compile(r"(?P<patient>(?:train|valid)_\d+)_(?P<scan>[a-z]+)_(?P<reconstruction>\d+)")
SECTIONS = (
    ("CLINICAL INFORMATION", "ClinicalInformation_EN"),
    ("TECHNIQUE", "Technique_EN"),
    ("FINDINGS", "Findings_EN"),
    ("IMPRESSION", "Impressions_EN"),
)
FIXED = ("train_fixed", "valid_fixed")
METADATA = ("RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing")


@dataclass(frozen=True)
class _Part:
    """One of the two splits: its name here, that of its volumes, and that of its report tables."""

    split: Split
    volumes: str
    tables: str


_PARTS = (_Part("train", "train", "train"), _Part("validation", "valid", "validation"))


def vocabulary() -> tuple[str, ...]:
    """The 18 labels, in the order of the set's tables."""
    return tuple(concept.name for concept in concepts(CONCEPTS))


def root_of(folder: Path) -> Path:
    """The folder that holds the trees: the repository's ``dataset``, or the folder itself."""
    return folder / "dataset" if (folder / "dataset").is_dir() else folder


def volume_files(root: Path, part: str) -> dict[str, Path]:
    """Volume name -> its file of ``train`` or ``valid``; that of the fixed tree where both trees have it."""
    files = {stem(p.name): p for p in niftis(root / part)} if (root / part).is_dir() else {}
    fixed = root / f"{part}_fixed"
    return {**files, **({stem(p.name): p for p in niftis(fixed)} if fixed.is_dir() else {})}


def is_fixed(path: Path) -> bool:
    """Whether a volume is of a fixed tree: HU already."""
    return any(parent.name in FIXED for parent in path.parents)


class CtRate:
    """CT-RATE on disk, whole or in part.

    Volumes that the authors list as no chest stay, with the note ``"no_chest"``: one published protocol
    counts them (3,039 volumes), the other does not (3,002). Other notes: ``"study"``, ``"reconstruction"``,
    ``"tree"`` (``fixed`` or ``legacy``).

    Parameters
    ----------
    folder: the downloaded repository, or its folder ``dataset``.
    """

    name = "CT-RATE"

    def __init__(self, folder: Path) -> None:
        self.root = root_of(folder)
        self.vocabulary = vocabulary()
        self._problems: list[Problem] = []
        self._metadata: dict[str, Mapping[str, str]] = {}
        self._records: list[Record] = []
        tables = Tables(self._problems)
        for part in _PARTS:
            files = volume_files(self.root, part.volumes)
            if files or (self.root / f"radiology_text_reports/{part.tables}_reports.csv").exists():
                self._read(part, files, tables)

    @staticmethod
    def recognises(folder: Path) -> bool:
        """A tree of volumes, and a folder of reports or labels beside it."""
        root = root_of(folder)
        volumes = [root / f"{p.volumes}{tree}" for p in _PARTS for tree in ("_fixed", "")]
        tables = [root / "radiology_text_reports", root / "multi_abnormality_labels"]
        return any(v.is_dir() for v in volumes) and any(t.is_dir() for t in tables)

    def records(self) -> Sequence[Record]:
        """All volumes with a report, in the order of the report tables, train first."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Volumes without a row, rows without a volume, reports without findings, tables that are missing."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One volume in HU, with its organ mask where the set's masks were downloaded.

        Raises
        ------
        UnusableSampleError: if the volume or mask is corrupt, they differ in grid, or a legacy volume has no
            usable row of metadata.
        """
        volume = read_ct(record.image) if is_fixed(record.image) else self._legacy(record)
        mask = self._mask_file(record)
        if mask is None:
            return Sample(record, volume)
        return Sample(record, volume, read_totalsegmentator(mask, volume), organs_silent=V2_SILENT)

    def _read(self, part: _Part, files: dict[str, Path], tables: Tables) -> None:
        reports = tables.read(
            self.root / f"radiology_text_reports/{part.tables}_reports.csv",
            "VolumeName",
            ("Findings_EN", "Impressions_EN"),
        )
        labels = tables.read_labels(
            self.root / f"multi_abnormality_labels/{part.volumes}_predicted_labels.csv",
            "VolumeName",
            self.vocabulary,
        )
        metadata = self.root / f"metadata/{part.tables}_metadata.csv"
        if any(not is_fixed(p) for p in files.values()):
            self._metadata |= tables.read(metadata, "VolumeName", METADATA)
        no_chest = read_lines(self.root / f"metadata/no_chest_{part.volumes}.txt")
        for name, image in match(reports or labels, files, self._problems):
            parsed = NAME.fullmatch(name)
            text = joined(reports.get(name, {}))
            if parsed is None:
                self._problems.append(Problem(name, "name is none of CT-RATE"))
            elif reports and not text:
                self._problems.append(Problem(name, NO_REPORT))
            else:
                notes = {
                    "study": f"{parsed['patient']}_{parsed['scan']}",
                    "reconstruction": parsed["reconstruction"],
                    "tree": "fixed" if is_fixed(image) else "legacy",
                    **({"no_chest": "listed"} if name in no_chest else {}),
                }
                self._records.append(
                    Record(
                        name,
                        parsed["patient"],
                        part.split,
                        image,
                        report=text,
                        labels=labels.get(name, {}),
                        notes=notes,
                    )
                )

    def _legacy(self, record: Record) -> hd.Volume:
        row = self._metadata.get(record.name)
        if row is None:
            raise UnusableSampleError("legacy volume without metadata", "its HU and spacing are not known")
        try:
            across = json.loads(row["XYSpacing"])
            spacing = (float(across[0]), float(across[1]), float(row["ZSpacing"]))
            slope, intercept = float(row["RescaleSlope"]), float(row["RescaleIntercept"])
            if min(spacing) <= 0 or slope == 0:
                raise ValueError("not positive")
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise UnusableSampleError("metadata of a legacy volume is unreadable") from error
        return read_ct(record.image, slope=slope, intercept=intercept, spacing_mm=spacing)

    def _mask_file(self, record: Record) -> Path | None:
        """The TotalSegmentator mask of a fixed volume; masks were made of no other tree."""
        if not is_fixed(record.image):
            return None
        tree = next(p for p in record.image.parents if p.name in FIXED)
        mask = self.root / "ts_seg/ts_total" / tree.name / record.image.relative_to(tree)
        return mask if mask.exists() else None


def joined(row: Mapping[str, str]) -> str:
    """The sections of a row of reports under their headings; empty where neither findings nor impression say
    anything ("Not given.").

    >>> joined({"Findings_EN": "Clear lungs.", "Impressions_EN": "Not given."})
    'FINDINGS:\\nClear lungs.'
    """
    said = {heading: row.get(column, "").strip() for heading, column in SECTIONS}
    said = {heading: text for heading, text in said.items() if text.lower() not in MISSING}
    if not {"FINDINGS", "IMPRESSION"} & set(said):
        return ""
    return "\n".join(f"{heading}:\n{text}" for heading, text in said.items())


__all__ = ["CtRate", "is_fixed", "joined", "root_of", "vocabulary", "volume_files"]
