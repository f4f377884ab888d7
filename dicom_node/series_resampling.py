"""Slices that are no regular grid, as a volume on one, and labels of the volume back on the slices.

A tilted stack becomes upright, uneven spacing even: by linear interpolation in patient space, each
slice staying where its header puts it. Labels are not interpolated: the nearest one counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import highdicom as hd
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_node.series_geometry import Floats, SliceStack

Number = TypeVar("Number", bound=np.generic)
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
        self, slices: npt.NDArray[Number], outside: float, *, labels: bool = False
    ) -> npt.NDArray[Number]:
        """Slices (n, rows, columns) on `geometry`.

        Parameters
        ----------
        slices: in slice order. Those of a regular stack come back as they are.
        outside: the value where no slice is.
        labels: take the nearest value instead of one between.
        """
        if self.stack.is_regular:
            return slices
        found = np.empty(self.geometry.spatial_shape, dtype=slices.dtype)
        whole = np.issubdtype(found.dtype, np.integer)
        for k in range(len(found)):
            if self.stack.is_tilted:
                plane = self._tilted(slices, k, outside, order=0 if labels else 1)
            else:
                plane = self._between(slices, k, nearest=labels)
            found[k] = np.rint(plane) if whole else plane
        return found

    def on_slices(self, labels: npt.NDArray[np.uint8], geometry: hd.VolumeGeometry) -> npt.NDArray[np.uint8]:
        """(n, rows, columns) the label of the voxel that each pixel of the slices lies in, in slice order.

        Parameters
        ----------
        labels: on `geometry`, which may be any regular grid; outside of it there is no label.
        """
        to_index = np.asarray(geometry.inverse_affine)
        pixel = np.zeros((4, 3))  # (row, column, 1) -> LPS (PS3.3 equation C.7.6.2.1-1)
        pixel[:3, 0] = self.stack.column * self.pixel_spacing_mm[0]
        pixel[:3, 1] = self.stack.row * self.pixel_spacing_mm[1]
        pixel[3, 2] = 1
        found = np.zeros((len(self.stack.positions), self.rows, self.columns), dtype=np.uint8)
        for plane, position in zip(found, self.stack.positions, strict=True):
            pixel[:3, 2] = position
            inside = np.ones(plane.shape, dtype=bool)
            indices = []
            for (down, right, start), count in zip((to_index @ pixel)[:3], labels.shape, strict=True):
                place = start + down * np.arange(self.rows)[:, None] + right * np.arange(self.columns)[None]
                index = np.rint(place).astype(np.intp)
                inside &= (index >= 0) & (index < count)
                indices.append(np.clip(index, 0, count - 1))
            plane[inside] = labels[tuple(indices)][inside]
        return found

    def _between(self, slices: npt.NDArray[Number], k: int, *, nearest: bool) -> npt.NDArray[Any]:
        """Plane k of the grid from the two slices that it lies between; the pixels are the same."""
        depth = self.geometry.spacing[0] * k + self.stack.positions[0] @ self.stack.normal
        place = float(np.interp(depth, self._depths, np.arange(len(slices))))
        if nearest:
            return np.asarray(slices[int(np.abs(self._depths - depth).argmin())])
        before = min(int(place), len(slices) - 2)
        first, second = (slices[before + n].astype(np.float32) for n in (0, 1))
        between: npt.NDArray[np.float32] = first + np.float32(place - before) * (second - first)
        return between

    def _tilted(
        self, slices: npt.NDArray[Number], k: int, outside: float, *, order: int
    ) -> npt.NDArray[np.float32]:
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
            slices, points, output=np.float32, order=order, mode="nearest", prefilter=False
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
