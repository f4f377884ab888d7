"""The TotalSegmentator data set: CTs of all body parts, each with one mask per structure.

Layout: Zenodo 10047292 (version 2, CC BY 4.0), ``s0000/ct.nii.gz``, ``s0000/segmentations/NAME.nii.gz``,
``meta.csv`` with semicolons; Wasserthal et al., Radiology: Artificial Intelligence 2023. Masks of version 1,
which names other structures, are read by their names too.

As label maps for phantoms (`training.phantoms.labelmaps`):

    python -m training.datasets.totalsegmentator_set Totalsegmentator_dataset_v201 --out maps --split train
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType

import highdicom as hd
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core_model.anatomy import structures
from training.datasets.files import NOT_ON_DISK, Tables, match, read_ct, read_mask
from training.datasets.mask_files import save_mask
from training.datasets.sample import Problem, Record, Sample, Split, UnusableSampleError
from training.datasets.silence import within_reach
from training.datasets.tally import Tally
from training.phantoms.tissues import FACE, IGNORE, PULMONARY_ARTERY, reading_lookup, tissue

CASE = re.compile(r"s\d{4}")
IMAGE, MASKS, TABLE = "ct.nii.gz", "segmentations", "meta.csv"
ONLY_V1 = "heart_myocardium"  # a structure by which version 1 is told
SPLITS: Mapping[str, Split] = MappingProxyType({"train": "train", "val": "validation", "test": "test"})
NOTES = ("study_type", "pathology", "pathology_location")
# Version 2 has no mask of two reading organs. Where it has no mask at all they may be, near these.
NEIGHBOURS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"pulmonary_artery": ("heart", "atrial_appendage_left", "pulmonary_vein"), "face": ("skull",)}
)


@cache
def names(version: int) -> tuple[str, ...]:
    """The structures that a version of the set has a mask of.

    >>> len(names(1)), len(names(2))
    (104, 117)
    """
    return tuple(s.name for s in structures() if (s.v1_id if version == 1 else s.v2_id) is not None)


@cache
def label_values() -> Mapping[str, int]:
    """Structure -> value in the label maps of phantoms (`training.phantoms.tissues`).

    That is the v2 id; what only version 1 names has that of what holds it (the heart), or one of its own.
    """
    own = {"pulmonary_artery": PULMONARY_ARTERY, "face": FACE}
    return MappingProxyType({s.name: s.v2_id or own.get(s.name) or tissue("heart") for s in structures()})


def merged(masks: Iterable[tuple[str, npt.NDArray[np.bool_]]], shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """One label map of many masks, by the structures' names; where masks overlap, the later one counts.

    Parameters
    ----------
    masks: (structure, mask of `shape`), taken one at a time: all of a patient would fill the memory.

    Returns
    -------
    uint8 of `shape`, values of `label_values`, 0 where no mask is.
    """
    labels = np.zeros(tuple(shape), dtype=np.uint8)
    for name, mask in masks:
        labels[mask] = label_values()[name]
    return labels


def reading_organs(
    labels: npt.NDArray[np.uint8], spacing: Sequence[float], *, complete: bool = False
) -> npt.NDArray[np.uint8]:
    """The reading organs of a label map.

    Parameters
    ----------
    labels: (slices, rows, columns) of `label_values`.
    spacing: mm.
    complete: whether pulmonary artery and face have masks, too, as in version 1.

    Returns
    -------
    uint8 of the same shape: 0 where none is; `IGNORE` where those two may be and the map does not say.
    """
    organs: npt.NDArray[np.uint8] = reading_lookup().numpy().astype(np.uint8)[labels]
    for neighbours in () if complete else NEIGHBOURS.values():
        near = np.isin(labels, [label_values()[name] for name in neighbours])
        organs[within_reach(near, spacing) & (labels == 0)] = IGNORE
    return organs


class TotalSegmentatorSet:
    """The set on disk, whole or in part.

    Notes of a record: ``"study_type"``, ``"pathology"`` and ``"pathology_location"`` of the table.

    Parameters
    ----------
    folder: holds ``meta.csv`` and the folders of the patients.
    """

    name = "TotalSegmentator"
    vocabulary: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._problems: list[Problem] = []
        self._records: list[Record] = []
        rows = Tables(self._problems).read(folder / TABLE, "image_id", ("split",), reader=_rows)
        files = {p.name: p / IMAGE for p in _cases(folder) if (p / IMAGE).is_file()}
        # Without a table the patients are known all the same; it costs the split alone.
        for name, image in match(rows or files, files, self._problems):
            row = rows.get(name, {})
            split = SPLITS.get(row.get("split", "").strip(), "")
            if not (image.parent / MASKS).is_dir():
                self._problems.append(Problem(name, NOT_ON_DISK, MASKS))
                continue
            notes = {key: row[key] for key in NOTES if row.get(key)}
            self._records.append(Record(name, name, split, image, notes=MappingProxyType(notes)))

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Folders called ``sNNNN`` with ``ct.nii.gz`` and ``segmentations``."""
        return any((case / IMAGE).is_file() and (case / MASKS).is_dir() for case in _cases(folder))

    def records(self) -> Sequence[Record]:
        """All patients of the table with image and masks, in its order."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Rows without an image, images without a row or masks."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One CT with its reading organs.

        Raises
        ------
        UnusableSampleError: if a file is corrupt or missing, or a mask lies on another grid.
        """
        volume = read_ct(record.image)
        labels = merged(self._masks(record, volume), volume.spatial_shape)
        organs = reading_organs(labels, volume.spacing, complete=_version(record) == 1)
        return Sample(record, volume, organs=organs)

    def label_map(self, record: Record) -> hd.Volume:
        """The masks of one patient as a label map for phantoms, canonical; raises as `load`."""
        volume = read_ct(record.image)
        masks = self._masks(record, volume)
        return volume.with_array(merged(masks, volume.spatial_shape))

    def _masks(self, record: Record, volume: hd.Volume) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        folder = record.image.parent / MASKS
        wanted = names(_version(record))
        missing = [name for name in wanted if not (folder / f"{name}.nii.gz").is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UnusableSampleError("organ masks are missing", f"{missing[0]}{more}")
        for name in wanted:
            yield name, read_mask(folder / f"{name}.nii.gz", volume, "organ mask") > 0


def _version(record: Record) -> int:
    return 1 if (record.image.parent / MASKS / f"{ONLY_V1}.nii.gz").is_file() else 2


def _cases(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if CASE.fullmatch(p.name) and p.is_dir())


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=";"):
            yield {key: value or "" for key, value in row.items() if key}


def write_label_maps(
    dataset: TotalSegmentatorSet,
    records: Sequence[Record],
    out: Path,
    tally: Tally,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Write the label maps that are not there yet, ``sNNNN.nii.gz`` each.

    Parameters
    ----------
    advance: called after each record.
    """
    for record in records:
        target = out / f"{record.name}.nii.gz"
        if not target.exists():
            try:
                save_mask(dataset.label_map(record), target)
            except UnusableSampleError as error:
                tally.skip(record.name, error)
            else:
                tally.used += 1
        advance()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 where no label map could be written."""
    parser = argparse.ArgumentParser(
        prog="python -m training.datasets.totalsegmentator_set",
        description="Writes the masks of the TotalSegmentator data set as label maps for phantoms.",
        epilog="Example: python -m training.datasets.totalsegmentator_set Totalsegmentator_dataset_v201 "
        "--out labelmaps --split train. What is there is not written again.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the label maps")
    parser.add_argument("--split", choices=sorted(SPLITS.values()), help="only this one; all unless given")
    args = parser.parse_args(arguments)
    if not TotalSegmentatorSet.recognises(args.folder):
        parser.error(f"{args.folder} holds no sNNNN/{IMAGE} with {MASKS}; name the folder of the set")
    dataset, tally = TotalSegmentatorSet(args.folder), Tally()
    records = [r for r in dataset.records() if args.split in (None, r.split)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("label maps", total=len(records))
        write_label_maps(dataset, records, args.out, tally, lambda: progress.advance(bar))
    there = len(records) - tally.used - len(tally.skipped)
    print(f"{there} label maps were there before; {tally.summary()}", file=sys.stderr)
    return 0 if there or tally.used else 1


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["TotalSegmentatorSet", "label_values", "merged", "names", "reading_organs"]
