"""KiTS23: kidneys, renal tumours and renal cysts on contrast CT.

Layout: the repository neheller/kits23, ``dataset/case_00000/{imaging,segmentation}.nii.gz``; Heller et al.,
arXiv 2307.01984. Images are fetched by a script of their own, so that a fresh clone has segmentations alone.
Values: 1 kidney, 2 tumour, 3 cyst. Masses that are radiologically cysts are cysts, all others tumours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from training.datasets.files import NOT_ON_DISK, read_ct, read_mask
from training.datasets.label_values import LabelValues
from training.datasets.sample import Problem, Record, Sample

CASE = re.compile(r"case_\d{5}")
IMAGE, LABELS = "imaging.nii.gz", "segmentation.nii.gz"
VALUES = LabelValues(
    "kidneys", (1, 2, 3), {2: "renal_tumour", 3: "renal_cyst"}, frozenset({"renal_tumour", "renal_cyst"})
)


def _cases(folder: Path) -> list[Path]:
    root = folder / "dataset" if (folder / "dataset").is_dir() else folder
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if CASE.fullmatch(p.name) and p.is_dir())


class Kits:
    """KiTS23 on disk, whole or in part.

    Parameters
    ----------
    folder: the repository, or its folder ``dataset``.
    """

    name = "KiTS23"
    vocabulary: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._records: list[Record] = []
        self._problems: list[Problem] = []
        for case in _cases(folder):
            missing = [name for name in (IMAGE, LABELS) if not (case / name).is_file()]
            if missing:
                self._problems.append(Problem(case.name, NOT_ON_DISK, " and ".join(missing)))
            else:
                self._records.append(Record(case.name, case.name, "train", case / IMAGE))

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Folders called ``case_NNNNN`` with an image or a segmentation of the set's name."""
        return any((case / name).is_file() for case in _cases(folder) for name in (IMAGE, LABELS))

    def records(self) -> Sequence[Record]:
        """All cases with image and segmentation; one is one patient."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Cases without an image or without a segmentation."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One case.

        Raises
        ------
        UnusableSampleError: if a file is corrupt, the grids differ, or a value is none of the set's.
        """
        volume = read_ct(record.image)
        return VALUES.sample(record, volume, read_mask(record.image.with_name(LABELS), volume))


__all__ = ["VALUES", "Kits"]
