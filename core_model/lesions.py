"""How large a lesion is.

Only arrays and geometry; what a lesion is, is the detector's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError

from core_model.reading import point_lps

Mask = npt.NDArray[np.bool_]


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
    index = np.argwhere(mask)
    if len(index) == 0:
        raise ValueError("mask is empty; an empty lesion has no size")
    long_axis, short_axis = in_plane_axes(mask, volume.spacing[1], volume.spacing[2])
    centroid = volume.map_indices_to_reference(index.mean(0, keepdims=True))[0]
    return Measurements(
        volume_ml=len(index) * float(np.prod(volume.spacing)) / 1000,
        long_axis_mm=long_axis,
        short_axis_mm=short_axis,
        mean_hu=float(volume.array[mask].mean()),
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
    index = np.argwhere(plane).astype(np.float64)
    corners = np.concatenate([index + np.array([dy, dx]) for dy in (-0.5, 0.5) for dx in (-0.5, 0.5)])
    corners = np.unique(corners, axis=0)
    try:
        return np.asarray(corners[ConvexHull(corners).vertices])
    except QhullError:  # cannot happen with squares of area > 0; the points serve as well
        return corners
