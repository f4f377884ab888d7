"""The chest of a procedural body: lungs by lobe, heart, great vessels, airway, gullet.

Not the chest wall (procedural_bones, procedural_trunk).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from training.phantoms.procedural_canvas import Canvas, FloatArray, rotation
from training.phantoms.procedural_trunk import Trunk
from training.phantoms.tissues import FAT, MUSCLE, PULMONARY_ARTERY


class Diaphragm:
    """The two domes as heights over the plane; lungs above, liver and spleen below.

    Parameters
    ----------
    rng: varies how deeply the person breathed in.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.right = 158 + 10 * float(np.clip(rng.standard_normal(), -2, 2))
        self.left = self.right - 4 - 9 * rng.random()
        self.fall = float(rng.uniform(40, 52))

    def height(self, y: FloatArray, x: FloatArray) -> FloatArray:
        """z of the diaphragm above each (y, x), mm."""
        depth = ((y + 52) / 84) ** 2
        right = self.right - self.fall * (depth + ((x + 68) / 76) ** 2)
        left = self.left - self.fall * (depth + ((x - 70) / 74) ** 2)
        centre = (
            0.5 * (self.right + self.left) - 14 - self.fall * (((y + 88) / 66) ** 2 + ((x - 14) / 66) ** 2)
        )
        height: FloatArray = np.maximum(np.maximum(right, left), centre)
        return height


def paint_lungs(
    canvas: Canvas,
    cavity: npt.NDArray[np.bool_],
    diaphragm: Diaphragm,
    value: Mapping[str, int],
    rng: np.random.Generator,
) -> None:
    """Lungs by lobe in the cavity above the diaphragm, round a mediastinum of fat."""
    where = canvas.box((60, -170, -170), (352, 80, 170))
    if where is None:
        return
    z, y, x = canvas.at(where)
    above = z - diaphragm.height(y, x)
    room = cavity[where]
    canvas.put(MUSCLE, where, room & (above > -3) & (above <= 0))
    # The mediastinum narrows towards the apex and bulges to the left where the heart lies.
    waist = 20 + 9 * np.exp(-(((z - 275) / 40) ** 2)) + 10 * (z > 300) * (z - 300) / 40
    front = np.clip((-y - 92) / 30, 0, 1)
    half = np.abs(x) - (waist * (1 - 0.75 * front) - 5 * canvas.rough[where])
    spine_side = (y > -25) & (np.abs(x) < 12 + 0.1 * (y + 25))
    apex = ((np.abs(x) - 44) / 40) ** 2 + ((y + 35) / 58) ** 2 + ((z - 270) / 68) ** 2
    lung = room & (above > 0) & (half > 0) & ~spine_side & ((z < 270) | (apex < 1))
    tilt = rng.normal(0, 10, 2)
    oblique = (z - 238 - 1.05 * (y + 40) - 4 * canvas.rough[where]) < 0
    left, right = lung & (x > 0), lung & (x < 0)
    lower_left = oblique & (z < 300 + tilt[0])
    canvas.put(value["lung_upper_lobe_left"], where, left & ~lower_left)
    canvas.put(value["lung_lower_lobe_left"], where, left & lower_left)
    low = z < 238 + 0.12 * (y + 60) + tilt[1]
    canvas.put(value["lung_lower_lobe_right"], where, right & oblique)
    canvas.put(value["lung_middle_lobe_right"], where, right & ~oblique & low)
    canvas.put(value["lung_upper_lobe_right"], where, right & ~oblique & ~low)


def lobes(value: Mapping[str, int]) -> tuple[int, ...]:
    """The label values of the five lobes."""
    return tuple(v for name, v in value.items() if name.startswith("lung_"))


def paint_heart(
    canvas: Canvas, diaphragm: Diaphragm, value: Mapping[str, int], rng: np.random.Generator
) -> None:
    """Heart in its fat, atria, left atrial appendage, pulmonary veins."""
    size = float(np.clip(rng.normal(1.0, 0.07), 0.85, 1.2))
    base = 0.5 * (diaphragm.right + diaphragm.left) - 10
    free = (FAT, MUSCLE, *lobes(value))
    apex_turn = rotation(about_z=rng.normal(-38, 5), about_y=rng.normal(24, 5))
    ventricles = (base + 26 * size, -90.0, 24.0)
    parts = (
        (ventricles, (40, 45, 63), apex_turn),
        ((base + 42, -82, -24), (40, 34, 27), None),
        ((base + 58, -58, 2), (26, 24, 36), None),
        ((base + 60, -96, 4), (26, 24, 27), None),
    )
    for tissue, grow, over in ((FAT, 6.0, free), (value["heart"], 0.0, (FAT,))):
        for centre, radii, turn in parts:
            spread = [r * size + grow for r in radii]
            canvas.ellipsoid(tissue, centre, spread, turn=turn, rough=0.04, over=over)
    canvas.ellipsoid(value["atrial_appendage_left"], (base + 72, -78, 36), (12, 20, 12), over=free)
    for side in (-1, 1):
        for rise in (0, 22):
            canvas.tube(
                value["pulmonary_vein"],
                ((base + 56 + rise * 0.4, -54, 26 * side, 7), (base + 50 + rise, -40, 58 * side, 5)),
                over=free,
            )


def paint_chest_vessels(
    canvas: Canvas, trunk: Trunk, diaphragm: Diaphragm, value: Mapping[str, int], rng: np.random.Generator
) -> None:
    """Aorta from root to diaphragm with arch branches, caval and pulmonary vessels."""
    wide = float(np.clip(rng.normal(1.0, 0.1), 0.8, 1.35))
    base = 0.5 * (diaphragm.right + diaphragm.left)

    def beside_spine(z: float) -> float:
        return trunk.spine_y(z) - 42

    air = lobes(value)
    soft = (FAT, MUSCLE, *air)
    arch = [
        (base + 58, -84, -6, 15 * wide), (250, -92, -20, 15.5 * wide), (276, -84, -20, 15 * wide),
        (291, -64, -6, 14 * wide), (290, -42, 10, 13.5 * wide),
        (272, beside_spine(272) + 6, 17, 13 * wide), (235, beside_spine(235) + 8, 17, 12 * wide),
        (190, beside_spine(190) + 6, 13, 12 * wide), (150, beside_spine(150) + 2, 9, 11.5 * wide),
        (115, beside_spine(115), 5, 11 * wide),
    ]  # fmt: skip
    canvas.tube(FAT, arch, over=air, grow_mm=3)
    canvas.tube(value["aorta"], arch)
    canvas.tube(FAT, ((330, -66, -38, 9), (225, -70, -40, 10)), over=air, grow_mm=3)
    canvas.tube(
        value["superior_vena_cava"], ((298, -76, -36, 8), (262, -72, -38, 9.5), (base + 66, -72, -37, 10))
    )
    canvas.tube(value["brachiocephalic_vein_right"], ((335, -66, -52, 6.5), (297, -76, -38, 8)))
    canvas.tube(
        value["brachiocephalic_vein_left"], ((334, -70, 50, 6), (316, -92, 18, 6.5), (300, -80, -32, 7))
    )
    branches = (
        ("brachiocephalic_trunk", ((296, -72, -10, 6.5), (318, -70, -26, 6))),
        ("common_carotid_artery_right", ((318, -72, -26, 4), (400, -62, -34, 4))),
        ("common_carotid_artery_left", ((298, -58, 4, 4), (330, -66, 20, 4), (400, -62, 32, 4))),
        ("subclavian_artery_right", ((318, -68, -28, 5), (340, -52, -60, 4.5), (332, -56, -108, 4))),
        ("subclavian_artery_left", ((298, -48, 12, 5), (338, -46, 44, 4.5), (332, -54, 108, 4))),
    )
    for name, points in branches:
        canvas.tube(value[name], points, over=soft)
    trunk_points = ((base + 68, -104, 12, 14 * wide), (248, -90, 20, 13 * wide), (256, -66, 18, 12 * wide))
    fork = (((255, -64, 16, 11 * wide), (248, -52, -10, 11 * wide), (244, -44, -46, 8), (236, -38, -62, 6)),
            ((256, -64, 20, 11 * wide), (256, -44, 40, 9), (244, -30, 56, 6)))  # fmt: skip
    for branch in (trunk_points, *fork):
        canvas.tube(FAT, branch, over=air, grow_mm=2)
        canvas.tube(PULMONARY_ARTERY, branch, over=soft)


def paint_airway(canvas: Canvas, trunk: Trunk, value: Mapping[str, int]) -> None:
    """Trachea with main bronchi, oesophagus, thyroid."""
    fork_y = trunk.spine_y(262) - 52
    gullet = [(z, trunk.spine_y(z) - (36 if z > 240 else 50), 2 if z > 190 else 10, 6.5)
              for z in (440, 400, 360, 320, 290, 255, 220, 190, 165)]  # fmt: skip
    gullet[-1] = (150, trunk.spine_y(150) - 52, 20, 8)
    canvas.tube(value["esophagus"], gullet, stretch=(1, 0.8, 1.25))
    windpipe = ((440, trunk.spine_y(420) - 50, 0, 9), (360, trunk.spine_y(360) - 52, 0, 9),
                (310, trunk.spine_y(310) - 54, -2, 9), (262, fork_y, -4, 9.5))  # fmt: skip
    air = (FAT, MUSCLE, value["esophagus"], *lobes(value))
    for side in (-1, 1):
        canvas.tube(
            value["thyroid_gland"], ((348, -70, 20 * side, 8), (372, -72, 20 * side, 9)), over=(FAT, MUSCLE)
        )
        canvas.tube(value["trachea"], ((262, fork_y, -4, 8), (238, fork_y + 8, 36 * side, 6)), over=air)
    canvas.tube(MUSCLE, windpipe, over=(FAT, *lobes(value)), grow_mm=2)
    canvas.tube(value["trachea"], windpipe)
