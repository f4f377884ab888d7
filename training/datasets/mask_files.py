"""Label maps written whole or not at all: a run that is cut off leaves no half of one."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import highdicom as hd


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
    part = target.with_name(f"{target.name}.part")
    # By bytes, because nibabel tells the format by the ending.
    part.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))
    os.replace(part, target)


__all__ = ["save_mask"]
