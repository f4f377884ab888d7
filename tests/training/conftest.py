"""What several tests of training start from."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.tiny import body_volume, tiny_checkpoint
from tests.training.small_anatomy import small_anatomy
from training.samples import Crop, PhantomCrops, collate


@pytest.fixture(scope="session")
def coarse_crops() -> Crop:
    """Two crops of an anatomy of boxes at the spacing of the tests' model."""
    crops = PhantomCrops([(small_anatomy, 1.0)], (16, 32, 32), 8.0, seed=4, crops=2)
    return collate(list(islice(crops, 2)))


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A checkpoint, a NIfTI CT and labels: what the reader says of it, as TotalSegmentator ids."""
    tiny_checkpoint(tmp_path / "checkpoint")
    hu = body_volume((20, 24, 26)).array.transpose(2, 1, 0)
    affine = np.diag([-8.0, -8.0, 8.0, 1.0])
    labels = np.zeros(hu.shape, np.uint8)
    labels[4:16, 6:18, 4:14] = 5
    labels[17:22, 6:18, 4:14] = 1
    for array, name in ((hu, "ct.nii.gz"), (labels, "labels.nii.gz")):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / name)  # type: ignore[no-untyped-call]
    return tmp_path / "checkpoint", tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz"
