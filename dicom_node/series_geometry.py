"""From the positions and orientations of slices to one regular grid, or the reason why not.

Pure geometry in the patient coordinate system (LPS, mm); no files, no pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_node.errors import SightlineError

# All tolerances are our choice.
ORIENTATION_TOLERANCE = 1e-3  # difference of direction cosines within one series: 0.06 degrees
SAME_POSITION_MM = 0.05  # closer slices are at one position
# A slice may lie this far off the regular grid: one fifth of the spacing, but never less than
# the rounding of positions to one decimal, and never more than 1 mm.
GRID_TOLERANCE, GRID_TOLERANCE_MIN_MM, GRID_TOLERANCE_MAX_MM = 0.2, 0.1, 1.0
DRIFT_MM = 1.0  # sideways shift over the whole stack that is called tilt
TILT_DEGREES, TILT_MIN_DRIFT_MM = 2.0, 0.2  # the same for short stacks


class GeometryError(SightlineError):
    """The slices do not form a regular grid; the message is the reason for a person."""


@dataclass(frozen=True)
class SliceStack:
    """Slices in order along their normal.

    Attributes
    ----------
    order: order[k] is the index, in the sequence that came in, of slice k.
    affine: (4, 4) float64, (slice, row, column) index -> LPS mm.
    spacing_mm: between slices, along the normal.
    """

    order: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    spacing_mm: float


def slice_normal(orientation: Sequence[float]) -> npt.NDArray[np.float64]:
    """(3,) unit normal: row direction × column direction (PS3.3 C.7.6.2.1.1).

    Raises
    ------
    GeometryError: if the two directions are not unit vectors at a right angle.

    >>> slice_normal((1, 0, 0, 0, 1, 0)).tolist()
    [0.0, 0.0, 1.0]
    """
    row, column = _directions(orientation)
    return np.cross(row, column)


def _directions(orientation: Sequence[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Direction of increasing column index, and of increasing row index, made exactly orthonormal."""
    row, column = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise GeometryError("Image Orientation (Patient) is not two unit vectors at a right angle")
    row = row / lengths[0]
    column = column - (row @ column) * row
    return row, column / np.linalg.norm(column)


def stack_slices(
    positions_mm: npt.ArrayLike, orientations: npt.ArrayLike, pixel_spacing_mm: Sequence[float]
) -> SliceStack:
    """Sort slices along their normal and find the regular grid that they lie on.

    Parameters
    ----------
    positions_mm: (n, 3) Image Position (Patient): centre of each slice's first pixel.
    orientations: (n, 6) Image Orientation (Patient).
    pixel_spacing_mm: between rows, between columns.

    Raises
    ------
    GeometryError: mixed orientations, several slices at one position, gantry tilt, or a
        spacing that is not regular. Slice Thickness is never looked at: slices may overlap
        or leave gaps (PS3.3 C.7.6.2.1.1 knows positions only).
    """
    positions = np.asarray(positions_mm, dtype=np.float64)
    cosines = np.asarray(orientations, dtype=np.float64)
    if len(positions) < 2:
        raise GeometryError("only 1 image; a volume needs several slices")
    if np.abs(cosines - cosines[0]).max() > ORIENTATION_TOLERANCE:
        raise GeometryError("the images have different orientations")
    row, column = _directions(cosines[0])
    normal = np.cross(row, column)
    distance = positions @ normal
    order = np.argsort(distance, kind="stable")
    positions, distance = positions[order], distance[order]
    _refuse_shared_positions(distance)
    _refuse_tilt(positions, distance, normal)
    spacing = _regular_spacing(distance)
    affine = np.eye(4)
    affine[:3, 0] = normal * spacing
    affine[:3, 1] = column * pixel_spacing_mm[0]
    affine[:3, 2] = row * pixel_spacing_mm[1]
    affine[:3, 3] = positions[0]
    return SliceStack(tuple(int(index) for index in order), affine, spacing)


def _refuse_shared_positions(distance: npt.NDArray[np.float64]) -> None:
    n = len(distance)
    if distance[-1] - distance[0] < SAME_POSITION_MM:
        raise GeometryError(
            f"all {n} images lie at the same position (bolus tracking, perfusion or a time series)"
        )
    places = 1 + int((np.diff(distance) >= SAME_POSITION_MM).sum())
    if places < n:
        raise GeometryError(
            f"{n} images at only {places} positions (duplicates, or several phases in one series)"
        )


def _refuse_tilt(
    positions: npt.NDArray[np.float64],
    distance: npt.NDArray[np.float64],
    normal: npt.NDArray[np.float64],
) -> None:
    offset = positions - positions[0]
    sideways = offset - (offset @ normal)[:, None] * normal
    drift = np.linalg.norm(sideways, axis=1)
    end_to_end = float(np.degrees(np.arctan2(drift[-1], distance[-1] - distance[0])))
    if end_to_end > TILT_DEGREES and drift[-1] > TILT_MIN_DRIFT_MM:
        raise GeometryError(
            f"gantry tilt of {end_to_end:.1f} degrees: each slice is shifted sideways against the one "
            "before; have the scanner reconstruct it without tilt"
        )
    if drift.max() > DRIFT_MM:
        raise GeometryError(f"slices are shifted sideways against each other by up to {drift.max():.1f} mm")


def _regular_spacing(distance: npt.NDArray[np.float64]) -> float:
    """Mean spacing; raises where a slice lies too far from the regular grid."""
    n = len(distance)
    spacing = float((distance[-1] - distance[0]) / (n - 1))
    grid = distance[0] + np.arange(n) * spacing
    tolerance = min(max(GRID_TOLERANCE * spacing, GRID_TOLERANCE_MIN_MM), GRID_TOLERANCE_MAX_MM)
    if np.abs(distance - grid).max() <= tolerance:
        return spacing
    gaps = np.diff(distance)
    usual, widest = float(np.median(gaps)), int(gaps.argmax())
    missing = round(float((gaps / usual).round().sum())) - (n - 1)
    whole = np.abs(gaps / usual - np.round(gaps / usual)).max() < GRID_TOLERANCE
    cause = f"{missing} slice{'s' * (missing > 1)} missing; send the series again" if whole else "irregular"
    raise GeometryError(
        f"slice spacing is not regular: {gaps[widest]:.2f} mm after slice {widest + 1}, "
        f"usually {usual:.2f} mm ({cause})"
    )
