"""The pelvis of a procedural body and the muscles of trunk and hip.

Not its bones (procedural_bones).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from training.phantoms.procedural_abdomen import jitter, size
from training.phantoms.procedural_canvas import Canvas, FloatArray, rotation
from training.phantoms.procedural_trunk import Trunk
from training.phantoms.tissues import FAT, MUSCLE


def paint_muscles(canvas: Canvas, trunk: Trunk, value: Mapping[str, int], rng: np.random.Generator) -> None:
    """Deep back muscles, gluteal muscles, iliopsoas. Before the bones."""
    bulk = size(rng, 0.1)
    for side, word in ((-1, "right"), (1, "left")):
        back = [
            (z, trunk.spine_y(z) + d, trunk.spine_x(z) + x * side, r * bulk)
            for z, d, x, r in (
                (-128, 44, 18, 10),
                (-90, 40, 30, 15),
                (-40, 36, 36, 20),
                (20, 35, 37, 20),
                (80, 36, 34, 18),
                (140, 34, 30, 15),
                (220, 32, 26, 13),
                (300, 34, 24, 12),
                (345, 34, 24, 13),
                (420, 36, 20, 13),
            )
        ]
        canvas.tube(value[f"autochthon_{word}"], back, stretch=(1, 0.9, 1.25), over=(MUSCLE, FAT))
        groups = (
            (
                "gluteus_maximus",
                (-186, 46, 86),
                (84, 26, 60),
                rotation(about_z=24.0 * side, about_y=14.0 * side),
            ),
            ("gluteus_minimus", (-142, -22, 112), (44, 38, 13), rotation(about_z=-22.0 * side)),
            ("gluteus_medius", (-120, -10, 124), (68, 52, 26), rotation(about_z=-18.0 * side)),
        )
        for name, (z, y_middle, x), radii, turn in groups:
            plane = np.asarray(radii) * bulk + 4
            canvas.ellipsoid(FAT, (z, y_middle, x * side), plane, turn=turn, over=(MUSCLE,))
            canvas.ellipsoid(
                value[f"{name}_{word}"],
                (z, y_middle, x * side),
                np.asarray(radii) * bulk,
                turn=turn,
                over=(MUSCLE, FAT),
                clip=_within_hip if name == "gluteus_maximus" else None,
            )
        y = trunk.spine_y(40) - 12
        psoas = (
            (62, y + 4, 30 * side, 6),
            (30, y, 36 * side, 13 * bulk),
            (-25, y - 6, 44 * side, 19 * bulk),
            (-75, -26, 54 * side, 21 * bulk),
            (-120, -46, 70 * side, 20 * bulk),
            (-165, -66, 82 * side, 19 * bulk),
            (-200, -56, 94 * side, 17 * bulk),
            (-238, -20, 98 * side, 9),
        )
        muscle = value[f"iliopsoas_{word}"]
        canvas.tube(FAT, psoas, grow_mm=2, over=(MUSCLE,))
        canvas.tube(muscle, psoas, over=(MUSCLE, FAT))
        iliacus = ((-62, -8, 92 * side, 8), (-90, -26, 96 * side, 13), (-130, -40, 88 * side, 15))
        canvas.tube(muscle, iliacus, over=(MUSCLE, FAT))
        quadratus = (
            (66, trunk.spine_y(66) + 14, 48 * side, 8),
            (-44, trunk.spine_y(-44) + 18, 74 * side, 11),
        )
        canvas.tube(MUSCLE, quadratus, over=(FAT,))


def _within_hip(z: FloatArray, y: FloatArray, x: FloatArray) -> npt.NDArray[np.bool_]:
    """Behind the hip joint and beneath the subcutaneous fat."""
    return (y > 6) & (((x / 168) ** 2 + ((y - 10) / 74) ** 2) < 1)


def paint_pelvic_organs(
    canvas: Canvas, value: Mapping[str, int], rng: np.random.Generator, *, male: bool
) -> None:
    """Bladder, and prostate in men."""
    fill = float(rng.uniform(0.8, 1.6))
    floor = -204.0
    radii = np.array((24, 26, 30)) * fill
    centre = np.array((floor + radii[0], -48, 0)) + jitter(rng, 3) * (0.3, 1, 1)
    free = (FAT, MUSCLE, value["small_bowel"])
    canvas.ellipsoid(FAT, centre, radii + 4, over=(value["small_bowel"], value["colon"]), rough=0.04)
    canvas.ellipsoid(value["urinary_bladder"], centre, radii, over=free, rough=0.04)
    if male:
        s = size(rng, 0.18)
        canvas.ellipsoid(value["prostate"], (-216, -26, 0), np.array((17, 16, 21)) * s, over=(FAT, MUSCLE))


def paint_iliac_vessels(
    canvas: Canvas, trunk: Trunk, value: Mapping[str, int], rng: np.random.Generator
) -> None:
    """Iliac arteries and veins from their forks to the groin."""
    m = float(np.clip(rng.standard_normal(), -2, 2)) * 3
    y = trunk.spine_y(-25) - 42
    free = tuple(v for k, v in value.items() if not k.startswith(("hip", "sacrum", "vertebrae", "femur")))
    free = (*free, FAT, MUSCLE)
    for side, word in ((-1, "right"), (1, "left")):
        vein = ((-34, y + 4, -14 + 4 * side, 9), (-70, y + 16, 28 * side - 4, 8), (-110, -30, 44 * side, 8),
                (-150, -46, 60 * side, 8), (-190, -68, 64 * side, 8), (-262, -66, 72 * side, 7))  # fmt: skip
        artery = (
            (-20, y, 3 + 2 * side, 6.5),
            (-60, y + 4, 30 * side + 2, 6),
            (-100, -46, 46 * side, 5.5),
            (-150, -66 + m, 66 * side, 5),
            (-190, -80, 70 * side, 5),
            (-262, -76, 80 * side, 5),
        )
        canvas.tube(value[f"iliac_vena_{word}"], vein, over=free)
        canvas.tube(value[f"iliac_artery_{word}"], artery, over=free)
        inner = ((-92, -38, 44 * side, 4.5), (-130, -10, 52 * side, 4), (-165, 0, 50 * side, 3.5))
        canvas.tube(value[f"iliac_artery_{word}"], inner, over=(FAT,))
