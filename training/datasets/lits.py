"""LiTS: livers and liver tumours on contrast CT.

Layout: competitions.codalab.org/competitions/17094, ``volume-N.nii`` and ``segmentation-N.nii`` in folders of
any name (also packed, ``.nii.gz``), ``test-volume-N.nii`` without segmentation; Bilic et al., Medical Image
Analysis 2023, doi 10.1016/j.media.2022.102680. Values: 1 liver, 2 tumour. The patients are those of task 03
of the Decathlon under the same numbers, and are called as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.datasets.files import IN_NO_TABLE, NOT_ON_DISK, niftis, read_ct, read_mask, stem
from training.datasets.label_values import LabelValues
from training.datasets.sample import Problem, Record, Sample

FILE = re.compile(r"(?P<kind>volume|segmentation|test-volume)-(?P<number>\d+)")
VALUES = LabelValues("liver", (1, 2), {2: "liver_tumour"}, frozenset({"liver_tumour"}))


def _files(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """(kind, number, file) of the set's files at any depth; the first of a name that comes twice."""
    seen = set()
    for path in niftis(folder):
        name = stem(path.name)
        if (found := FILE.fullmatch(name)) is not None and name not in seen:
            seen.add(name)
            yield found["kind"], int(found["number"]), path


class Lits:
    """LiTS on disk, whole or in part.

    Parameters
    ----------
    folder: of the set, or of one of its batches.
    """

    name = "LiTS"
    vocabulary: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._records: list[Record] = []
        self._problems: list[Problem] = []
        files: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}, "test-volume": {}}
        for kind, number, path in _files(folder):
            files[kind][number] = path
        self._segmentations = files["segmentation"]
        for number, path in sorted(files["volume"].items()):
            if number in self._segmentations:
                self._records.append(Record(f"volume-{number}", f"liver_{number}", "train", path))
            else:
                self._problems.append(Problem(f"volume-{number}", NOT_ON_DISK, "its segmentation"))
        for number, path in sorted(files["test-volume"].items()):
            name = f"test-volume-{number}"
            self._records.append(Record(name, name, "test", path))
        for number in sorted(self._segmentations.keys() - files["volume"].keys()):
            self._problems.append(Problem(f"segmentation-{number}", NOT_ON_DISK, "its volume"))
        known = {path for kind in files.values() for path in kind.values()}
        self._problems += [Problem(stem(p.name), IN_NO_TABLE) for p in niftis(folder) if p not in known]

    @staticmethod
    def recognises(folder: Path) -> bool:
        """A file called ``volume-N`` or ``segmentation-N``, here or one folder deeper."""
        found = [p for pattern in ("*.nii*", "*/*.nii*") for p in folder.glob(pattern)]
        return any(FILE.fullmatch(stem(p.name)) for p in found)

    def records(self) -> Sequence[Record]:
        """Volumes with a segmentation as ``train``, then those without as ``test``."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Volumes and segmentations without each other, and files of other names."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One case; those of the test split have no masks.

        Raises
        ------
        UnusableSampleError: if a file is corrupt, the grids differ, or a value is none of the set's.
        """
        volume = read_ct(record.image)
        if record.split == "test":
            return Sample(record, volume)
        path = self._segmentations[int(record.name.rpartition("-")[2])]
        return VALUES.sample(record, volume, read_mask(path, volume))


__all__ = ["VALUES", "Lits"]
