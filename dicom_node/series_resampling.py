"""Slices that are no regular grid, as a volume on one: a tilted stack upright, uneven spacing even.

Linear interpolation in patient space: each slice stays where its header puts it, and what lies
outside of the slices is air. Masks go the other way in `dicom_node.results.geometry`.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_node.series_geometry import Floats, SliceStack

MIN_SPACING_MM = 0.5  # finer grids cost memory and show nothing more (our choice)
_EDGE = 0.5  # of a pixel: so far beyond the centre of the outermost one it still reaches


@dataclass(frozen=True)
class SliceGrid:
    """A stack, the size of its slices, and the regular grid that it is read on.

    Attributes
    ----------
    stack: the slices.
    rows, columns: of each slice.
    pixel_spacing_mm: between rows, between columns.
    geometry: axes (slice, row, column), LPS mm. Of a regular stack the planes are the slices. Of
        one with uneven spacing they are parallel to them; of a tilted one they stand upright on
        the way from slice to slice, and the grid holds all slices with their corners.
    """

    stack: SliceStack
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float]
    geometry: hd.VolumeGeometry

    @classmethod
    def of(
        cls,
        stack: SliceStack,
        shape: tuple[int, int],
        pixel_spacing_mm: tuple[float, float],
        frame_of_reference_uid: str | None = None,
    ) -> SliceGrid:
        """The grid of a stack of slices of `shape` (rows, columns)."""
        if stack.is_tilted:
            axes = _upright(stack)
            spacing = np.array([max(stack.spacing_mm, MIN_SPACING_MM), *pixel_spacing_mm])
            corners = (_corners(stack, shape, pixel_spacing_mm) - stack.positions[0]) @ axes
            low = corners.min(axis=0)
            counts = np.ceil((corners.max(axis=0) - low) / spacing - 1e-4).astype(int) + 1
            origin = stack.positions[0] + axes @ low
        else:
            axes = np.stack([stack.normal, stack.column, stack.row], axis=1)
            step = stack.spacing_mm if stack.is_regular else max(stack.spacing_mm, MIN_SPACING_MM)
            spacing = np.array([step, *pixel_spacing_mm])
            counts = np.array([round(stack.extent_mm / step) + 1, *shape])
            origin = stack.positions[0]
        affine = np.eye(4)
        affine[:3, :3] = axes * spacing
        affine[:3, 3] = origin
        geometry = hd.VolumeGeometry(
            affine,
            spatial_shape=[int(count) for count in counts],
            coordinate_system="PATIENT",
            frame_of_reference_uid=frame_of_reference_uid,
        )
        return cls(stack, shape[0], shape[1], pixel_spacing_mm, geometry)

    def resampled(
        self, slices: npt.NDArray[np.generic], outside: float, dtype: npt.DTypeLike
    ) -> npt.NDArray[np.generic]:
        """Slices (n, rows, columns) on `geometry`; `outside` where no slice is.

        Of a regular stack, the slices as they are.
        """
        if self.stack.is_regular:
            return slices.astype(dtype, copy=False)
        found = np.empty(self.geometry.spatial_shape, dtype=dtype)
        whole = np.issubdtype(found.dtype, np.integer)
        for k in range(len(found)):
            plane = self._tilted(slices, k, outside) if self.stack.is_tilted else self._between(slices, k)
            found[k] = np.rint(plane) if whole else plane
        return found

    def _between(self, slices: npt.NDArray[np.generic], k: int) -> npt.NDArray[np.float32]:
        """Plane k of the grid from the two slices that it lies between; the pixels are the same."""
        depth = self.geometry.spacing[0] * k + self.stack.positions[0] @ self.stack.normal
        place = float(np.interp(depth, self._depths, np.arange(len(slices))))
        before = min(int(place), len(slices) - 2)
        first, second = (slices[before + n].astype(np.float32) for n in (0, 1))
        between: npt.NDArray[np.float32] = first + np.float32(place - before) * (second - first)
        return between

    def _tilted(self, slices: npt.NDArray[np.generic], k: int, outside: float) -> npt.NDArray[np.float32]:
        """Plane k of the grid, which crosses many slices."""
        affine = np.asarray(self.geometry.affine)[:3]
        shape = self.geometry.spatial_shape[1:]

        def along(axis: Floats) -> Floats:
            """Coordinates of the plane's points on an axis; (rows, 1) where columns make no difference."""
            start, down, right = (
                axis @ (affine[:, 3] + k * affine[:, 0]),
                axis @ affine[:, 1],
                axis @ affine[:, 2],
            )
            rows = start + down * np.arange(shape[0])[:, None]
            flat = abs(right) * shape[1] < 1e-6
            return np.asarray(rows if flat else rows + right * np.arange(shape[1])[None])

        depth = along(self.stack.normal)
        indices = [np.interp(depth, self._depths, np.arange(len(slices)))]
        half = self.stack.spacing_mm / 2
        inside = (depth >= self._depths[0] - half) & (depth <= self._depths[-1] + half)
        for axis, pixel_mm, count in (
            (self.stack.column, self.pixel_spacing_mm[0], self.rows),
            (self.stack.row, self.pixel_spacing_mm[1], self.columns),
        ):
            # Where the first pixel is at this depth, between those of the two slices around it.
            start = np.interp(depth, self._depths, self.stack.positions @ axis)
            index = (along(axis) - start) / pixel_mm
            inside = inside & (index >= -_EDGE) & (index <= count - 1 + _EDGE)
            indices.append(index)
        points = np.stack([np.broadcast_to(index, shape) for index in indices])
        found = ndimage.map_coordinates(
            slices, points, output=np.float32, order=1, mode="nearest", prefilter=False
        )
        return np.where(inside, found, np.float32(outside))

    @property
    def _depths(self) -> Floats:
        """(n,) where the slices lie on their normal."""
        return self.stack.positions @ self.stack.normal


def _upright(stack: SliceStack) -> Floats:
    """(3, 3) columns: from slice to slice, along the rows, along the columns of an upright grid."""
    row = stack.row - (stack.row @ stack.along) * stack.along
    row = row / np.linalg.norm(row)
    return np.stack([stack.along, np.cross(stack.along, row), row], axis=1)


def _corners(stack: SliceStack, shape: tuple[int, int], pixel_spacing_mm: tuple[float, float]) -> Floats:
    """(8, 3) centres of the corner pixels of the first and the last slice, LPS mm."""
    down = stack.column * (shape[0] - 1) * pixel_spacing_mm[0]
    right = stack.row * (shape[1] - 1) * pixel_spacing_mm[1]
    return np.array(
        [stack.positions[n] + a * down + b * right for n in (0, -1) for a in (0, 1) for b in (0, 1)]
    )
