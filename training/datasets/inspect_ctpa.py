"""INSPECT: CT pulmonary angiograms with the impressions of their reports.

Layout: Stanford AIMI's download, ``full``: tables whose names end with their date, of which the newest
counts, and ``CTPA``. Findings are not published. Of the labels those of embolism are read; outcomes
(mortality, readmission) are no finding of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from training.datasets.files import NO_REPORT, TABLE_MISSING, Tables, match, niftis, read_ct, stem, truth
from training.datasets.sample import Problem, Record, Sample, Split

KEY, IMAGE, PERSON, TEXT = "impression_id", "image_id", "person_id", "impressions"
SPLITS: Mapping[str, Split] = {"train": "train", "valid": "validation", "test": "test"}
FINDING_PREFIX = "pe_"  # of the labels that are findings: pe_positive_nlp, pe_acute, ...


def root_of(folder: Path) -> Path:
    """The folder of the tables: ``full``, or the folder itself."""
    return folder / "full" if (folder / "full").is_dir() else folder


def newest(root: Path, prefix: str) -> Path:
    """The newest table of a kind, e.g. ``splits_20250611.tsv``; a name without a file if there is none."""
    return max(root.glob(f"{prefix}_*.tsv"), default=root / f"{prefix}_DATE.tsv")


class Inspect:
    """INSPECT on disk, whole or in part.

    Parameters
    ----------
    folder: ``full``, or the folder that holds it.
    """

    name = "INSPECT"

    def __init__(self, folder: Path) -> None:
        root = root_of(folder)
        self._problems: list[Problem] = []
        tables = Tables(self._problems)
        impressions = tables.read(newest(root, "impressions"), KEY, (TEXT,))
        splits = tables.read(newest(root, "splits"), KEY, ("split",))
        mapping = tables.read(newest(root, "study_mapping"), IMAGE, (KEY,))
        labelled = newest(root, "labels")
        labels = tables.read(labelled, KEY) if labelled.exists() else {}
        self.vocabulary = tuple(c for c in next(iter(labels.values()), {}) if c.startswith(FINDING_PREFIX))
        files = {stem(p.name): p for p in niftis(root / "CTPA")} if (root / "CTPA").is_dir() else {}
        if not files:
            self._problems.append(Problem("CTPA", TABLE_MISSING.replace("table", "folder of volumes")))
        self._records: list[Record] = []
        for name, image in match(mapping, files, self._problems):
            key = mapping[name][KEY].strip()
            text = impressions.get(key, {}).get(TEXT, "").strip().removeprefix("IMPRESSION:").strip()
            if not text or text.lower() == "nan":
                self._problems.append(Problem(name, NO_REPORT))
                continue
            self._records.append(
                Record(
                    name,
                    mapping[name].get(PERSON, "").strip() or name,
                    SPLITS.get(splits.get(key, {}).get("split", "").strip().lower(), ""),
                    image,
                    report=f"IMPRESSION:\n{text}",
                    labels=truth(labels.get(key, {}), self.vocabulary),
                    notes={},
                )
            )

    @staticmethod
    def recognises(folder: Path) -> bool:
        """The table that joins images to impressions, and the impressions."""
        root = root_of(folder)
        return newest(root, "study_mapping").is_file() and newest(root, "impressions").is_file()

    def records(self) -> Sequence[Record]:
        """All volumes with an impression, in the order of the mapping."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Volumes without a row, rows without a volume, empty impressions, tables that are missing."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One volume.

        Raises
        ------
        UnusableSampleError: if it is corrupt, or not three-dimensional: about twenty of the set are not.
        """
        return Sample(record, read_ct(record.image))


__all__ = ["Inspect", "newest"]
