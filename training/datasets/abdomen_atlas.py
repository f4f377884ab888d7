"""AbdomenAtlas 3.0: abdominal CTs with reports, masks of organs, and masks of lesions.

Layout: data set card of AbdomenAtlas3.0Mini. Reports were written by a program from the masks and, in part,
by radiologists. The set outlines some organs: a voxel in none of its masks is not known to be of no organ,
and gets `IGNORE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core_model.abnormality import abnormalities, abnormality
from core_model.anatomy import organ, structures
from training.datasets.files import NO_REPORT, TABLE_MISSING, Tables, match, read_ct, read_mask, read_rows
from training.datasets.sample import Problem, Record, Sample, Split
from training.phantoms.tissues import IGNORE

TABLE, KEY = "AbdomenAtlas3.0MiniWithMeta.csv", "BDMAP ID"
REPORTS = (
    "narrative report",
    "structured report",
    "fusion narrative report",
    "fusion structured report",
    "radiologist note",
)
COUNTS = {
    "liver lesion": "number of liver lesion instances",
    "pancreatic lesion": "number of pancreatic lesion instances",
    "kidney lesion": "number of kidney lesion instances",
}
# Mask of the set -> reading organ, where it is not a TotalSegmentator structure of the same name.
ORGANS: Mapping[str, str] = {
    "gall_bladder": "gallbladder",
    "postcava": "inferior_vena_cava",
    "bladder": "urinary_bladder",
    "intestine": "small_bowel",
    "lung_left": "lung",
    "lung_right": "lung",
    "rectum": "colon",
}
# Mask of the set -> abnormality of the dictionary; later ones are painted over earlier ones. "lesion" counts
# cysts too, so a more exact mask goes over it.
TUMOURS: Mapping[str, str] = {
    "liver_lesion": "liver_tumour",
    "kidney_lesion": "renal_tumour",
    "pancreatic_lesion": "pancreatic_tumour",
    "colon_lesion": "colon_tumour",
    "liver_tumor": "liver_tumour",
    "kidney_tumor": "renal_tumour",
    "pancreatic_tumor": "pancreatic_tumour",
    "pancreatic_pdac": "pancreatic_tumour",
    "pancreatic_pnet": "pancreatic_tumour",
    "liver_cyst": "liver_cyst",
    "kidney_cyst": "renal_cyst",
    "pancreatic_cyst": "pancreatic_cyst",
}


def organ_of_mask(name: str) -> str | None:
    """The reading organ of a mask of the set; None where it is of none (vessels of the bowel, prostate).

    >>> organ_of_mask("kidney_left"), organ_of_mask("postcava"), organ_of_mask("prostate")
    ('kidneys', 'inferior_vena_cava', None)
    """
    known = {s.name: s.reading_organ for s in structures()}
    return ORGANS.get(name) or known.get(name)


class AbdomenAtlas:
    """AbdomenAtlas 3.0 on disk, whole or in part. The set names no patients: each scan counts as one.

    Parameters
    ----------
    folder: of the table.
    report: column of the report; where it is empty the next of `REPORTS` that is not.

    Raises
    ------
    ValueError: if `report` is none of `REPORTS`.
    """

    name = "AbdomenAtlas 3.0"

    def __init__(self, folder: Path, report: str = REPORTS[0]) -> None:
        if report not in REPORTS:
            raise ValueError(f"report {report!r} is no column of the set; choose of {', '.join(REPORTS)}")
        self.folder = folder
        self.vocabulary = tuple(COUNTS)
        self._problems: list[Problem] = []
        tables = Tables(self._problems)
        rows = tables.read(folder / TABLE, KEY)
        splits = self._splits(tables)
        images = folder / "image_only"
        files = {p.parent.name: p for p in sorted(images.glob("*/ct.nii.gz"))} if images.is_dir() else {}
        if not files:
            self._problems.append(Problem("image_only", TABLE_MISSING.replace("table", "folder of volumes")))
        self._records: list[Record] = []
        for name, image in match(rows, files, self._problems):
            row = rows[name]
            text = next((row[c].strip() for c in (report, *REPORTS) if row.get(c, "").strip()), "")
            if not text:
                self._problems.append(Problem(name, NO_REPORT))
                continue
            counts = {label: _count(row.get(column, "")) for label, column in COUNTS.items()}
            labels = {label: count > 0 for label, count in counts.items() if count is not None}
            notes = {"contrast": row["contrast"]} if row.get("contrast") else {}
            self._records.append(
                Record(name, name, splits.get(name, ""), image, report=text, labels=labels, notes=notes)
            )

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Its table."""
        return (folder / TABLE).is_file()

    def records(self) -> Sequence[Record]:
        """All volumes with a report, in the table's order."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Volumes without a row, rows without a volume, empty reports."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One volume with its organ and lesion masks, where they were downloaded.

        Raises
        ------
        UnusableSampleError: if the volume or a mask is corrupt, or they differ in grid.
        """
        volume = read_ct(record.image)
        masks = self.folder / "mask_only" / record.name / "segmentations"
        files = {p.name.removesuffix(".nii.gz"): p for p in sorted(masks.glob("*.nii.gz"))}
        if not files:
            return Sample(record, volume)
        organs = np.full(volume.spatial_shape, IGNORE, dtype=np.uint8)
        tumours = np.zeros(volume.spatial_shape, dtype=np.uint8)

        def mask(name: str) -> npt.NDArray[np.bool_]:
            shown: npt.NDArray[np.bool_] = read_mask(files[name], volume, f"mask {name}") > 0
            return shown

        lesions = [name for name in TUMOURS if name in files]
        for name in files:
            reading = None if name in TUMOURS else organ_of_mask(name)
            if reading is not None:
                organs[mask(name)] = organ(reading).label
        numbers = {a.name: n for n, a in enumerate(abnormalities(), start=1)}
        for name in lesions:
            shown = mask(name)
            tumours[shown] = numbers[TUMOURS[name]]
            organs[shown & (organs == IGNORE)] = organ(abnormality(TUMOURS[name]).organ).label
        return Sample(
            record,
            volume,
            organs,
            tumours if lesions else None,
            frozenset(TUMOURS[name] for name in lesions),
        )

    def _splits(self, tables: Tables) -> dict[str, Split]:
        """Splits of the in-distribution lists, where they were downloaded."""
        found: dict[str, Split] = {}
        lists: tuple[tuple[Split, str], ...] = (("train", "IID_train"), ("test", "IID_test"))
        for split, file_name in lists:
            path = self.folder / f"TrainTestIDS/{file_name}.csv"
            if path.exists():
                # Their column has no name that is documented; they have one.
                column = next((next(iter(row), KEY) for row in read_rows(path)), KEY)
                found |= dict.fromkeys(tables.read(path, column), split)
        return found


def _count(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


__all__ = ["ORGANS", "REPORTS", "TUMOURS", "AbdomenAtlas", "organ_of_mask"]
