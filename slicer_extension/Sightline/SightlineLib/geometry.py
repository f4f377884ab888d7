"""The one place where the extension turns Slicer's RAS into the wire's LPS, and back.

Both are patient coordinates in mm; LPS is DICOM's (x to the left, y to the back), RAS is Slicer's
(x to the right, y to the front). Only numbers: no nodes, no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Its own inverse.
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def rasFromLps(point: Sequence[float]) -> tuple[float, float, float]:
    """A point of the wire in Slicer's coordinates.

    >>> rasFromLps((10.0, -20.0, 30.0))
    (-10.0, 20.0, 30.0)
    """
    x, y, z = (float(value) for value in point)
    return (-x, -y, z)


def lpsFromRas(point: Sequence[float]) -> tuple[float, float, float]:
    """A point of Slicer in the wire's coordinates; the same flip.

    >>> lpsFromRas(rasFromLps((10.0, -20.0, 30.0)))
    (10.0, -20.0, 30.0)
    """
    return rasFromLps(point)


def lpsFromRasMatrix(ijkToRas: np.ndarray) -> np.ndarray:
    """The 4x4 matrix of voxel indices to LPS mm, from that to RAS mm.

    Raises
    ------
    ValueError: if `ijkToRas` is not a 4x4 matrix of a volume: finite, invertible, last row 0 0 0 1.

    >>> lpsFromRasMatrix(np.diag([2.0, 2.0, 3.0, 1.0])).diagonal().tolist()
    [-2.0, -2.0, 3.0, 1.0]
    """
    matrix = np.asarray(ijkToRas, dtype=np.float64)
    usable = (
        matrix.shape == (4, 4)
        and np.isfinite(matrix).all()
        and np.allclose(matrix[3], [0, 0, 0, 1])
        and abs(np.linalg.det(matrix[:3, :3])) > 1e-9
    )
    if not usable:
        raise ValueError(f"ijkToRas {matrix.tolist()} is not the geometry of a volume")
    return _FLIP @ matrix


def rasFromLpsMatrix(ijkToLps: np.ndarray) -> np.ndarray:
    """The same flip the other way; raises as `lpsFromRasMatrix`.

    >>> rasFromLpsMatrix(lpsFromRasMatrix(np.eye(4))).diagonal().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return lpsFromRasMatrix(ijkToLps)
