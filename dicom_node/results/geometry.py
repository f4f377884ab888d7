"""Where the voxels of a reading lie on the source slices. No resampling, only renumbering."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from core_model.reading import PointLPS

# How far, in voxels, a source pixel may lie from the mask voxel that it is taken for (our choice):
# more than the rounding of decimal strings, less than anything that could be seen.
_TOLERANCE = 0.2

Floats = npt.NDArray[np.float64]


def slice_normal(header: Dataset) -> Floats:
    """(3,) unit normal of a slice in LPS: row direction × column direction (PS3.3 C.7.6.2.1.1)."""
    orientation = np.asarray(header.ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def nearest_plane(positions: Sequence[Sequence[float]], normal: Floats, point: PointLPS) -> int:
    """Index of the slice whose plane is nearest to a point.

    Parameters
    ----------
    positions: (N, 3) a point of each slice, LPS mm; need not be sorted.
    normal: (3,) unit normal of the slices.
    point: LPS mm.

    Raises
    ------
    ValueError: if there is no slice.

    >>> nearest_plane([(0, 0, 0), (0, 0, 5)], np.array([0.0, 0.0, 1.0]), (90.0, 0.0, 3.0))
    1
    """
    if not len(positions):
        raise ValueError("positions is empty; there is no slice to be nearest to")
    distance = (np.asarray(positions, dtype=np.float64) - np.asarray(point)) @ normal  # (N,)
    return int(np.argmin(np.abs(distance)))


def pixel_to_patient(header: Dataset) -> Floats:
    """(4, 3) columns: LPS steps per row and per column index, and the first pixel's centre.

    Last row is homogeneous (PS3.3 equation C.7.6.2.1-1, for (row, column, 1) vectors).
    """
    orientation = np.asarray(header.ImageOrientationPatient, dtype=np.float64)
    row_spacing, column_spacing = (float(value) for value in header.PixelSpacing)
    matrix = np.zeros((4, 3))
    matrix[:3, 0] = orientation[3:] * row_spacing
    matrix[:3, 1] = orientation[:3] * column_spacing
    matrix[:3, 2] = np.asarray(header.ImagePositionPatient, dtype=np.float64)
    matrix[3, 2] = 1.0
    return matrix


def on_source_slices(mask: hd.Volume, headers: Sequence[Dataset]) -> npt.NDArray[np.uint8]:
    """The planes of a label volume, each turned so that it lies pixel on pixel on its source.

    Parameters
    ----------
    mask: uint8 labels on the geometry that was read; its axes may be permuted or flipped
        against the sources.
    headers: (N) clean headers of the source slices, in any order.

    Returns
    -------
    (N, Rows, Columns) uint8; plane k belongs to ``headers[k]``.

    Raises
    ------
    ValueError: if the geometries do not fit, or if a labelled plane of the mask lies on no source.
    """
    to_index = np.asarray(mask.inverse_affine, dtype=np.float64)
    steps = to_index @ pixel_to_patient(headers[0])[:, :2]  # (4, 2) index steps per row and column
    row_axis, column_axis = (int(np.argmax(np.abs(steps[:3, i]))) for i in range(2))
    if row_axis == column_axis:
        raise ValueError(_misfit(mask, headers[0]))
    slice_axis = 3 - row_axis - column_axis
    array = np.transpose(mask.array, (slice_axis, row_axis, column_axis))
    if steps[row_axis, 0] < 0:
        array = array[:, ::-1]
    if steps[column_axis, 1] < 0:
        array = array[:, :, ::-1]
    picked = [_plane_index(mask, header, array.shape, slice_axis) for header in headers]
    without_source = np.setdiff1d(np.flatnonzero(array.any(axis=(1, 2))), picked)
    if without_source.size:
        raise ValueError(
            f"{without_source.size} labelled planes of the mask (first: {int(without_source[0])} along "
            f"axis {slice_axis}) lie on none of the {len(headers)} sources; give all slices of the series"
        )
    return np.ascontiguousarray(array[picked], dtype=np.uint8)


def _plane_index(mask: hd.Volume, header: Dataset, planes_shape: tuple[int, ...], slice_axis: int) -> int:
    """Index along the mask's slice axis on which a source lies, after checking all four corners."""
    rows, columns = int(header.Rows), int(header.Columns)
    corners = np.array(
        [[0, 0, 1], [rows - 1, 0, 1], [0, columns - 1, 1], [rows - 1, columns - 1, 1]], dtype=np.float64
    ).T  # (3, 4)
    indices = (np.asarray(mask.inverse_affine) @ pixel_to_patient(header) @ corners)[:3]  # (3, 4)
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    extent = np.array([mask.spatial_shape[axis] - 1 for axis in in_plane])
    fits = (
        planes_shape[1:] == (rows, columns)
        and np.abs(indices - np.rint(indices)).max() <= _TOLERANCE
        and np.abs(indices[in_plane].min(axis=1)).max() <= _TOLERANCE
        and np.abs(indices[in_plane].max(axis=1) - extent).max() <= _TOLERANCE
        and np.ptp(indices[slice_axis]) <= 2 * _TOLERANCE
        and 0 <= round(float(indices[slice_axis].mean())) < planes_shape[0]
    )
    if not fits:
        raise ValueError(_misfit(mask, header))
    return round(float(indices[slice_axis].mean()))


def _misfit(mask: hd.Volume, header: Dataset) -> str:
    position = ", ".join(f"{float(value):g}" for value in header.ImagePositionPatient)
    return (
        f"the mask ({'x'.join(map(str, mask.spatial_shape))} voxels of "
        f"{'x'.join(f'{value:g}' for value in mask.spacing)} mm) does not lie on the source slice at "
        f"({position}) mm with {header.Rows}x{header.Columns} pixels; read and write the same series, "
        "and give masks on the geometry of the volume that was read"
    )
