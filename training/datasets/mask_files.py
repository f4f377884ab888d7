"""Label maps written whole or not at all: a run that is cut off leaves no half of one."""

from __future__ import annotations

import gzip
from pathlib import Path

import highdicom as hd

from training.whole_files import whole_file


def save_mask(mask: hd.Volume, target: Path) -> None:
    """Write a label map as NIfTI on its own axes.

    Parameters
    ----------
    mask: uint8.
    target: ends in .nii.gz; its folder is made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    image = mask.to_nibabel()
    image.header.set_xyzt_units("mm")
    with whole_file(target) as part:
        # By bytes, because nibabel tells the format by the ending.
        part.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


__all__ = ["save_mask"]
