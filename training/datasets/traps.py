"""The mistakes that others made with these sets, looked for in a sample: HU, spacing, direction, labels.

A warning is a doubt in words, not a fault: nothing is rejected here. Bounds are our choice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core_model.anatomy import organ
from training.datasets.sample import DataSet, Sample

SOFT_HU = (-200.0, 250.0)  # fat, water, soft tissue, contrast
LEAST_SOFT = 0.02  # share of the voxels; a chest has 0.2 and more
NO_AIR_HU = -300.0  # a CT has air in or round the body
DEEP_HU = -1500.0  # padding lies here, or air that was rescaled twice
SLICE_MM, PIXEL_MM = (0.2, 12.0), (0.2, 6.0)
HEIGHT_MM, WIDTH_MM = (30.0, 2200.0), (120.0, 800.0)
LEAST_VOXELS = 20  # of an organ whose place counts
# (upper organ, lower organ), (organ on the right, on the left), (in front, behind)
UPRIGHT = (
    ("brain", "lung"),
    ("trachea", "liver"),
    ("lung", "liver"),
    ("heart", "kidneys"),
    ("heart", "liver"),
    ("liver", "urinary_bladder"),
    ("kidneys", "urinary_bladder"),
    ("thoracic_spine", "lumbar_spine"),
)
RIGHT_LEFT = (("liver", "spleen"), ("liver", "stomach"), ("gallbladder", "spleen"))
FRONT_BACK = (
    ("heart", "thoracic_spine"),
    ("liver", "lumbar_spine"),
    ("trachea", "thoracic_spine"),
    ("urinary_bladder", "sacrum"),
)


def traps(dataset: DataSet, sample: Sample) -> tuple[str, ...]:
    """What looks wrong with a sample, in words; empty where nothing does."""
    found = [*hu_traps(sample.volume.array), *_geometry_traps(sample), *_snippet_traps(sample)]
    if dataset.vocabulary and not sample.record.labels:
        found.append("labels are empty, though the set has some: the row is missing, or of another set")
    if sample.organs is not None:
        found += direction_traps(sample.organs)
    return tuple(found)


def hu_traps(hu: npt.NDArray[np.floating]) -> list[str]:
    """What looks wrong with Hounsfield units, (slices, rows, columns)."""
    found = []
    low, high = float(hu.min()), float(hu.max())
    soft = float(np.mean((hu > SOFT_HU[0]) & (hu < SOFT_HU[1])))
    deep = float(np.mean(hu < DEEP_HU))
    if low > NO_AIR_HU:
        found.append(f"no voxel is below {NO_AIR_HU:.0f} HU: stored values or a window, not HU?")
    if soft < LEAST_SOFT and deep >= LEAST_SOFT:
        found.append(
            f"{deep:.0%} of the voxels lie below {DEEP_HU:.0f} HU and {soft:.1%} are soft tissue: "
            "rescaled twice?"
        )
    elif soft < LEAST_SOFT:
        found.append(f"{soft:.1%} of the voxels are soft tissue: no HU, or no body?")
    if high - low < 50:
        found.append(f"values span {low:.4g} to {high:.4g}: no HU")
    return found


def direction_traps(organs: npt.NDArray[np.uint8]) -> list[str]:
    """Axes that run the wrong way, as far as organs tell.

    Parameters
    ----------
    organs: (slices, rows, columns) reading organ labels; axes should run to head, back and left.
    """
    centres: dict[str, npt.NDArray[np.float64]] = {}
    for name in {n for pairs in (UPRIGHT, RIGHT_LEFT, FRONT_BACK) for pair in pairs for n in pair}:
        voxels = np.argwhere(organs == organ(name).label)
        if len(voxels) >= LEAST_VOXELS:
            centres[name] = voxels.mean(axis=0)
    found = []
    for pairs, axis, sign, what in (
        (UPRIGHT, 0, 1, "slices run from head to feet"),
        (RIGHT_LEFT, 2, -1, "left and right are swapped"),
        (FRONT_BACK, 1, -1, "front and back are swapped"),
    ):
        told = [
            sign * (centres[a][axis] - centres[b][axis]) for a, b in pairs if a in centres and b in centres
        ]
        if told and sum(t < 0 for t in told) > len(told) / 2:
            a, b = next(
                (a, b)
                for a, b in pairs
                if a in centres and b in centres and sign * (centres[a][axis] - centres[b][axis]) < 0
            )
            found.append(f"{what}, by {a.replace('_', ' ')} and {b.replace('_', ' ')}")
    return found


def _geometry_traps(sample: Sample) -> list[str]:
    spacing = sample.volume.spacing
    size = [n * s for n, s in zip(sample.volume.spatial_shape, spacing, strict=True)]
    found = []
    for what, value, (least, most) in (
        ("slices lie", spacing[0], SLICE_MM),
        ("rows lie", spacing[1], PIXEL_MM),
        ("columns lie", spacing[2], PIXEL_MM),
    ):
        if not least <= value <= most:
            found.append(f"{what} {value:.3g} mm apart")
    for what, value, (least, most) in (
        ("high", size[0], HEIGHT_MM),
        ("deep", size[1], WIDTH_MM),
        ("wide", size[2], WIDTH_MM),
    ):
        if not least <= value <= most:
            found.append(f"the scan is {value:.0f} mm {what}: is its spacing right?")
    return found


def _snippet_traps(sample: Sample) -> list[str]:
    count = sample.volume.spatial_shape[0]
    outside = sum(not 0 <= s.first <= s.slice_index <= s.last < count for s in sample.snippets)
    return [f"{outside} snippets lie outside of the scan"] if outside else []


__all__ = ["direction_traps", "hu_traps", "traps"]
