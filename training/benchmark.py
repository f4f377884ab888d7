"""The phantom benchmark: fixed unseen patients, read once, compared with their truth.

What a read phantom says about the reader; the command lines are `training.evaluate` (measures)
and `training.calibrate` (sets thresholds, on other seeds).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.reader import Reader
from core_model.reading import Reading
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
from training.phantoms.tissues import Phantom

VERSION = "phantoms/2"  # new whenever a seed gives another patient or another scan
PARTIAL = 0.4  # share of the patients of whom only a part is scanned; our choice
TEST_SEED, DEVELOPMENT_SEED = 1_000_000, 2_000_000
MIN_OVERLAP = 0.1  # share of a planted lesion that a reported one must cover to have found it; our choice


@dataclass(frozen=True)
class Case:
    """One phantom as the reader sees it.

    Attributes
    ----------
    volume: HU, slices from head to feet as a scanner sends them.
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


def cases(first_seed: int, n: int, spacing_mm: float = 2.5) -> Iterator[Case]:
    """The benchmark's patients `first_seed` .. `first_seed` + n - 1, made one at a time."""
    for seed in range(first_seed, first_seed + n):
        phantom = make_phantom(seed, spacing_mm=spacing_mm, coverage=coverage_of(seed))
        kernel = sorted(KERNELS)[seed % len(KERNELS)]
        settings = SeriesSettings(seed=seed, kernel=kernel)
        geometry = export_geometry(phantom, settings)
        source = phantom_geometry(phantom)
        array = np.stack(list(image_slices(phantom, settings)))
        yield Case(
            seed=seed,
            volume=hd.Volume(array.astype(np.float32), geometry.affine, coordinate_system="PATIENT"),
            organs=np.asarray(nearest(phantom.organs, source, geometry)),
            lesions=np.asarray(nearest(phantom.lesions, source, geometry)),
            phantom=phantom,
        )


@dataclass(frozen=True)
class PlantedResult:
    """Whether one planted tumour was found.

    Attributes
    ----------
    diameter_mm: of the sphere of its volume.
    found: a reported lesion of its type covers at least `MIN_OVERLAP` of it.
    dice: of the reported lesions of its type that touch it, against it.
    """

    seed: int
    abnormality: str
    diameter_mm: float
    found: bool
    dice: float


@dataclass(frozen=True)
class ReportedResult:
    """One reported lesion: its score, and whether it touches a planted one of its type."""

    seed: int
    abnormality: str
    score: float
    true: bool


@dataclass(frozen=True)
class FindingResult:
    """One finding with its truth."""

    seed: int
    abnormality: str
    probability: float
    truth: bool
    status: str


@dataclass(frozen=True)
class CaseResult:
    """All comparisons of one patient; `organ_dice` by organ name for organs that are in it."""

    planted: tuple[PlantedResult, ...]
    reported: tuple[ReportedResult, ...]
    findings: tuple[FindingResult, ...]
    organ_dice: dict[str, float]


def dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient; 1.0 where both are empty.

    >>> dice(np.array([True, True]), np.array([True, False]))
    0.6666666666666666
    """
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def organ_dice(
    predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], min_voxels: int = 1
) -> dict[str, float]:
    """Dice per reading organ that the truth holds with at least `min_voxels` voxels."""
    return {
        o.name: dice(predicted == o.label, truth == o.label)
        for o in organs()
        if int((truth == o.label).sum()) >= min_voxels
    }


def judge(case: Case, reading: Reading) -> CaseResult:
    """Compare a reading with the truth of its phantom."""
    reported_mask = reading.lesion_mask.array
    tumours = {a.name for a in abnormalities() if a.tumour}
    planted, reported = [], []
    for lesion in case.phantom.planted:
        if lesion.abnormality not in tumours:
            continue
        truth = case.lesions == lesion.mask_value
        same = [n.label for n in reading.lesions if n.type == lesion.abnormality]
        touching = [k for k in same if bool((reported_mask[truth] == k).any())]
        union = np.isin(reported_mask, touching)
        covered = float(union[truth].mean()) if truth.any() else 0.0
        planted.append(
            PlantedResult(
                case.seed, lesion.abnormality, lesion.diameter_mm, covered >= MIN_OVERLAP, dice(union, truth)
            )
        )
    for found in reading.lesions:
        values = [p.mask_value for p in case.phantom.planted if p.abnormality == found.type]
        true = bool(np.isin(case.lesions[reported_mask == found.label], values).any())
        reported.append(ReportedResult(case.seed, found.type, found.probability, true))
    names = {p.abnormality for p in case.phantom.planted}
    findings = [
        FindingResult(case.seed, f.abnormality, f.probability, f.abnormality in names, f.status)
        for f in reading.findings
        if f.probability is not None
    ]
    return CaseResult(
        planted=tuple(planted),
        reported=tuple(reported),
        findings=tuple(findings),
        organ_dice=organ_dice(reading.organ_mask.array, case.organs, min_voxels=200),
    )


def read_cases(reader: Reader, first_seed: int, n: int) -> Iterator[CaseResult]:
    """Read and judge the benchmark's patients one after the other."""
    for case in cases(first_seed, n):
        yield judge(case, reader.read(case.volume))
