"""From the positions and orientations of slices to a stack, and what is not regular about it.

Pure geometry in the patient coordinate system (LPS, mm); no files, no pixels. A stack that is not
regular, because the gantry was tilted or the spacing varies, is read on a regular grid of its own
(`dicom_node.series_resampling`); what cannot be read safely is refused here with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_node.errors import SightlineError

Floats = npt.NDArray[np.float64]

# All limits are our choice.
ORIENTATION_TOLERANCE = 1e-3  # difference of direction cosines within one series: 0.06 degrees
SAME_POSITION_MM = 0.05  # closer slices are at one position
# A slice may lie this far off the regular grid: one fifth of the spacing, but never less than
# the rounding of positions to one decimal, and never more than 1 mm.
GRID_TOLERANCE, GRID_TOLERANCE_MIN_MM, GRID_TOLERANCE_MAX_MM = 0.2, 0.1, 1.0
DRIFT_MM = 1.0  # sideways shift over the whole stack that is called tilt
TILT_DEGREES, TILT_MIN_DRIFT_MM = 2.0, 0.2  # the same for short stacks
MAX_TILT_DEGREES = 35.0  # gantries reach 30; beyond, the header is wrong or these are no CT slices
# Between slices further apart nothing is known: where spacing varies or slices are missing, no gap
# may be wider than the thickest routine CT of the body is spaced.
MAX_GAP_MM = 10.0
WIDE_GAP = 1.5  # times the usual one
MAX_MISSING = 0.1  # of all slices; more, and the series has not arrived whole


class GeometryError(SightlineError):
    """The slices do not form a volume that can be read; the message is the reason for a person."""


@dataclass(frozen=True)
class SliceStack:
    """Slices in order along their normal.

    Attributes
    ----------
    order: order[k] is the index, in the sequence that came in, of slice k.
    positions: (n, 3) centre of the first pixel of each slice, LPS mm.
    row, column: (3,) unit vectors along increasing column index and along increasing row index.
    normal: (3,) row × column.
    along: (3,) unit vector from the first to the last position; the normal, unless tilted.
    spacing_mm: usual distance of neighbours in the direction of `along`.
    oddities: why the slices are no regular grid, for a person; none where they are one.
    """

    order: tuple[int, ...]
    positions: Floats
    row: Floats
    column: Floats
    normal: Floats
    along: Floats
    spacing_mm: float
    oddities: tuple[str, ...]

    @property
    def is_regular(self) -> bool:
        """Whether the slices are the planes of a regular grid."""
        return not self.oddities

    @property
    def is_tilted(self) -> bool:
        """Whether each slice is shifted sideways against the one before."""
        return not np.array_equal(self.along, self.normal)

    @property
    def extent_mm(self) -> float:
        """From the first slice to the last, in the direction of `along`."""
        return float((self.positions[-1] - self.positions[0]) @ self.along)


def slice_normal(orientation: Sequence[float]) -> Floats:
    """(3,) unit normal: row direction × column direction (PS3.3 C.7.6.2.1.1).

    Raises
    ------
    GeometryError: if the two directions are not unit vectors at a right angle.

    >>> slice_normal((1, 0, 0, 0, 1, 0)).tolist()
    [0.0, 0.0, 1.0]
    """
    row, column = _directions(orientation)
    return np.cross(row, column)


def _directions(orientation: Sequence[float]) -> tuple[Floats, Floats]:
    """Direction of increasing column index, and of increasing row index, made exactly orthonormal."""
    row, column = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise GeometryError("Image Orientation (Patient) is not two unit vectors at a right angle")
    row = row / lengths[0]
    column = column - (row @ column) * row
    return row, column / np.linalg.norm(column)


def stack_slices(
    positions_mm: npt.ArrayLike, orientations: npt.ArrayLike, numbers: Sequence[int | None] | None = None
) -> SliceStack:
    """Sort slices along their normal and find what is not regular about them.

    Parameters
    ----------
    positions_mm: (n, 3) Image Position (Patient): centre of each slice's first pixel.
    orientations: (n, 6) Image Orientation (Patient).
    numbers: Instance Numbers; a gap in them tells a slice that is missing from a wider spacing.

    Raises
    ------
    GeometryError: mixed orientations, several slices at one position, slices that are shifted
        sideways at random, a tilt or a gap beyond the limits above, or more than a tenth of the
        slices missing. Slice Thickness is never looked at: slices may overlap or leave gaps
        (PS3.3 C.7.6.2.1.1 knows positions only).
    """
    positions = np.asarray(positions_mm, dtype=np.float64)
    cosines = np.asarray(orientations, dtype=np.float64)
    if len(positions) < 2:
        raise GeometryError("only 1 image; a volume needs several slices")
    if np.abs(cosines - cosines[0]).max() > ORIENTATION_TOLERANCE:
        raise GeometryError("the images have different orientations")
    row, column = _directions(cosines[0])
    normal = np.cross(row, column)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    _refuse_shared_positions(positions @ normal)
    tilt = _tilt_degrees(positions, normal)
    along = normal if tilt is None else _unit(positions[-1] - positions[0])
    in_order = None if numbers is None else [numbers[index] for index in order]
    spacing, uneven = _spacing(positions @ along, in_order)
    tilted = () if tilt is None else (f"gantry tilt of {tilt:.1f} degrees",)
    return SliceStack(
        order=tuple(int(index) for index in order),
        positions=positions,
        row=row,
        column=column,
        normal=normal,
        along=along,
        spacing_mm=spacing,
        oddities=(*tilted, *uneven),
    )


def _unit(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)


def _refuse_shared_positions(distance: Floats) -> None:
    n = len(distance)
    if distance[-1] - distance[0] < SAME_POSITION_MM:
        raise GeometryError(
            f"all {n} images lie at the same position (bolus tracking, perfusion or a time series)"
        )
    places = 1 + int((np.diff(distance) >= SAME_POSITION_MM).sum())
    if places < n:
        raise GeometryError(
            f"{n} images at only {places} positions, and nothing in their headers tells them apart "
            "(duplicates, or several phases in one series)"
        )


def _tilt_degrees(positions: Floats, normal: Floats) -> float | None:
    """Angle between the normal and the way from slice to slice; None where that is none."""
    offset = positions - positions[0]
    drift = np.linalg.norm(offset - (offset @ normal)[:, None] * normal, axis=1)
    degrees = float(np.degrees(np.arctan2(drift[-1], offset[-1] @ normal)))
    tilted = drift[-1] > DRIFT_MM or (degrees > TILT_DEGREES and drift[-1] > TILT_MIN_DRIFT_MM)
    if tilted and degrees > MAX_TILT_DEGREES:
        raise GeometryError(
            f"each slice is shifted sideways against the one before, as by a gantry tilted {degrees:.0f} "
            f"degrees; no gantry tilts beyond {MAX_TILT_DEGREES:.0f}"
        )
    along = _unit(offset[-1]) if tilted else normal
    astray = np.linalg.norm(offset - (offset @ along)[:, None] * along, axis=1).max()
    if astray > DRIFT_MM:
        raise GeometryError(f"slices are shifted sideways against each other by up to {astray:.1f} mm")
    return degrees if tilted else None


def _spacing(distance: Floats, numbers: Sequence[int | None] | None) -> tuple[float, tuple[str, ...]]:
    """Usual spacing of slices, and what is uneven about it; raises where a gap cannot be bridged."""
    n = len(distance)
    spacing = float((distance[-1] - distance[0]) / (n - 1))
    grid = distance[0] + np.arange(n) * spacing
    tolerance = min(max(GRID_TOLERANCE * spacing, GRID_TOLERANCE_MIN_MM), GRID_TOLERANCE_MAX_MM)
    if np.abs(distance - grid).max() <= tolerance:
        return spacing, ()
    gaps = np.diff(distance)
    usual, widest = float(np.quantile(gaps, 0.25)), int(gaps.argmax())
    missing = _missing(gaps, usual, numbers)
    lost = sum(missing.values())
    where = f"after slice {next(iter(missing), widest) + 1}"
    words = f"{lost} slice{'s' * (lost > 1)} missing {where}" if lost else "slice spacing varies"
    if gaps[widest] > MAX_GAP_MM:
        raise GeometryError(
            f"{words}: {gaps[widest]:.2f} mm to the next one after slice {widest + 1}, usually "
            f"{usual:.2f} mm; more than {MAX_GAP_MM:.0f} mm is not bridged; send the series again, complete"
        )
    if lost > MAX_MISSING * (n + lost):
        raise GeometryError(
            f"{lost} of {n + lost} slices missing, the first {where}; send the series again, complete"
        )
    return usual, (f"{words} ({gaps.min():.2f} to {gaps[widest]:.2f} mm apart)",)


def _missing(gaps: Floats, usual: float, numbers: Sequence[int | None] | None) -> dict[int, int]:
    """Index of the slice before each gap in which slices are missing, and how many.

    Known by Instance Numbers; where they are not there, a gap of several spacings is taken for it.
    """
    missing = {}
    for k in map(int, np.flatnonzero(gaps > WIDE_GAP * usual)):
        before, after = (None, None) if numbers is None else (numbers[k], numbers[k + 1])
        if before is None or after is None:
            count = round(float(gaps[k] / usual)) - 1
        else:
            count = min(abs(after - before) - 1, round(float(gaps[k] / usual)))
        if count > 0:
            missing[k] = count
    return missing
