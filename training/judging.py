"""One patient: a bare reading compared with the truth, and the verdict on it at given thresholds.

A bare reading reports every lesion candidate, whatever its score, and its findings are not
raised by lesions. `judge` counts once how candidates and planted lesions overlap; `verdict`
then says for any thresholds what the reader would have reported, without reading again.
(Two candidates of different types may claim the same voxel; the higher score gets it, here
even where its type's threshold would have dropped it. Organs hardly touch, so this is rare.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.reading import Reading
from core_model.thresholds import Thresholds, rescaled
from training.benchmark import Case

MIN_OVERLAP = 0.1  # share of a planted lesion that reported ones must cover to have found it; our choice
MIN_ORGAN_VOXELS = 200  # of the benchmark's grid (3 ml): smaller rests of organs are not measured


@dataclass(frozen=True)
class PlantedRecord:
    """One planted tumour; `diameter_mm` of the sphere of its volume, `voxels` on the image grid."""

    abnormality: str
    diameter_mm: float
    mask_value: int
    voxels: int


@dataclass(frozen=True)
class CandidateRecord:
    """One lesion candidate; `overlaps`: planted mask value -> shared voxels."""

    abnormality: str
    score: float
    voxels: int
    overlaps: dict[int, int]


@dataclass(frozen=True)
class FindingRecord:
    """One bare finding whose organ is in view, with its truth."""

    abnormality: str
    probability: float
    truth: bool


@dataclass(frozen=True)
class ImageRecord:
    """What a bare reading of one patient says beside the truth.

    Attributes
    ----------
    planted, candidates: tumours only.
    abnormalities: names of everything that was planted.
    organ_dice: by organ name, for organs that the truth shows.
    """

    seed: int
    planted: tuple[PlantedRecord, ...]
    candidates: tuple[CandidateRecord, ...]
    findings: tuple[FindingRecord, ...]
    abnormalities: tuple[str, ...]
    organ_dice: dict[str, float]


def bare(thresholds: Thresholds) -> Thresholds:
    """`thresholds` with every lesion candidate reported and findings left as the model says them."""
    names = [a.name for a in abnormalities() if a.tumour]
    return replace(
        thresholds,
        lesion=dict.fromkeys(names, 0.0),
        lesion_offset=None,
        lesion_temperature=None,
        offset=None,
        temperature=1.0,
        raise_findings=False,
    )


def dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient; 1.0 where both are empty.

    >>> dice(np.array([True, True]), np.array([True, False]))
    0.6666666666666666
    """
    return dice_of(int((a & b).sum()), int(a.sum()), int(b.sum()))


def dice_of(shared: int, one: int, other: int) -> float:
    """Dice coefficient of two masks' sizes and their intersection; 1.0 where both are empty."""
    return 2 * shared / (one + other) if one + other else 1.0


def organ_dice(
    predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], min_voxels: int = 1
) -> dict[str, float]:
    """Dice per reading organ that the truth holds with at least `min_voxels` voxels."""
    return {
        o.name: dice(predicted == o.label, truth == o.label)
        for o in organs()
        if int((truth == o.label).sum()) >= min_voxels
    }


def judge(case: Case, reading: Reading) -> ImageRecord:
    """Compare a bare reading with the truth of its phantom."""
    mask = reading.lesion_mask.array
    sizes = np.bincount(case.lesions.ravel(), minlength=256)
    tumours = {a.name for a in abnormalities() if a.tumour}
    planted = [
        PlantedRecord(
            p.abnormality, p.diameter_mm, p.mask_value, int(sizes[p.mask_value]) if p.mask_value else 0
        )
        for p in case.phantom.planted
        if p.abnormality in tumours
    ]
    candidates = []
    for lesion in reading.lesions:
        under = np.bincount(case.lesions[mask == lesion.label], minlength=256)
        overlaps = {int(v): int(under[v]) for v in np.flatnonzero(under) if v}
        candidates.append(CandidateRecord(lesion.type, lesion.probability, int(under.sum()), overlaps))
    names = {p.abnormality for p in case.phantom.planted}
    return ImageRecord(
        seed=case.seed,
        planted=tuple(planted),
        candidates=tuple(candidates),
        findings=tuple(
            FindingRecord(f.abnormality, f.probability, f.abnormality in names)
            for f in reading.findings
            if f.probability is not None
        ),
        abnormalities=tuple(sorted(names)),
        organ_dice=organ_dice(reading.organ_mask.array, case.organs, MIN_ORGAN_VOXELS),
    )


@dataclass(frozen=True)
class PlantedResult:
    """Whether one planted tumour was found.

    Attributes
    ----------
    diameter_mm: of the sphere of its volume.
    found: reported lesions of its type cover at least `MIN_OVERLAP` of it.
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
    """The verdict on one patient; `organ_dice` by organ name for organs that are in it."""

    planted: tuple[PlantedResult, ...]
    reported: tuple[ReportedResult, ...]
    findings: tuple[FindingResult, ...]
    organ_dice: dict[str, float]


def scored(record: ImageRecord, thresholds: Thresholds) -> ImageRecord:
    """A bare record with lesion probabilities in the place of scores (`Thresholds.lesion_probability`)."""
    candidates = tuple(
        replace(c, score=thresholds.lesion_probability(c.abnormality, c.score)) for c in record.candidates
    )
    return replace(record, candidates=candidates)


def verdict(record: ImageRecord, thresholds: Thresholds) -> CaseResult:
    """What the reader would have reported with these lesion and finding thresholds.

    Parameters
    ----------
    record: of `scored`, where there are lesion offsets.
    thresholds: `mask` and `organ_ml` must be those of the bare reading.
    """
    kept = [c for c in record.candidates if c.score >= thresholds.lesion_score(c.abnormality)]
    findings = []
    for f in record.findings:
        own = [c.score for c in kept if c.abnormality == f.abnormality and thresholds.raise_findings]
        scaled = rescaled(f.probability, thresholds.finding_offset(f.abnormality), thresholds.temperature)
        probability = max([scaled, *own])
        status = "present" if own else thresholds.status(probability)
        findings.append(FindingResult(record.seed, f.abnormality, probability, f.truth, status))
    return CaseResult(
        planted=tuple(_found(record.seed, p, kept) for p in record.planted),
        reported=tuple(
            ReportedResult(record.seed, c.abnormality, c.score, is_true(c, record.planted)) for c in kept
        ),
        findings=tuple(findings),
        organ_dice=record.organ_dice,
    )


def is_true(candidate: CandidateRecord, planted: tuple[PlantedRecord, ...]) -> bool:
    """Whether a candidate touches a planted tumour of its type."""
    return any(p.abnormality == candidate.abnormality and p.mask_value in candidate.overlaps for p in planted)


def _found(seed: int, planted: PlantedRecord, kept: list[CandidateRecord]) -> PlantedResult:
    touching = [c for c in kept if c.abnormality == planted.abnormality and planted.mask_value in c.overlaps]
    shared = sum(c.overlaps[planted.mask_value] for c in touching)
    covered = shared / planted.voxels if planted.voxels else 0.0
    overlap = dice_of(shared, sum(c.voxels for c in touching), planted.voxels)
    return PlantedResult(seed, planted.abnormality, planted.diameter_mm, covered >= MIN_OVERLAP, overlap)


def detection_score(planted: PlantedRecord, candidates: tuple[CandidateRecord, ...]) -> float:
    """The highest lesion threshold at which a planted tumour is still found; -inf where it never is."""
    own = [c for c in candidates if c.abnormality == planted.abnormality and planted.mask_value in c.overlaps]
    shared = 0
    for candidate in sorted(own, key=lambda c: -c.score):
        shared += candidate.overlaps[planted.mask_value]
        if shared / planted.voxels >= MIN_OVERLAP:
            return candidate.score
    return float("-inf")
