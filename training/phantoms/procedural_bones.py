"""The skeleton of a procedural body: spine, ribs, breastbone, shoulders, pelvis, femora.

Not the muscles that hang on it. Bones are capsule chains along curves; flat bones (scapula,
ilium) are fans of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.phantoms.procedural_canvas import Canvas, spline
from training.phantoms.procedural_trunk import Trunk
from training.phantoms.tissues import DISC, FAT, MUSCLE, SKIN

Control = tuple[float, float, float, float]  # z, y, x, radius

# Level: z of the vertebra's middle, mm.
VERTEBRAE = {
    "L5": -64, "L4": -32, "L3": 0, "L2": 34, "L1": 67, "T12": 98, "T11": 127, "T10": 155, "T9": 181,
    "T8": 206, "T7": 231, "T6": 255, "T5": 279, "T4": 302, "T3": 324, "T2": 345, "T1": 364,
    "C7": 382, "C6": 398, "C5": 413, "C4": 428, "C3": 443,
}  # fmt: skip
# Rib: angle where its bone ends (0 lateral, -90 in front), and how far it falls, mm.
RIBS = (
    (-62, 50), (-66, 74), (-64, 98), (-60, 118), (-58, 130), (-54, 140),
    (-50, 148), (-42, 146), (-32, 136), (-18, 112), (12, 82), (42, 52),
)  # fmt: skip


def paint_spine(canvas: Canvas, trunk: Trunk, value: Mapping[str, int]) -> None:
    """Vertebrae with arch and processes, discs between them, the spinal cord."""
    names = list(VERTEBRAE)
    for index, name in enumerate(names):
        z = VERTEBRAE[name]
        above = VERTEBRAE[names[index + 1]] - z if index + 1 < len(names) else 15
        size = float(np.clip(1.0 - 0.45 * (z + 20) / 420, 0.5, 1.05))
        y, x = trunk.spine_y(z), trunk.spine_x(z)
        label = value[f"vertebrae_{name}"]
        half_height = above * 0.5
        disc = 3.2 + 3.0 * size if z < 370 else 2.5
        body = (y - 17, x, 18.5 * (0.25 + 0.75 * size), 24.5 * (0.2 + 0.8 * size))
        for tissue, grow in ((DISC, 0.0), (label, disc / 2)):
            _cylinder(canvas, tissue, z, half_height - grow, body)
        canal = y + 13 + 2 * size
        slope = 22 if z > 110 else 8  # the thoracic spinous processes hang down
        for side in (-1, 1):
            canvas.tube(label, ((z + 4, y - 6, x + 13 * side * (0.3 + 0.7 * size), 5.0),
                                (z + 1, canal + 4, x + 13 * side, 5.0),
                                (z - 4, canal + 13, x + 2 * side, 4.5)))  # fmt: skip
            reach = 40 * size if z < 110 else 33
            canvas.tube(label, ((z + 2, canal, x + 13 * side, 5), (z + 2, canal + 4, x + reach * side, 3.5)))
            canvas.tube(label, ((z + half_height + 3, canal + 6, x + 15 * side, 5.5),
                                (z - half_height + 1, canal + 8, x + 15 * side, 5.5)))  # fmt: skip
        canvas.tube(
            label,
            ((z - 3, canal + 10, x, 4.5), (z - slope, canal + 32 * (0.5 + 0.5 * size), x, 4.5)),
            stretch=(1.7, 1, 0.8),
        )
    line = [
        (z, trunk.spine_y(z) + 14, trunk.spine_x(z), 6.2 if z > 70 else 6.8) for z in range(-105, 471, 23)
    ]
    canvas.tube(value["spinal_cord"], line, stretch=(1, 0.9, 1.1))


def _cylinder(
    canvas: Canvas, tissue: int, z: float, half: float, body: tuple[float, float, float, float]
) -> None:
    """An upright elliptic cylinder: (y, x, y radius, x radius) = body."""
    y, x, ry, rx = body
    canvas.paint(
        tissue,
        (z - half, y - ry, x - rx),
        (z + half, y + ry, x + rx),
        lambda w, v, u: (np.abs(w - z) < half) & (((v - y) / ry) ** 2 + ((u - x) / rx) ** 2 < 1),
    )


def paint_ribs(canvas: Canvas, trunk: Trunk, value: Mapping[str, int], rng: np.random.Generator) -> None:
    """Twelve pairs of ribs in the chest wall, their cartilages, and the breastbone."""
    cartilage = value["costal_cartilages"]
    slope = float(np.clip(1 + 0.10 * rng.standard_normal(), 0.8, 1.2))
    for side, word in ((-1, "right"), (1, "left")):
        ends = []
        for index, (stop, fall) in enumerate(RIBS):
            number = index + 1
            level = VERTEBRAE[f"T{number}"] + 8
            y, x = trunk.spine_y(level), trunk.spine_x(level)
            radius = 4.6 if number < 11 else 4.0
            curve: list[Control] = [(level, y - 3, x + 19 * side, 4), (level - 3, y + 14, x + 34 * side, 4)]
            angles = np.linspace(58 if number > 1 else 40, stop, 9)
            for k, angle in enumerate(angles):
                z = level - 6 - slope * fall * (k / 8) ** 1.15
                across = trunk.wall_point(z, float(angle), 6.5)
                curve.append((z, across[0], across[1] * side, radius))
            if number == 1:
                curve = [(z, y, x_ * 0.9, r) for z, y, x_, r in curve]
            canvas.tube(value[f"rib_{word}_{number}"], curve, stretch=(1.35, 1.0, 1.0))
            ends.append(curve[-1])
        _cartilages(canvas, trunk, cartilage, ends, side)
    for z_from, z_to, half in ((250, 308, 21), (190, 250, 16), (165, 190, 7)):
        breastbone = [(z, trunk.wall_point(z, -90, 8)[0], 0.0, 5.5) for z in range(z_from, z_to + 1, 10)]
        canvas.tube(value["sternum"], breastbone, stretch=(1, 1, half / 5.5), smooth=False)


def _cartilages(
    canvas: Canvas,
    trunk: Trunk,
    cartilage: int,
    ends: Sequence[Control],
    side: int,
) -> None:
    """From the rib ends to the breastbone; ribs 8 to 10 join the cartilage above."""
    targets = {0: 296, 1: 280, 2: 258, 3: 240, 4: 222, 5: 205, 6: 190}
    middle = goal = ends[0]
    for index, end in enumerate(ends[:10]):
        if index in targets:
            z = targets[index]
            goal = (z, trunk.wall_point(z, -90, 8)[0], 17 * side, 5.0)
        else:
            goal = middle
        low = min(end[0], goal[0]) if index < 4 else 0.7 * end[0] + 0.3 * goal[0]
        ahead = RIBS[index][0] * 0.55 - 90 * 0.45 if index in targets else RIBS[index][0] - 14
        across = trunk.wall_point(low, ahead, 6.0)
        middle = (low, across[0], across[1] * side, 5.0)
        canvas.tube(cartilage, (end, middle, goal), stretch=(1.25, 0.9, 1.0))


def paint_shoulders(canvas: Canvas, value: Mapping[str, int], *, arms_up: bool) -> None:
    """Collarbones, shoulder blades and the upper ends of the humeri."""
    lift = 14.0 if arms_up else 0.0
    for side, word in ((-1, "right"), (1, "left")):
        out = -8.0 if arms_up else 0.0  # raised arms bring the shoulders together
        canvas.tube(
            value[f"clavicula_{word}"],
            ((308, -98, 20 * side, 8), (318, -102, 50 * side, 6), (334 + lift, -78, 95 * side, 6),
             (346 + lift, -48, (132 + out) * side, 6)),
        )  # fmt: skip
        glenoid = (325 + lift, -18, (122 + out) * side)
        blade = value[f"scapula_{word}"]
        tip = 232 + 1.2 * lift
        for k, z in enumerate(np.linspace(tip, 352 + lift, 9)):
            share = k / 8
            border = (z, 47 - 14 * share - 14 * share**2, (100 - 26 * share + 0.6 * out) * side, 4.4)
            canvas.tube(blade, (border, (*glenoid, 4.5)), smooth=False)
        canvas.tube(blade, ((*glenoid, 11), (glenoid[0] + 1, glenoid[1] + 4, glenoid[2] - 8 * side, 8)))
        canvas.tube(blade, ((330 + lift, 40, 82 * side, 4), (346 + lift, 22, 118 * side, 5),
                            (354 + lift, -22, (143 + out) * side, 6)))  # fmt: skip
        canvas.tube(
            blade, ((glenoid[0] + 10, -22, glenoid[2], 5), (glenoid[0] + 12, -52, glenoid[2] - 4 * side, 5))
        )
        head = (glenoid[0] + 3, -26, (147 + out) * side)
        if arms_up:
            shaft: tuple[Control, ...] = (
                (head[0] + 16, -26, head[2] + 4 * side, 15),
                (400, -28, 158 * side, 11),
                (475, -24, 156 * side, 11),
            )
        else:
            shaft = (
                (head[0] - 18, -28, head[2] + 6 * side, 16),
                (270, -28, 178 * side, 12),
                (150, -20, 196 * side, 11),
                (60, -30, 198 * side, 12),
            )
        arm = value[f"humerus_{word}"]
        canvas.ellipsoid(arm, head, (24, 22, 22), rough=0.03)
        canvas.tube(arm, shaft)


def paint_pelvis(canvas: Canvas, trunk: Trunk, value: Mapping[str, int]) -> None:
    """Sacrum, hip bones and the upper femora."""
    for side, word in ((-1, "right"), (1, "left")):
        hip = value[f"hip_{word}"]
        socket = (-176.0, -18.0, 90.0 * side)
        crest = spline(
            (
                (-100, 52, 42 * side),
                (-66, 42, 66 * side),
                (-46, 8, 103 * side),
                (-54, -38, 122 * side),
                (-92, -74, 122 * side),
            ),
            10,
        )
        sweep = np.linspace(0, 1, len(crest))
        for share, point in zip(sweep, crest, strict=True):
            inward = 10 * np.sin(share * np.pi)  # the wing is a shallow bowl
            middle = 0.5 * (point + socket) + (0, 0, -inward * side * 0.3)
            foot = (socket[0] + 26, socket[1] + 22 - 44 * share, socket[2] - 4 * side, 9)
            canvas.tube(hip, ((*point, 8), (*middle, 5.6), foot))
        canvas.ellipsoid(hip, socket, (34, 34, 28), rough=0.04)
        canvas.tube(hip, ((-178, -46, 74 * side, 11), (-196, -70, 42 * side, 8), (-210, -78, 12 * side, 9)))
        canvas.tube(hip, ((-198, 6, 78 * side, 15), (-226, 16, 66 * side, 14), (-244, 4, 56 * side, 12),
                          (-236, -38, 32 * side, 8), (-216, -74, 12 * side, 8)))  # fmt: skip
        canvas.ellipsoid(FAT, (-188, -28, 96 * side), (28, 26, 26), rough=0.02, over=(hip,))
        femur = value[f"femur_{word}"]
        head = (-186.0, -24.0, 93.0 * side)
        canvas.ellipsoid(femur, head, (24, 24, 24), rough=0.02)
        canvas.tube(femur, ((*head, 17), (-206, -14, 122 * side, 15), (-216, -8, 134 * side, 17)))
        canvas.tube(
            femur,
            (
                (-206, -4, 138 * side, 14),
                (-238, -10, 128 * side, 17),
                (-290, -18, 116 * side, 14),
                (-360, -20, 108 * side, 14),
            ),
        )
    y = trunk.spine_y(-86)
    x = trunk.spine_x(-86)
    plate = ((-82, y - 12, x, 17), (-104, y + 4, x, 18), (-128, y + 26, x, 15), (-152, y + 42, x, 10),
             (-176, y + 50, x, 7), (-196, y + 42, x, 5))  # fmt: skip
    canvas.tube(value["sacrum"], plate[1:], stretch=(1, 1, 2.6), over=(FAT, MUSCLE, SKIN, *_hips(value)))
    for side in (-1, 1):
        canvas.tube(value["sacrum"], ((-86, y - 4, x + 26 * side, 15), (-112, y + 14, x + 40 * side, 14),
                                      (-138, y + 32, x + 26 * side, 11)), over=(FAT, MUSCLE))  # fmt: skip
    canvas.tube(value["vertebrae_S1"], plate[:2], stretch=(1, 1, 1.7))
    canvas.tube(value["sacrum"], ((-84, y + 30, x, 6), (-120, y + 46, x, 6), (-150, y + 58, x, 4)))


def _hips(value: Mapping[str, int]) -> tuple[int, int]:
    return value["hip_left"], value["hip_right"]
