"""The trunk of a procedural body: its outline, fat, muscle wall and cavity, level by level.

Not its organs and bones: they are painted into it. The tables of half widths and depths were
chosen by eye on CT; the midline of the spine is part of them because everything hangs on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from training.phantoms.procedural_canvas import Canvas, FloatArray
from training.phantoms.tissues import AIR, FAT, MUSCLE, SKIN, TABLE

Z_LOW, Z_HIGH = -400, 480  # mm; tables reach beyond every field of view

# z mm: half width, front and back of the cavity inside the muscle wall (mm)
CAVITY = (
    (-260, 38, -60, 20), (-235, 50, -72, 34), (-205, 60, -86, 46), (-175, 72, -104, 48),
    (-150, 88, -118, 36), (-120, 110, -126, 22), (-90, 118, -130, 16), (-50, 120, -132, 18),
    (0, 121, -135, 24), (50, 127, -140, 33), (100, 133, -143, 42), (150, 131, -141, 50),
    (200, 124, -132, 54), (250, 112, -120, 52), (285, 98, -108, 44), (310, 82, -96, 30),
    (328, 64, -82, 14), (345, 44, -68, -4), (365, 30, -60, -20),
)  # fmt: skip
# z mm: half width, front and back of the muscle envelope
WALL = (
    (-300, 165, -85, 72), (-250, 168, -92, 78), (-210, 166, -102, 80), (-170, 160, -118, 78),
    (-120, 156, -134, 76), (-80, 144, -140, 72), (-40, 133, -143, 67), (0, 132, -147, 66),
    (50, 138, -151, 67), (100, 145, -155, 71), (150, 145, -154, 78), (200, 141, -146, 80),
    (250, 138, -135, 80), (290, 147, -125, 74), (315, 160, -116, 64), (335, 150, -102, 52),
    (352, 105, -90, 38), (372, 68, -84, 26), (420, 60, -82, 20),
)  # fmt: skip
# z mm: y of the vertebra's middle
SPINE = (
    (-300, 20), (-120, 12), (-61, 0), (0, 0), (68, 4), (100, 6), (130, 10), (158, 15),
    (183, 19), (207, 22), (232, 23), (257, 22), (281, 18), (305, 10), (327, 0), (347, -12), (400, -30),
)  # fmt: skip


@dataclass(frozen=True)
class Build:
    """How this person is built.

    Attributes
    ----------
    fat_front, fat_side, fat_back: thickness of the subcutaneous fat, mm.
    marbling: how much fat lies between the muscles of the wall, 0 to 0.16.
    arms_up: whether the arms lie beside the head.
    male: whether there is a prostate.
    table: whether the patient table is in the image.
    """

    fat_front: float
    fat_side: float
    fat_back: float
    marbling: float
    arms_up: bool
    male: bool
    table: bool


class Trunk:
    """The tables of a trunk, one row per mm of height.

    Parameters
    ----------
    rng: varies the depth of chest and belly.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        z = np.arange(Z_LOW, Z_HIGH + 1, dtype=np.float64)
        belly = 1 + 0.10 * rng.standard_normal() * np.exp(-(((z + 20) / 110) ** 2))
        waist = 1 + 0.04 * rng.standard_normal() * np.exp(-(((z + 10) / 70) ** 2))
        self.cavity = self._table(z, CAVITY, waist, belly)
        self.wall = self._table(z, WALL, waist, belly)
        lordosis = 5 * rng.standard_normal()
        spine = np.interp(z, *np.array(SPINE, dtype=np.float64).T)
        spine += lordosis * np.sin(np.clip((z + 140) / 260, 0, 1) * np.pi)
        self.spine = ndimage.gaussian_filter1d(spine, 12).astype(np.float32)
        self.curve = (4 * rng.standard_normal() * np.sin((z + 100) / 140)).astype(np.float32)

    @staticmethod
    def _table(
        z: npt.NDArray[np.float64],
        rows: tuple[tuple[float, float, float, float], ...],
        waist: npt.NDArray[np.float64],
        belly: npt.NDArray[np.float64],
    ) -> FloatArray:
        """(levels, 3) float32: half width, middle y, half depth."""
        table = np.array(rows, dtype=np.float64)
        width, front, back = (
            ndimage.gaussian_filter1d(np.interp(z, table[:, 0], table[:, k]), 9) for k in (1, 2, 3)
        )
        front = front * belly
        return np.stack([width * waist, (front + back) / 2, (back - front) / 2], 1).astype(np.float32)

    @staticmethod
    def row(z: FloatArray) -> npt.NDArray[np.int32]:
        """Index of the table row of each height."""
        rows: npt.NDArray[np.int32] = np.clip(np.rint(z) - Z_LOW, 0, Z_HIGH - Z_LOW).astype(np.int32)
        return rows

    def spine_y(self, z: float) -> float:
        """y of the middle of the vertebra at a height."""
        return float(self.spine[int(np.clip(round(z) - Z_LOW, 0, Z_HIGH - Z_LOW))])

    def spine_x(self, z: float) -> float:
        """x of the midline at a height: a slight scoliosis."""
        return float(self.curve[int(np.clip(round(z) - Z_LOW, 0, Z_HIGH - Z_LOW))])

    def wall_point(self, z: float, angle: float, grow_mm: float) -> tuple[float, float]:
        """(y, |x|) on the cavity's surface moved outward; angle 0 lateral, +90 posterior, in degrees."""
        half, middle, depth = self.cavity[int(np.clip(round(z) - Z_LOW, 0, Z_HIGH - Z_LOW))].tolist()
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        scale = (abs(c) ** 2.5 + abs(s) ** 2.5) ** (-1 / 2.5)
        return middle + (depth + grow_mm) * s * scale, (half + grow_mm) * c * scale

    def within(self, table: FloatArray, canvas: Canvas, grow: tuple[float, float, float]) -> FloatArray:
        """(D, H, W) superellipse value of a table's cross-section, below 1 inside.

        `grow` widens it: at each side, in front and at the back, mm.
        """
        z, y, x = canvas.coordinates
        row = self.row(z)
        side, front, back = grow
        half = (table[:, 0] + np.float32(side))[row]
        middle = (table[:, 1] + np.float32((back - front) / 2))[row]
        depth = (table[:, 2] + np.float32((back + front) / 2))[row]
        u = (x / half) ** 2
        v = ((y - middle) / depth) ** 2
        value: FloatArray = u * np.sqrt(np.sqrt(u)) + v * np.sqrt(np.sqrt(v))  # |.|^2.5
        return value


def paint_trunk(canvas: Canvas, trunk: Trunk, build: Build) -> npt.NDArray[np.bool_]:
    """Paint skin, fat, muscle envelope, cavity, arms, thighs and table.

    Returns
    -------
    (D, H, W) bool: the cavity inside the muscle wall (chest, abdomen and pelvis).
    """
    z, _, x = canvas.coordinates
    labels = canvas.labels
    fat = (build.fat_side, build.fat_front, build.fat_back)
    outline = trunk.within(trunk.wall, canvas, fat) < 1
    crotch = z > -238 - 0.30 * np.abs(x)
    muscle = (trunk.within(trunk.wall, canvas, (0, 0, 0)) < 1) & crotch
    labels[outline & crotch] = FAT
    labels[muscle] = MUSCLE
    for side in (-1, 1):
        thigh = ((-190, -14, 92 * side, 60), (-260, -12, 92 * side, 64), (-330, -12, 88 * side, 64))
        canvas.tube(FAT, thigh, over=(AIR,), grow_mm=0.7 * build.fat_side + 8)
        canvas.tube(MUSCLE, thigh, over=(AIR, FAT))
        canvas.tube(FAT, _arm(side, build), over=(AIR,), grow_mm=0.3 * build.fat_side + 6)
        canvas.tube(MUSCLE, _arm(side, build), over=(AIR, FAT))
    if not build.male:
        depth = 20 + 0.8 * build.fat_front
        for side in (-1, 1):
            breast = (205, -132 - build.fat_front, 72 * side)
            canvas.ellipsoid(FAT, breast, (48 + 0.5 * depth, depth, 52), over=(AIR,))
    cavity = (trunk.within(trunk.cavity, canvas, (0, 0, 0)) < 1) & (z < 352) & (z > -238)
    labels[cavity] = FAT
    # Fat runs between the muscles of the wall; the deep and gluteal muscles are painted later.
    labels[(labels == MUSCLE) & (np.abs(canvas.rough - 0.35) < build.marbling)] = FAT
    body = labels > 0
    thickness = max(1, round(2.4 / float(canvas.step.min())))
    labels[body & ~ndimage.binary_erosion(body, iterations=thickness, border_value=1)] = SKIN
    if build.table:
        _paint_table(canvas, body)
    return cavity


def _arm(side: int, build: Build) -> tuple[tuple[float, float, float, float], ...]:
    """Control points of the upper arm with the deltoid."""
    if build.arms_up:
        return ((318, -30, 128 * side, 38), (348, -32, 146 * side, 40), (400, -30, 160 * side, 38),
                (470, -26, 158 * side, 36))  # fmt: skip
    return ((335, -38, 140 * side, 38), (305, -38, 168 * side, 42), (240, -30, 190 * side, 38),
            (150, -22, 200 * side, 36), (90, -30, 202 * side, 34), (0, -60, 196 * side, 30))  # fmt: skip


def _paint_table(canvas: Canvas, body: npt.NDArray[np.bool_]) -> None:
    """A curved table top below the back, straight along the patient."""
    rows = np.flatnonzero(body.any(axis=(0, 2)))
    depth, width = canvas.shape[1:]
    across = np.abs(np.arange(width) - width / 2) * canvas.step[2]
    for column in range(width):
        rise = (across[column] / 210) ** 2 * 40 / canvas.step[1]
        top = rows[-1] + 2 - round(rise)
        if across[column] > 215 or top >= depth:
            continue
        line = canvas.labels[:, top : top + max(1, round(6 / canvas.step[1])), column]
        line[line == AIR] = TABLE
