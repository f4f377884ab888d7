"""The phantom benchmark's patients: fixed by seed, unseen in training, made one at a time.

Not the comparison with a reading (`training.judging`) and not the figures (`training.summary`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt

from training.phantoms.dicom import (
    KERNELS,
    SeriesSettings,
    export_geometry,
    image_slices,
    nearest,
    phantom_geometry,
)
from training.phantoms.procedural import COVERAGE
from training.phantoms.study import make_phantom
from training.phantoms.tissues import AnatomySource, Phantom

VERSION = "phantoms/2"  # new whenever a seed gives another patient or another scan
PARTIAL = 0.4  # share of the patients of whom only a part is scanned; our choice
TEST_SEED, DEVELOPMENT_SEED = 1_000_000, 2_000_000
TRAINING_SEED = 5_000_000  # of whole patients for training (`training.stored_patients`)


@dataclass(frozen=True)
class Case:
    """One phantom as the reader sees it.

    Attributes
    ----------
    volume: HU, slices from feet to head.
    organs, lesions: uint8 truth on the same grid.
    phantom: what was planted.
    """

    seed: int
    volume: hd.Volume
    organs: npt.NDArray[np.uint8]
    lesions: npt.NDArray[np.uint8]
    phantom: Phantom


def coverage_of(seed: int) -> str | None:
    """The part of the body that is scanned of a patient of the benchmark; None for neck to thigh."""
    rng = np.random.default_rng([seed, 5])
    return None if rng.random() >= PARTIAL else str(rng.choice(sorted(COVERAGE)))


def make_case(
    seed: int,
    spacing_mm: float = 2.5,
    chances: Mapping[str, float] | None = None,
    source: AnatomySource | None = None,
) -> Case:
    """The benchmark's patient of a seed; with `chances` or `source` (`make_phantom`) another one."""
    phantom = make_phantom(
        seed, spacing_mm=spacing_mm, coverage=coverage_of(seed), chances=chances, source=source
    )
    kernel = sorted(KERNELS)[seed % len(KERNELS)]
    settings = SeriesSettings(seed=seed, kernel=kernel)
    geometry = export_geometry(phantom, settings)
    painted = phantom_geometry(phantom)
    array = np.stack(list(image_slices(phantom, settings)))
    return Case(
        seed=seed,
        volume=hd.Volume(array.astype(np.float32), geometry.affine, coordinate_system="PATIENT"),
        organs=np.asarray(nearest(phantom.organs, painted, geometry)),
        lesions=np.asarray(nearest(phantom.lesions, painted, geometry)),
        phantom=phantom,
    )


def cases(first_seed: int, n: int, spacing_mm: float = 2.5) -> Iterator[Case]:
    """The patients `first_seed` .. `first_seed` + n - 1, made one at a time."""
    for seed in range(first_seed, first_seed + n):
        yield make_case(seed, spacing_mm)
