"""Procedural anatomy: a chest-abdomen-pelvis label map grown from a random number generator.

No image and no lesion: the scanner and `lesions` add those. Nor is it a patient: every shape is
an implicit function that was placed by eye and measured against the two label maps of real
patients that this project tests with; the value is variety, not fidelity.
"""

from __future__ import annotations

import numpy as np
import torch

from training.phantoms.procedural_abdomen import (
    paint_abdominal_vessels,
    paint_bowel,
    paint_liver,
    paint_retroperitoneum,
    paint_spleen_stomach,
)
from training.phantoms.procedural_bones import paint_pelvis, paint_ribs, paint_shoulders, paint_spine
from training.phantoms.procedural_canvas import Canvas, tissue_values
from training.phantoms.procedural_chest import (
    Diaphragm,
    paint_airway,
    paint_chest_vessels,
    paint_heart,
    paint_lungs,
)
from training.phantoms.procedural_pelvis import paint_iliac_vessels, paint_muscles, paint_pelvic_organs
from training.phantoms.procedural_trunk import Build, Trunk, paint_trunk
from training.phantoms.tissues import Anatomy

ATLAS_TOP, ATLAS_BOTTOM = 352.0, -246.0  # mm: lower neck to below the bladder
# What is scanned when not the whole trunk: lowest and highest level, mm; our choice.
COVERAGE = {
    "chest": (118.0, 352.0),
    "abdomen": (-60.0, 205.0),
    "pelvis": (-246.0, -20.0),
    "abdomen and pelvis": (-246.0, 205.0),
    "chest and abdomen": (-60.0, 352.0),
}


def procedural_anatomy(
    rng: np.random.Generator,
    spacing_mm: float = 3.0,
    height_mm: float | None = None,
    coverage: str | None = None,
) -> Anatomy:
    """A random body between neck and thigh.

    Parameters
    ----------
    rng: the only source of randomness; the same state gives the same anatomy.
    spacing_mm: isotropic voxel size, mm.
    height_mm: length of the scan; a random window of the trunk of that length. None scans from
        the lower neck to below the bladder, about 600 mm.
    coverage: one of `COVERAGE` instead of the whole trunk; `height_mm` then cuts that.

    Returns
    -------
    Anatomy with (D, H, W) uint8 tissues in "HPL".

    Raises
    ------
    ValueError: if `spacing_mm` is not within 1..12, `height_mm` is shorter than 8 voxels, or
        `coverage` is unknown.
    """
    if coverage is not None and coverage not in COVERAGE:
        raise ValueError(f"coverage {coverage!r} is not one of {sorted(COVERAGE)}")
    if not 1 <= spacing_mm <= 12:
        raise ValueError(f"spacing_mm is {spacing_mm}; procedural anatomy is made for 1 to 12 mm")
    if height_mm is not None and height_mm < 8 * spacing_mm:
        raise ValueError(f"height_mm is {height_mm}; at least 8 voxels of {spacing_mm} mm are needed")
    stature = float(np.clip(rng.normal(1.0, 0.06), 0.86, 1.14))
    girth = float(np.clip(rng.normal(1.0, 0.06), 0.86, 1.14)) * stature**0.5
    depth = float(np.clip(rng.normal(1.0, 0.05), 0.9, 1.12)) * girth
    fat = float(np.clip(rng.gamma(3.0, 5.0), 4, 45))
    build = Build(
        fat_front=fat * float(rng.uniform(0.8, 1.4)),
        fat_side=fat * float(rng.uniform(0.8, 1.2)),
        fat_back=fat * float(rng.uniform(0.6, 1.1)) + 3,
        marbling=float(rng.uniform(0.0, 0.16)),
        arms_up=bool(rng.random() < 0.75),
        male=bool(rng.random() < 0.5),
        table=bool(rng.random() < 0.6),
    )
    levels = (ATLAS_BOTTOM, ATLAS_TOP) if coverage is None else COVERAGE[coverage]
    canvas = _canvas(rng, spacing_mm, height_mm, (stature, depth, girth), build, levels=levels)
    _paint(canvas, build, rng)
    return Anatomy(tissues=torch.from_numpy(canvas.labels), spacing_mm=spacing_mm)


def _canvas(
    rng: np.random.Generator,
    spacing_mm: float,
    height_mm: float | None,
    scale: tuple[float, float, float],
    build: Build,
    *,
    levels: tuple[float, float],
) -> Canvas:
    """An empty canvas that covers the body with a margin of air.

    `scale` is body mm per atlas mm along (z, y, x), `levels` the lowest and the highest atlas z.
    """
    bottom = levels[0] + rng.uniform(-22, 14)
    top = levels[1] + rng.uniform(-18, 36)
    if height_mm is not None:
        length = height_mm / scale[0]
        if length < top - bottom:
            bottom += rng.uniform(0, top - bottom - length)
        top = bottom + length
    margin = rng.uniform(10, 28)
    half = 180 + build.fat_side + margin
    if not build.arms_up:
        half = max(half, rng.uniform(205, 250) + 0.5 * build.fat_side)
    front = -158 - build.fat_front - margin - (0 if build.male else 14)
    back = 82 + build.fat_back + margin + (34 if build.table else 0)
    step = [spacing_mm / s for s in scale]
    extent = (top - bottom, back - front, 2 * half)
    shape = [max(8, round(e / s)) for e, s in zip(extent, step, strict=True)]
    shift = rng.uniform(-8, 8)
    return Canvas(
        rng,
        (shape[0], shape[1], shape[2]),
        (bottom, front, -half + shift),
        (step[0], step[1], step[2]),
        bend_mm=float(rng.uniform(3.5, 6.5)),
    )


def _paint(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """All tissues, from the outside inwards."""
    value = tissue_values()
    trunk = Trunk(rng)
    diaphragm = Diaphragm(rng)
    cavity = paint_trunk(canvas, trunk, build)
    paint_muscles(canvas, trunk, value, rng)
    paint_lungs(canvas, cavity, diaphragm, value, rng)
    paint_heart(canvas, diaphragm, value, rng)
    paint_liver(canvas, cavity, diaphragm, value, rng)
    paint_spleen_stomach(canvas, cavity, diaphragm, value, rng)
    paint_retroperitoneum(canvas, trunk, value, rng)
    paint_bowel(canvas, cavity, value, rng)
    paint_pelvic_organs(canvas, value, rng, male=build.male)
    paint_chest_vessels(canvas, trunk, diaphragm, value, rng)
    paint_abdominal_vessels(canvas, trunk, diaphragm, value, rng)
    paint_airway(canvas, trunk, value)
    paint_pelvis(canvas, trunk, value)
    paint_iliac_vessels(canvas, trunk, value, rng)
    paint_ribs(canvas, trunk, value, rng)
    paint_spine(canvas, trunk, value)
    paint_shoulders(canvas, value, arms_up=build.arms_up)
