"""Where the voxels of a reading lie on the source slices, which are all that results refer to.

Of a volume whose planes are the slices nothing is resampled, only renumbered. Of one that was
resampled (`dicom_node.series_resampling`) each pixel of a slice takes the label of the voxel that
it lies in.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from core_model.reading import PointLPS, point_lps
from dicom_node.series_geometry import GeometryError, stack_slices
from dicom_node.series_resampling import SliceGrid

# How far a source may lie from the plane of the regular grid that it was read as (our choice):
# `dicom_node.series_geometry` lets series through whose slices jitter by less than this.
_ACROSS_SLICES = 0.45  # of the slice spacing; from one half on the slice would be ambiguous
_IN_PLANE_MM = 1.2
_GRID_TOLERANCE_MM = 1e-3  # headers state positions and directions in 16 characters

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


def source_grid(headers: Sequence[Dataset]) -> SliceGrid:
    """How source slices lie, and the regular grid that they are read on.

    Raises
    ------
    ValueError: if the slices make no volume (`series_geometry.GeometryError` has the reason).
    """
    first = headers[0]
    try:
        stack = stack_slices(
            [header.ImagePositionPatient for header in headers],
            [header.ImageOrientationPatient for header in headers],
            [header.get("InstanceNumber") for header in headers],
        )
    except GeometryError as error:
        raise ValueError(f"the sources make no volume: {error.message}") from error
    row_mm, column_mm = (float(value) for value in first.PixelSpacing)
    shape = int(first.Rows), int(first.Columns)
    return SliceGrid.of(stack, shape, (row_mm, column_mm), first.get("FrameOfReferenceUID"))


def on_source_slices(mask: hd.Volume, headers: Sequence[Dataset]) -> npt.NDArray[np.uint8]:
    """The planes of a label volume as they lie on its source slices.

    Parameters
    ----------
    mask: uint8 labels on the geometry that was read; its axes may be permuted or flipped
        against the sources.
    headers: (N) clean headers of the source slices, in any order.

    Returns
    -------
    (N, Rows, Columns) uint8; plane k belongs to ``headers[k]``. Where the volume was resampled, a
    label that falls between all slices is kept on the pixels nearest to it.

    Raises
    ------
    ValueError: if the geometries do not fit, or if a labelled plane of the mask lies on no source.
    """
    grid = source_grid(headers) if len(headers) > 1 else None
    if grid is not None and not grid.stack.is_regular:
        return _sampled(mask, headers, grid)
    return _renumbered(mask, headers)


def _sampled(mask: hd.Volume, headers: Sequence[Dataset], grid: SliceGrid) -> npt.NDArray[np.uint8]:
    """The label of the voxel that each pixel of the sources lies in; 0 outside of the mask."""
    try:
        labels = mask.match_geometry(grid.geometry, tol=_GRID_TOLERANCE_MM).array
    except RuntimeError as error:
        raise ValueError(_misfit(mask, headers[0])) from error
    planes = np.empty((len(headers), grid.rows, grid.columns), dtype=np.uint8)
    planes[list(grid.stack.order)] = grid.on_slices(labels, grid.geometry)
    for label in np.setdiff1d(np.unique(labels), [0, *np.unique(planes)]):
        _keep(planes, int(label), grid, np.argwhere(labels == label), headers)
    return planes


def _keep(
    planes: npt.NDArray[np.uint8],
    label: int,
    grid: SliceGrid,
    voxels: npt.NDArray[np.intp],
    headers: Sequence[Dataset],
) -> None:
    """Mark the pixel nearest to each voxel of a label that none of the slices passes through."""
    for point in grid.geometry.map_indices_to_reference(voxels):
        positions = [header.ImagePositionPatient for header in headers]
        k = nearest_plane(positions, grid.stack.normal, point_lps(point))
        offset = point - np.asarray(headers[k].ImagePositionPatient, dtype=np.float64)
        row = round(float(offset @ grid.stack.column) / grid.pixel_spacing_mm[0])
        column = round(float(offset @ grid.stack.row) / grid.pixel_spacing_mm[1])
        planes[k, min(max(row, 0), grid.rows - 1), min(max(column, 0), grid.columns - 1)] = label


def slice_widths(headers: Sequence[Dataset]) -> Floats:
    """(N,) how much of the patient each slice stands for, mm along the normal.

    Half of the way to either neighbour; at the ends of the stack as much outwards as inwards.
    """
    normal = slice_normal(headers[0])
    depth = np.asarray([header.ImagePositionPatient for header in headers], dtype=np.float64) @ normal
    if len(depth) < 2:
        return np.array([float(headers[0].SliceThickness)])
    order = np.argsort(depth, kind="stable")
    gaps = np.diff(depth[order])
    widths = np.empty(len(depth))
    widths[order] = (np.append(gaps[:1], gaps) + np.append(gaps, gaps[-1:])) / 2
    return widths


def _renumbered(mask: hd.Volume, headers: Sequence[Dataset]) -> npt.NDArray[np.uint8]:
    """The planes of the mask, each turned so that it lies pixel on pixel on its source."""
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
    axes = (slice_axis, row_axis, column_axis)
    picked = [_plane_index(mask, header, axes) for header in headers]
    if len(set(picked)) < len(picked):
        raise ValueError(
            f"{len(headers)} sources lie on only {len(set(picked))} planes of the mask; every slice of "
            "the series must be given once"
        )
    without_source = np.setdiff1d(np.flatnonzero(array.any(axis=(1, 2))), picked)
    if without_source.size:
        raise ValueError(
            f"{without_source.size} labelled planes of the mask (first: {int(without_source[0])} along "
            f"axis {slice_axis}) lie on none of the {len(headers)} sources; give all slices of the series"
        )
    return np.ascontiguousarray(array[picked], dtype=np.uint8)


def _plane_index(mask: hd.Volume, header: Dataset, axes: tuple[int, int, int]) -> int:
    """Index along the mask's slice axis on which a source lies, after checking all four corners.

    `axes` are the mask's axes across the slices, along the rows and along the columns.
    """
    rows, columns = int(header.Rows), int(header.Columns)
    corners = np.array(
        [[0, 0, 1], [rows - 1, 0, 1], [0, columns - 1, 1], [rows - 1, columns - 1, 1]], dtype=np.float64
    ).T  # (3, 4)
    indices = (np.asarray(mask.inverse_affine) @ pixel_to_patient(header) @ corners)[:3]  # (3, 4)
    n_planes, n_rows, n_columns = (mask.spatial_shape[axis] for axis in axes)
    across = indices[axes[0]]
    index = round(float(across.mean()))
    if (
        (n_rows, n_columns) != (rows, columns)
        or not 0 <= index < n_planes
        or np.abs(across - index).max() > _ACROSS_SLICES
    ):
        raise ValueError(_misfit(mask, header))
    for axis, count, along in ((axes[1], rows, corners[0]), (axes[2], columns, corners[1])):
        expected = along if indices[axis, 3] >= indices[axis, 0] else count - 1 - along
        if np.abs(indices[axis] - expected).max() * mask.spacing[axis] > _IN_PLANE_MM:
            raise ValueError(_misfit(mask, header))
    return index


def _misfit(mask: hd.Volume, header: Dataset) -> str:
    position = ", ".join(f"{float(value):g}" for value in header.ImagePositionPatient)
    return (
        f"the mask ({'x'.join(map(str, mask.spatial_shape))} voxels of "
        f"{'x'.join(f'{value:g}' for value in mask.spacing)} mm) does not lie on the source slice at "
        f"({position}) mm with {header.Rows}x{header.Columns} pixels; read and write the same series, "
        "and give masks on the geometry of the volume that was read"
    )
