"""A canvas on which organs are painted as implicit shapes in atlas coordinates.

Not an anatomy: it knows boxes, ellipsoids and tubes, no organ. Atlas coordinates are (z, y, x)
in mm towards head, posterior, left, with the origin in the middle of the third lumbar vertebra.
Every voxel carries its own atlas coordinate, scaled and smoothly displaced, so a shape that is
painted as a plain ellipsoid comes out bent differently in every body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from core_model.anatomy import structures
from training.phantoms.tissues import AIR, N_TISSUES, SKIN, TABLE

FloatArray = npt.NDArray[np.float32]
Point = tuple[float, float, float]
Vector = Sequence[float] | npt.NDArray[np.float64] | npt.NDArray[np.float32]
Slices = tuple[slice, slice, slice]


def tissue_values() -> dict[str, int]:
    """TotalSegmentator v2 structure name -> label value, for a whole painting at once."""
    return {s.name: s.v2_id for s in structures() if s.v2_id is not None}


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], cells: Sequence[int]) -> FloatArray:
    """Smooth random field of about unit amplitude.

    Parameters
    ----------
    rng: source of the random numbers.
    shape: (D, H, W) of the result.
    cells: number of independent random nodes along each axis.

    Returns
    -------
    (D, H, W) float32, trilinear between nodes that were smoothed with a binomial kernel.
    """
    nodes = rng.standard_normal([n + 2 for n in cells]).astype(np.float32)
    for axis in range(3):
        nodes = np.take(nodes, range(1, nodes.shape[axis]), axis) + np.take(
            nodes, range(nodes.shape[axis] - 1), axis
        )
    coarse = torch.from_numpy(nodes / 8**0.5)[None, None]
    middle = torch.nn.functional.interpolate(
        coarse, size=[max(2, (n + 3) // 4) for n in shape], mode="trilinear", align_corners=True
    )
    smoothed = torch.nn.functional.avg_pool3d(
        torch.nn.functional.pad(middle, (1, 1, 1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    fine = torch.nn.functional.interpolate(smoothed, size=list(shape), mode="trilinear", align_corners=True)
    return fine[0, 0].numpy()  # (D, H, W)


def rotation(about_z: float = 0.0, about_y: float = 0.0, about_x: float = 0.0) -> FloatArray:
    """(3, 3) rotation in (z, y, x) order; angles in degrees, applied x, then y, then z."""
    matrix = np.eye(3)
    for angle, (first, second) in ((about_x, (0, 1)), (about_y, (0, 2)), (about_z, (1, 2))):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turn = np.eye(3)
        turn[first, first], turn[first, second] = c, -s
        turn[second, first], turn[second, second] = s, c
        matrix = turn @ matrix
    return matrix.astype(np.float32)


def spline(points: Sequence[Sequence[float]], step_mm: float = 9.0) -> npt.NDArray[np.float64]:
    """Catmull-Rom curve through control points of any dimension, sampled about every `step_mm`.

    Columns beyond the first three (radii) are interpolated along.
    """
    p = np.asarray(points, dtype=np.float64)
    padded = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    pieces = []
    for k in range(len(p) - 1):
        a, b, c, d = padded[k : k + 4]
        n = max(1, int(np.ceil(np.linalg.norm((c - b)[:3]) / step_mm)))
        t = (np.arange(n) / n)[:, None]
        pieces.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3)
        )
    return np.vstack([*pieces, p[-1:]])


class Canvas:
    """A label map under construction, with the atlas coordinate of every voxel.

    Parameters
    ----------
    rng: source of the random displacement.
    shape: (D, H, W).
    start: atlas coordinate (z, y, x) of voxel (0, 0, 0) before displacement.
    step: atlas mm per voxel along each axis.
    bend_mm: amplitude of the slow displacement (about 130 mm from node to node).
    """

    def __init__(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int, int],
        start: Point,
        step: Point,
        bend_mm: float,
    ) -> None:
        self.shape = shape
        self.start = np.asarray(start, dtype=np.float64)
        self.step = np.asarray(step, dtype=np.float64)
        self.labels = np.zeros(shape, dtype=np.uint8)
        extent = np.asarray(shape) * self.step
        slow = [max(2, round(e / 130)) for e in extent]
        quick = [max(2, round(e / 45)) for e in extent]
        self.coordinates: list[FloatArray] = []
        shifts = []
        for axis in range(3):
            shift = bend_mm * smooth_noise(rng, shape, slow)
            shift += 0.22 * bend_mm * smooth_noise(rng, shape, quick)
            line = (self.start[axis] + self.step[axis] * np.arange(shape[axis])).astype(np.float32)
            grid = line.reshape([-1 if a == axis else 1 for a in range(3)])
            shifts.append(float(np.abs(shift).max()))
            self.coordinates.append(grid + shift)
        self.reach = np.asarray(shifts)
        self.rough = smooth_noise(rng, shape, [max(2, round(e / 22)) for e in extent])

    def box(self, low: Vector, high: Vector) -> Slices | None:
        """The voxels that can hold atlas coordinates between two corners, None where there are none."""
        first = np.floor((np.asarray(low) - self.reach - self.start) / self.step).astype(int)
        last = np.ceil((np.asarray(high) + self.reach - self.start) / self.step).astype(int) + 1
        first = np.maximum(first, 0)
        last = np.minimum(last, self.shape)
        if np.any(first >= last):
            return None
        a, b, c = (slice(int(f), int(e)) for f, e in zip(first, last, strict=True))
        return a, b, c

    def at(self, where: Slices) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Atlas coordinates (z, y, x) of the voxels of a box."""
        z, y, x = self.coordinates
        return z[where], y[where], x[where]

    def put(
        self,
        value: int,
        where: Slices,
        inside: npt.NDArray[np.bool_],
        over: Iterable[int] | None = None,
    ) -> None:
        """Set the voxels of a box where `inside`, only over `over`; None: all but air, skin, table."""
        target = self.labels[where]
        if over is None:
            inside = inside & (target != AIR) & (target != SKIN) & (target != TABLE)
        else:
            table = np.zeros(N_TISSUES, dtype=bool)
            table[list(over)] = True
            inside = inside & table[target]
        target[inside] = value

    def paint(
        self,
        value: int,
        low: Sequence[float],
        high: Sequence[float],
        implicit: Callable[[FloatArray, FloatArray, FloatArray], npt.NDArray[np.bool_]],
        over: Iterable[int] | None = None,
    ) -> None:
        """Paint where `implicit(z, y, x)` holds within a box of atlas coordinates."""
        where = self.box(low, high)
        if where is not None:
            self.put(value, where, implicit(*self.at(where)), over)

    def ellipsoid(
        self,
        value: int,
        centre: Vector,
        radii: Vector,
        *,
        turn: FloatArray | None = None,
        rough: float = 0.07,
        over: Iterable[int] | None = None,
        clip: Callable[[FloatArray, FloatArray, FloatArray], npt.NDArray[np.bool_]] | None = None,
    ) -> None:
        """Paint an ellipsoid whose surface is dented by the canvas's fine noise.

        Parameters
        ----------
        value: tissue.
        centre, radii: (z, y, x) mm.
        turn: rotation of its axes (`rotation`).
        rough: depth of the dents as a fraction of the radius.
        over: tissues that it may replace.
        clip: a further condition on (z, y, x).
        """
        c, r = np.asarray(centre, dtype=np.float32), np.asarray(radii, dtype=np.float32)
        matrix = np.eye(3, dtype=np.float32) if turn is None else turn
        half = np.sqrt(((matrix * r) ** 2).sum(1)) * (1 + 2.5 * rough)
        where = self.box(c - half, c + half)
        if where is None:
            return
        offsets = [p - q for p, q in zip(self.at(where), c, strict=True)]
        if turn is not None:
            offsets = [sum(matrix[i, k] * offsets[i] for i in range(3)) for k in range(3)]
        distance = sum((o / q) ** 2 for o, q in zip(offsets, r, strict=True))
        inside = distance < (1 + rough * self.rough[where]) ** 2
        if clip is not None:
            inside &= clip(*self.at(where))
        self.put(value, where, inside, over)

    def tube(
        self,
        value: int,
        points: Sequence[Sequence[float]],
        *,
        stretch: Point = (1.0, 1.0, 1.0),
        over: Iterable[int] | None = None,
        smooth: bool = True,
        step_mm: float = 9.0,
        grow_mm: float = 0.0,
    ) -> None:
        """Paint a chain of tapering capsules along a curve.

        Parameters
        ----------
        value: tissue.
        points: control points (z, y, x, radius) in mm.
        stretch: how much thicker than its radius it is along each axis.
        over: tissues that it may replace.
        smooth: a spline through the points; False joins them by straight lines.
        step_mm: length of a capsule.
        grow_mm: added to every radius.
        """
        curve = spline(points, step_mm) if smooth else np.asarray(points, dtype=np.float64)
        wide = np.asarray(stretch, dtype=np.float64)
        allowed = None if over is None else tuple(over)
        for p, q in pairwise(curve):
            radius = max(p[3], q[3]) + grow_mm
            where = self.box(
                np.minimum(p[:3], q[:3]) - radius * wide, np.maximum(p[:3], q[:3]) + radius * wide
            )
            if where is None:
                continue
            axis = ((q[:3] - p[:3]) / wide).astype(np.float32)
            length = float(axis @ axis) + 1e-6
            u, v, w = (
                (c - np.float32(a)) / np.float32(s)
                for c, a, s in zip(self.at(where), p[:3], wide, strict=True)
            )
            along = np.clip((u * axis[0] + v * axis[1] + w * axis[2]) / length, 0, 1)
            distance = (u - along * axis[0]) ** 2 + (v - along * axis[1]) ** 2 + (w - along * axis[2]) ** 2
            limit = np.float32(p[3] + grow_mm) + along * np.float32(q[3] - p[3])
            self.put(value, where, distance < limit * limit, allowed)
