"""A sphere in CT slices that make no regular grid: tilted, unevenly spaced, with slices missing.

The field is smooth and known everywhere: 60 HU per mm inwards of the sphere's surface, so that the
surface is where it is 0 HU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset

from tests.dicom_node.ct_files import Change, write_ct

CENTRE, RADIUS_MM, SLOPE = np.array([3.0, -4.0, 40.0]), 14.0, 60.0
ROWS, COLUMNS, PIXEL_MM = 44, 40, (1.25, 1.5)


def depth_mm(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(...) how deep inside the sphere (..., 3) LPS points lie; negative outside."""
    return np.asarray(RADIUS_MM - np.linalg.norm(points - CENTRE, axis=-1))


def orientation(degrees: float, turn: float = 0.0) -> npt.NDArray[np.float64]:
    """(6,) cosines of an axial slice tilted about its rows; `turn` turns the whole about the body's axis."""
    tilt, turned = np.radians([degrees, turn])
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(tilt), -np.sin(tilt)])
    about = np.array([[np.cos(turned), -np.sin(turned), 0], [np.sin(turned), np.cos(turned), 0], [0, 0, 1]])
    return np.concatenate([about @ row, about @ column])


def positions(heights: Sequence[float], cosines: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, 3) first pixels of slices at table heights, one above the other along the body's axis."""
    corner = -cosines[:3] * PIXEL_MM[1] * (COLUMNS - 1) / 2 - cosines[3:] * PIXEL_MM[0] * (ROWS - 1) / 2
    return np.asarray(CENTRE * [1, 1, 0] + corner + np.asarray(heights)[:, None] * [0, 0, 1.0])


def pixel_points(
    position: npt.NDArray[np.float64], cosines: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(rows, columns, 3) LPS centres of a slice's pixels (PS3.3 equation C.7.6.2.1-1)."""
    row, column = np.mgrid[:ROWS, :COLUMNS]
    return np.asarray(
        position + row[..., None] * PIXEL_MM[0] * cosines[3:] + column[..., None] * PIXEL_MM[1] * cosines[:3]
    )


def write_sphere(
    folder: Path,
    heights: Sequence[float],
    *,
    degrees: float = 0.0,
    turn: float = 0.0,
    numbers: Sequence[int] | None = None,
    change: Change | None = None,
) -> list[Path]:
    """Write the slices at `heights`; `numbers` are their Instance Numbers, 1 and on by default."""
    cosines = orientation(degrees, turn)
    places = positions(heights, cosines)

    def place(dataset: FileDataset, k: int) -> None:
        dataset.ImagePositionPatient = [f"{value:.9g}" for value in places[k]]
        dataset.ImageOrientationPatient = [f"{value:.12g}" for value in cosines]
        dataset.PixelSpacing = [f"{value:g}" for value in PIXEL_MM]
        if numbers is not None:
            dataset.InstanceNumber = numbers[k]
        hu = np.clip(SLOPE * depth_mm(pixel_points(places[k], cosines)), -1000, 1000)
        dataset.PixelData = np.rint(hu + 1024).astype("<u2").tobytes()
        if change is not None:
            change(dataset, k)

    return write_ct(folder, n_slices=len(heights), rows=ROWS, columns=COLUMNS, change=place)
