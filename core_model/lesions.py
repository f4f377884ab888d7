"""From a probability map to separate, measured lesions.

Only arrays and geometry; which text made the map and what it means is the reader's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from core_model.grounding import LESION_TOP_VOXELS
from core_model.reading import point_lps
from core_model.volume import bounding_slices

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Component:
    """One connected piece of a probability map.

    Attributes
    ----------
    mask: (D, H, W) bool on the map's grid.
    score: mean of its `LESION_TOP_VOXELS` highest probabilities (in its organ's core, where one is given).
    voxels: its size.
    """

    mask: Mask
    score: float
    voxels: int


def components(
    probability: npt.NDArray[np.float32], threshold: float, min_voxels: int, core: Mask | None = None
) -> list[Component]:
    """Connected pieces above `threshold`, highest score first.

    Parameters
    ----------
    probability: (D, H, W).
    min_voxels: smaller pieces are dropped.
    core: (D, H, W) bool, where the evidence must be: pieces with fewer voxels there are dropped too.
    """
    labels, n = ndimage.label(probability >= threshold, structure=np.ones((3, 3, 3)))
    found = []
    for index, box in enumerate(ndimage.find_objects(labels, n), start=1):
        inside = labels[box] == index
        size = int(inside.sum())
        counted = inside if core is None else inside & core[box]
        if int(counted.sum()) < min_voxels:
            continue
        mask = np.zeros(probability.shape, dtype=bool)
        mask[box] = inside
        top = np.sort(probability[box][counted])[-LESION_TOP_VOXELS:]
        found.append(Component(mask=mask, score=float(top.mean()), voxels=size))
    return sorted(found, key=lambda c: -c.score)


@dataclass(frozen=True)
class Measurements:
    """Size of one lesion; millimetres, millilitres, Hounsfield units, LPS."""

    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float
    mean_hu: float
    centroid_lps_mm: tuple[float, float, float]


def measure(mask: Mask, volume: hd.Volume) -> Measurements:
    """Measure a lesion on the scan it was found in.

    Parameters
    ----------
    mask: (D, H, W) bool on `volume`'s grid; the first axis is the slice axis.
    volume: Hounsfield units.

    Raises
    ------
    ValueError: if the mask is empty.
    """
    if not mask.any():
        raise ValueError("mask is empty; an empty lesion has no size")
    box = bounding_slices(mask, margin=(0, 0, 0))  # a scan has a thousand times a lesion's voxels
    mask = mask[box]
    index = np.argwhere(mask)
    long_axis, short_axis = in_plane_axes(mask, volume.spacing[1], volume.spacing[2])
    middle = index.mean(0, keepdims=True) + [s.start for s in box]
    centroid = volume.map_indices_to_reference(middle)[0]
    return Measurements(
        volume_ml=len(index) * float(np.prod(volume.spacing)) / 1000,
        long_axis_mm=long_axis,
        short_axis_mm=short_axis,
        mean_hu=float(volume.array[box][mask].mean()),
        centroid_lps_mm=point_lps(centroid),
    )


def in_plane_axes(mask: Mask, row_mm: float, column_mm: float) -> tuple[float, float]:
    """Long axis and the short axis perpendicular to it, on the slice where the long axis is largest.

    Parameters
    ----------
    mask: (D, H, W), first axis the slices.
    row_mm, column_mm: voxel size along the second and third axis.

    Returns
    -------
    (long axis, short axis) in mm, voxel edges included: one voxel is as long as itself.
    """
    best = (0.0, 0.0)
    for plane in mask[mask.any((1, 2))]:
        corners = _outline(plane) * np.array([row_mm, column_mm])
        gaps = corners[:, None] - corners[None]
        distance = np.hypot(gaps[..., 0], gaps[..., 1])
        i, j = np.unravel_index(int(distance.argmax()), distance.shape)
        length = float(distance[i, j])
        if length > best[0]:
            along = (corners[i] - corners[j]) / length
            across = corners @ np.array([-along[1], along[0]])
            best = (length, float(across.max() - across.min()))
    return best


def _outline(plane: Mask) -> npt.NDArray[np.float64]:
    """Corner points of the convex hull of a slice's voxels (as squares)."""
    rows = np.flatnonzero(plane.any(1))
    # What lies between a row's first and last voxel is no corner.
    first = plane[rows].argmax(1) - 0.5
    last = plane.shape[1] - 0.5 - plane[rows, ::-1].argmax(1)
    corners = np.concatenate([np.stack([rows + dy, x], 1) for dy in (-0.5, 0.5) for x in (first, last)])
    try:
        return np.asarray(corners[ConvexHull(corners).vertices])
    except QhullError:  # cannot happen with squares of area > 0; the points serve as well
        return corners
