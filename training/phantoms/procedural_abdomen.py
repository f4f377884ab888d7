"""The abdomen of a procedural body: solid organs, stomach, bowel, great vessels.

Not the pelvis (procedural_pelvis). Organs are painted from the outside inwards and from the
large to the small; each takes room only from fat, unless it is a vessel or lies in another organ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from training.phantoms.procedural_canvas import Canvas, FloatArray, rotation, spline
from training.phantoms.procedural_chest import Diaphragm
from training.phantoms.procedural_trunk import Trunk
from training.phantoms.tissues import FAT, MUSCLE

Offset = npt.NDArray[np.float64]


def jitter(rng: np.random.Generator, sd_mm: float) -> Offset:
    """A random (z, y, x) offset, at most two standard deviations per axis."""
    return np.clip(rng.standard_normal(3), -2, 2) * sd_mm


def size(rng: np.random.Generator, spread: float = 0.07) -> float:
    """A random factor about 1, at most two standard deviations away."""
    return float(1 + spread * np.clip(rng.standard_normal(), -2, 2))


def shifted(points: Sequence[Sequence[float]], offset: Offset) -> list[tuple[float, ...]]:
    """Control points moved by one offset, radii kept."""
    return [(p[0] + offset[0], p[1] + offset[1], p[2] + offset[2], *p[3:]) for p in points]


def paint_liver(
    canvas: Canvas,
    cavity: npt.NDArray[np.bool_],
    diaphragm: Diaphragm,
    value: Mapping[str, int],
    rng: np.random.Generator,
) -> None:
    """Liver under the right dome with a left lobe of varying length, and the gallbladder."""
    where = canvas.box((-30, -160, -150), (190, 60, 110))
    if where is None:
        return
    z, y, x = canvas.at(where)
    rough = canvas.rough[where]
    tip = rng.uniform(-14, 24)  # how far down the right lobe reaches
    reach = rng.uniform(12, 60)  # how far left the left lobe reaches
    visceral = tip + 0.42 * (x + 112) + 0.20 * (y + 60) + 3 * rough
    visceral = np.where(x > -20, visceral + 0.35 * (x + 20), visceral)
    right = ((z - 84) / (92 * size(rng, 0.05))) ** 2 + ((y + 54) / 92) ** 2 + (
        (x + 82) / 74
    ) ** 2 < 1 + 0.1 * rough
    left = ((z - 124) / 42) ** 2 + ((y + 104) / 42) ** 2 + ((x + 12) / (34 + reach)) ** 2 < 1 + 0.12 * rough
    hilum = ((z - 72) / 34) ** 2 + ((y + 40) / 38) ** 2 + ((x + 2) / 38) ** 2 < 1
    below = z < diaphragm.height(y, x) - 3
    inside = cavity[where] & below & (right | left) & (z > visceral) & ~hilum
    canvas.put(value["liver"], where, inside, (FAT, MUSCLE))
    bed = jitter(rng, 5)
    neck = tip + 0.42 * 50 + 14
    scale = size(rng, 0.15)
    canvas.tube(
        value["gallbladder"],
        shifted(
            (
                (neck - 18, -104, -62, 11 * scale),
                (neck, -90, -56, 14 * scale),
                (neck + 22, -74, -46, 8 * scale),
                (neck + 30, -66, -38, 4),
            ),
            bed,
        ),
        over=(FAT, value["liver"]),
    )


def paint_spleen_stomach(
    canvas: Canvas,
    cavity: npt.NDArray[np.bool_],
    diaphragm: Diaphragm,
    value: Mapping[str, int],
    rng: np.random.Generator,
) -> None:
    """Spleen in the left posterior corner; stomach from under the left dome to the pylorus."""

    def room(z: FloatArray, y: FloatArray, x: FloatArray) -> npt.NDArray[np.bool_]:
        return z < diaphragm.height(y, x) - 3

    where = canvas.box((20, -80, 40), (170, 70, 160))
    if where is not None:
        z, y, x = canvas.at(where)
        s = size(rng, 0.12)
        c = np.array((diaphragm.left - 44, -4, 106)) + jitter(rng, 5)
        outer = ((z - c[0]) / (54 * s)) ** 2 + ((y - c[1]) / (52 * s)) ** 2 + ((x - c[2]) / (40 * s)) ** 2
        inner = (
            ((z - c[0]) / (58 * s)) ** 2
            + ((y - c[1] + 40) / (46 * s)) ** 2
            + ((x - c[2] + 46) / (36 * s)) ** 2
        )
        inside = (outer < 1 + 0.1 * canvas.rough[where]) & (inner > 1) & room(z, y, x) & cavity[where]
        canvas.put(value["spleen"], where, inside, (FAT,))
    full = size(rng, 0.14)
    moved = jitter(rng, 5)
    top = diaphragm.left - 36
    points = shifted(((top, -48, 62, 34 * full), (top - 20, -80, 70, 34 * full), (92, -98, 60, 28 * full),
                      (74, -108, 26, 20 * full), (66, -100, -8, 16), (66, -84, -26, 11)), moved)  # fmt: skip
    free = (FAT, MUSCLE) if rng.random() < 0.5 else (FAT,)
    mask = canvas.labels.copy()
    canvas.tube(value["stomach"], points, over=(FAT, value["liver"]) if rng.random() < 0.3 else free)
    _undo_outside(canvas, mask, value["stomach"], cavity, room)
    canvas.tube(value["esophagus"], ((156, -36, 18, 7), (top + 6, -40, 40, 8)), over=(FAT, MUSCLE))
    start = points[-1]
    canvas.tube(
        value["duodenum"],
        [(start[0], start[1], start[2], 10), (64, -70, -40, 11), (34, -58, -44, 12), (4, -60, -38, 12),
         (-4, -72, -8, 11), (2, -72, 20, 11), (26, -72, 32, 11)],
        over=(FAT, value["liver"], value["gallbladder"]),
    )  # fmt: skip


def _undo_outside(
    canvas: Canvas,
    before: npt.NDArray[np.uint8],
    tissue: int,
    cavity: npt.NDArray[np.bool_],
    room: object,
) -> None:
    """Take back what was painted outside of the cavity or above the diaphragm."""
    assert callable(room)
    wrong = (canvas.labels == tissue) & (before != tissue)
    wrong &= ~(cavity & room(*canvas.coordinates))
    canvas.labels[wrong] = before[wrong]


def paint_retroperitoneum(
    canvas: Canvas, trunk: Trunk, value: Mapping[str, int], rng: np.random.Generator
) -> None:
    """Kidneys in their fat, adrenals, pancreas."""
    solid = (FAT, value["liver"], value["spleen"], value["stomach"], MUSCLE)
    for side, word, level in ((-1, "right", 48.0), (1, "left", 62.0)):
        s = size(rng, 0.08)
        centre = np.array((level, trunk.spine_y(level) - 2, 72.0 * side)) + jitter(rng, 5)
        turn = rotation(about_z=float(rng.normal(-25, 6)) * side, about_y=-12.0 * side, about_x=-12.0)
        radii = np.array((53, 27, 25)) * s
        canvas.ellipsoid(FAT, centre, radii + rng.uniform(4, 9), turn=turn, over=solid)
        canvas.ellipsoid(value[f"kidney_{word}"], centre, radii, turn=turn, over=(FAT,))
        hilum = centre + np.array((0, -9, -19 * side))
        canvas.ellipsoid(FAT, hilum, (22, 10, 15), turn=turn, over=(value[f"kidney_{word}"],))
    over = (FAT, value["liver"], value["spleen"])
    gland = value["adrenal_gland_right"]
    m = jitter(rng, 3)
    canvas.tube(
        gland, shifted(((112, -24, -36, 4.2), (98, -26, -36, 5.0), (84, -22, -40, 3.8)), m), over=over
    )
    canvas.tube(gland, shifted(((100, -24, -36, 4.2), (86, -10, -34, 3.6)), m), over=over)
    m = jitter(rng, 4)
    s = size(rng, 0.12)
    neck = (64, -82, 4, 10 * s)
    canvas.tube(
        FAT, shifted(((52, -72, -18, 15), neck, (86, -42, 60, 12)), m), over=(value["stomach"],), grow_mm=3
    )
    body = (
        (32, -68, -20, 12 * s),
        (52, -72, -18, 16 * s),
        neck,
        (76, -66, 30, 12 * s),
        (86, -44, 58, 12 * s),
        (96, -26, 80, 10 * s),
    )
    canvas.tube(value["pancreas"], shifted(body, m), over=(FAT, value["duodenum"]), stretch=(1.25, 0.9, 1))
    gland = value["adrenal_gland_left"]
    m = jitter(rng, 3)
    for tail in ((78, -34, 34, 3.8), (78, -30, 48, 3.8), (106, -36, 34, 4.2)):
        canvas.tube(
            gland,
            shifted(((92, -44, 38, 5.0), tail), m),
            over=(*over, value["pancreas"], value["stomach"], MUSCLE),
        )


def paint_abdominal_vessels(
    canvas: Canvas, trunk: Trunk, diaphragm: Diaphragm, value: Mapping[str, int], rng: np.random.Generator
) -> None:
    """Abdominal aorta, inferior vena cava, portal and splenic vein, renal vessels."""
    wide = float(np.clip(rng.normal(1.0, 0.12), 0.8, 1.5))

    def front(z: float, distance: float) -> float:
        return trunk.spine_y(z) - 35 - distance

    aorta = [
        (z, front(z, d), x, r * wide)
        for z, d, x, r in (
            (120, 8, 5, 11),
            (95, 9, 5, 10.5),
            (60, 10, 6, 10),
            (20, 10, 6, 9.5),
            (-22, 9, 4, 9),
        )
    ]
    canvas.tube(value["aorta"], aorta)
    canvas.tube(
        value["aorta"],
        ((84, front(84, 12), 4, 4), (70, front(70, 28), 2, 4), (20, front(20, 30), 4, 3.5)),
        over=(FAT, MUSCLE),
    )
    base = 0.5 * (diaphragm.right + diaphragm.left)
    flat = float(rng.uniform(0.75, 1.05))
    cava = [(-34, front(-34, 8), -16, 10), (0, front(0, 9), -20, 11), (50, front(50, 11), -23, 11.5),
            (95, front(95, 14), -24, 12), (130, -50, -27, 12.5), (base + 22, -66, -28, 13)]  # fmt: skip
    canvas.tube(value["inferior_vena_cava"], cava, stretch=(1, flat, 1.05))
    vein = value["portal_vein_and_splenic_vein"]
    splenic = ((100, -22, 86, 3.5), (88, -36, 58, 4), (78, -58, 28, 4.5), (66, -70, 0, 5.5))
    portal = ((66, -70, 0, 6.5), (84, -68, -24, 7), (100, -70, -46, 6.5), (108, -62, -72, 5))
    for points in (splenic, portal, ((98, -70, -44, 5), (112, -90, -26, 4)),
                   ((66, -70, 0, 5.5), (36, -76, -2, 5), (4, -84, -2, 4.5))):  # fmt: skip
        canvas.tube(vein, points)
    for side, word in ((-1, "right"), (1, "left")):
        level = 48.0 if side < 0 else 62.0
        renal = (
            (level + 2, front(level, 10), 14 * side, 4.5),
            (level, trunk.spine_y(level) - 22, 50 * side, 4),
        )
        canvas.tube(value["inferior_vena_cava"] if word == "right" else value["aorta"], renal, over=(FAT,))


def paint_bowel(
    canvas: Canvas, cavity: npt.NDArray[np.bool_], value: Mapping[str, int], rng: np.random.Generator
) -> None:
    """Colon as a frame, the small bowel as a long coiled tube inside it."""
    calibre = 0.9 * size(rng, 0.13)

    def wobble(points: Sequence[Sequence[float]], sd: float) -> list[list[float]]:
        return [[c + float(o) for c, o in zip(p[:3], jitter(rng, sd), strict=True)] + [
            p[3] * calibre * float(rng.uniform(0.82, 1.18))] for p in points]  # fmt: skip

    sag = rng.uniform(-40, 36)  # how low the transverse colon hangs
    ascending = wobble(((-112, -62, -74, 22), (-86, -58, -88, 26), (-50, -40, -95, 23), (-15, -34, -98, 21),
                        (14, -42, -94, 20), (24, -66, -86, 19)), 4)  # fmt: skip
    transverse = wobble(
        (
            (18, -100, -74, 18),
            (sag + 4, -116, -44, 18),
            (sag, -120, -6, 18),
            (sag + 16, -118, 34, 17),
            (56, -98, 72, 17),
            (92, -56, 98, 17),
            (102, -26, 104, 17),
        ),
        4,
    )
    descending = wobble(((70, -12, 106, 15), (30, -10, 102, 14), (-15, -18, 100, 14), (-60, -34, 100, 14)), 4)
    sigmoid = wobble(((-96, -58, 92, 14), (-132, -66, 62, 15), (-148, -80, 22, 15), (-126, -62, -12, 15),
                      (-118, -30, 4, 15)), 9)  # fmt: skip
    rectum = wobble(
        ((-136, 6, 2, 16), (-160, 22, 0, 19), (-186, 22, 0, 20), (-212, 10, 0, 15), (-236, 8, 0, 10)), 2
    )
    path = [*ascending, *transverse, *descending, *sigmoid, *rectum]
    free = (FAT, value["liver"]) if rng.random() < 0.3 else (FAT,)
    inside = value["colon"]
    before = canvas.labels.copy()
    canvas.tube(inside, _haustra(path, rng), over=free, step_mm=9, smooth=False)
    outside = (canvas.labels == inside) & ~cavity
    canvas.labels[outside] = before[outside]
    loops = _coil(rng)
    before = canvas.labels.copy()
    canvas.tube(value["small_bowel"], loops, over=(FAT,), step_mm=14)
    outside = (canvas.labels == value["small_bowel"]) & ~cavity
    canvas.labels[outside] = before[outside]


def _haustra(path: Sequence[Sequence[float]], rng: np.random.Generator) -> Sequence[Sequence[float]]:
    """The colon's path in short steps with bulges about 35 mm apart."""
    fine = spline(path, 8.0)
    phase = np.cumsum(rng.uniform(0.9, 2.0, len(fine)))
    fine[:, 3] *= 1 + 0.14 * np.sin(phase)
    return [tuple(row) for row in fine.tolist()]


def _coil(rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Control points of the small bowel: rows that wind to and fro in three layers."""
    points = []
    radius = float(rng.uniform(9.5, 13.5))
    for layer, depth in enumerate((-52, -80, -108)):
        levels = np.arange(44 - 8 * layer, -148, -2.15 * radius)
        for row, z in enumerate(levels if layer % 2 == 0 else levels[::-1]):
            left, right = (-62, 84) if z > -90 else (-52, 58)
            columns = np.linspace(left, right, 5)
            for x in columns if row % 2 == 0 else columns[::-1]:
                offset = np.clip(rng.standard_normal(3), -2, 2) * (9, 9, 8)
                points.append((float(z + offset[0]), float(depth + offset[1]), float(x + offset[2]),
                               radius * float(rng.uniform(0.8, 1.15))))  # fmt: skip
    return points
