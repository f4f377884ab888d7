"""Abnormalities that change an organ's shape or fill a space: effusions, aneurysm, hernia, fracture.

Not lumps in an organ (`lesions`) and no grey values (`lesion_hu`). Each function changes tissues
and lesion mask in place and returns what it planted, or None where there is no room. Sizes are
our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from core_model.anatomy import structures
from training.phantoms.fields import Box, bounding_box, smooth_noise, uniform
from training.phantoms.tissues import (
    AIR,
    DISC,
    FAT,
    MUSCLE,
    SEROUS_FLUID,
    UNCERTAIN_BOWEL,
    PlantedLesion,
    tissue,
)

MIN_VOXELS = 30  # of a part worth changing; below it the organ is hardly in view


@dataclass(frozen=True)
class Site:
    """Where an abnormality is planted; the tensors are changed in place.

    Attributes
    ----------
    tissues, lesions: (D, H, W) uint8, axes "HPL".
    spacing_mm: isotropic voxel size.
    value: of the abnormality in `lesions`.
    """

    tissues: torch.Tensor
    lesions: torch.Tensor
    spacing_mm: float
    value: int

    def mask(self, *names: str) -> torch.Tensor:
        """(D, H, W) bool: the voxels of some structures."""
        return self.of([tissue(n) for n in names])

    def of(self, values: Sequence[int], box: Box | None = None) -> torch.Tensor:
        """Bool: the voxels of some tissue values, in a box or everywhere."""
        part = self.tissues if box is None else self.tissues[box]
        return torch.isin(part, torch.tensor(list(values), dtype=torch.uint8))

    def box(self, mask: torch.Tensor, margin_mm: float) -> Box | None:
        """The box round a mask; None where it has less than `MIN_VOXELS` voxels."""
        if int(mask.sum()) < MIN_VOXELS:
            return None
        return bounding_box(mask, int(np.ceil(margin_mm / self.spacing_mm)))

    def place(
        self, name: str, organ: str, side: str, box: Box, mask: torch.Tensor, *, diameter_mm: float = 0.0
    ) -> PlantedLesion | None:
        """Write a mask (of a box) into `lesions`; None where next to nothing of it is free."""
        mask = mask & (self.lesions[box] == 0)
        if int(mask.sum()) < MIN_VOXELS:
            return None
        self.lesions[box][mask] = self.value
        z, y, x = (mask.nonzero().float().mean(0) + torch.tensor([float(s.start) for s in box])).tolist()
        return PlantedLesion(name, organ, side, (z, y, x), diameter_mm, self.value)


Plant = Callable[[Site, np.random.Generator, float], PlantedLesion | None]


@dataclass(frozen=True)
class Disorder:
    """How one of these abnormalities is planted.

    Attributes
    ----------
    abnormality: name in the dictionary.
    chance: probability that a patient has it.
    plant: what does it: (site, generator, diameter in mm) -> what was planted, or None.
    diameter_mm: smallest and largest diameter, None where it has no size.
    """

    abnormality: str
    chance: float
    plant: Plant
    diameter_mm: tuple[float, float] | None = None


def disorders() -> tuple[Disorder, ...]:
    """All of them, in the order in which they are drawn and planted."""
    return (
        Disorder("hepatic_steatosis", 0.2, steatosis),
        Disorder("pleural_effusion", 0.25, pleural_effusion),
        Disorder("splenomegaly", 0.15, splenomegaly),
        Disorder("emphysema", 0.15, emphysema),
        Disorder("pericardial_effusion", 0.12, pericardial_effusion),
        Disorder("pneumothorax", 0.1, pneumothorax),
        Disorder("lung_consolidation", 0.15, consolidation),
        Disorder("hydronephrosis", 0.12, hydronephrosis),
        Disorder("aortic_aneurysm", 0.12, aneurysm, (35.0, 75.0)),
        Disorder("hiatal_hernia", 0.12, hiatal_hernia),
        Disorder("vertebral_fracture", 0.15, vertebral_fracture),
    )


# Without a mask: they are seen of the organ as a whole.
UNMASKED = ("hepatic_steatosis", "splenomegaly", "emphysema")


def lobes(side: str = "") -> tuple[str, ...]:
    """Names of the lobes of one lung, or of both."""
    return tuple(s.name for s in structures() if s.name.startswith("lung_") and s.name.endswith(side))


def _side(rng: np.random.Generator) -> str:
    return "left" if rng.random() < 0.5 else "right"


def _axes(box: Box, spacing_mm: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coordinates (mm) of a box's voxels along each axis, ready to broadcast."""
    z, y, x = (torch.arange(s.start, s.stop).float() * spacing_mm for s in box)
    return z[:, None, None], y[None, :, None], x[None, None, :]


def _distance(mask: torch.Tensor, spacing_mm: float) -> torch.Tensor:
    """(D, H, W) float32: depth of each voxel of a mask below its surface, mm."""
    depth: npt.NDArray[np.float64] = ndimage.distance_transform_edt(mask.numpy())
    return torch.from_numpy((depth * spacing_mm).astype(np.float32))


def steatosis(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """Fat in the liver: the scanner darkens it."""
    del rng, diameter_mm
    if not bool(site.mask("liver").any()):
        return None
    return PlantedLesion("hepatic_steatosis", "liver", "", (0.0, 0.0, 0.0), 0.0, 0)


def emphysema(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """Destroyed lung: the scanner paints its holes."""
    del rng, diameter_mm
    if int(site.mask(*lobes()).sum()) < MIN_VOXELS:
        return None
    return PlantedLesion("emphysema", "lung", "", (0.0, 0.0, 0.0), 0.0, 0)


def pleural_effusion(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """Fluid in the dependent part of one pleural space; it replaces lung tissue."""
    del diameter_mm
    tissues, lesions = site.tissues, site.lesions
    side = _side(rng)
    lung = site.mask(*lobes(side))
    where = lung.nonzero().float()
    if len(where) < 2000:
        return None
    # Height above the dependent (posterior, basal) corner; the fluid level tilts with the diaphragm.
    tilt = uniform(rng, 0.1, 0.5)
    height = -where[:, 1] + tilt * where[:, 0]
    level = torch.quantile(height[:: max(1, len(height) // 100_000)], uniform(rng, 0.08, 0.35))
    grid_y = torch.arange(tissues.shape[1])[None, :, None].float()
    grid_z = torch.arange(tissues.shape[0])[:, None, None].float()
    mask = lung & ((-grid_y + tilt * grid_z) < level)
    tissues[mask] = SEROUS_FLUID
    lesions[mask] = site.value
    z, y, x = mask.nonzero().float().mean(0).tolist()
    return PlantedLesion("pleural_effusion", "lung", side, (z, y, x), 0.0, site.value)


def pneumothorax(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """Air in front of one lung and above its apex; it replaces lung tissue."""
    del diameter_mm
    side = _side(rng)
    lung = site.mask(*lobes(side))
    box = site.box(lung, 0)
    if box is None:
        return None
    lung = lung[box]
    z, y, _ = _axes(box, site.spacing_mm)
    in_column = lung.any(1)  # (D, W)
    first = torch.where(in_column, lung.int().argmax(1) * site.spacing_mm + y[0, 0, 0], torch.inf)
    front = first.min(1, keepdim=True).values  # (D, 1): where the lung begins in each slice
    thickness = uniform(rng, 10, 45) * (1 + 0.2 * smooth_noise(rng, (*first.shape, 2), 40 / site.spacing_mm))
    rise = (z[:, :, 0] - z.min()) / (z.max() - z.min() + 1)  # (D, 1): air gathers at the apex
    gap = thickness[..., 0] * (0.5 + rise) - 0.5 * (first - front)  # (D, W)
    mask = lung & (y < (first + gap)[:, None, :])
    planted = site.place("pneumothorax", "lung", side, box, mask)
    if planted is not None:
        site.tissues[box][site.lesions[box] == site.value] = AIR
    return planted


def consolidation(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """Airspace filling of a part of one lobe, with a ragged border inside it."""
    del diameter_mm
    names = list(lobes())
    rng.shuffle(names)
    for name in names:
        lobe = site.mask(name)
        box = site.box(lobe, 0)
        if box is None:
            continue
        lobe = lobe[box]
        where = lobe.nonzero()
        centre = where[int(rng.integers(len(where)))].float() * site.spacing_mm
        z, y, x = _axes(box, site.spacing_mm)
        start = torch.tensor([float(s.start) for s in box]) * site.spacing_mm
        c = centre + start
        radii = uniform(rng, 18, 50) * rng.uniform(0.7, 1.3, 3)
        r2 = ((z - c[0]) / radii[0]) ** 2 + ((y - c[1]) / radii[1]) ** 2 + ((x - c[2]) / radii[2]) ** 2
        ragged = smooth_noise(rng, tuple(lobe.shape), 18 / site.spacing_mm) * 0.25
        mask = lobe & (torch.sqrt(r2) + ragged < 1)
        side = "left" if name.endswith("left") else "right"
        planted = site.place("lung_consolidation", "lung", side, box, mask)
        if planted is not None:
            return planted
    return None


def pericardial_effusion(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """A shell of fluid round the heart, thicker behind and below."""
    del diameter_mm
    heart = site.mask("heart")
    box = site.box(heart, 28)
    if box is None:
        return None
    heart = heart[box]
    z, y, _ = _axes(box, site.spacing_mm)
    back = (y - y.min()) / (y.max() - y.min())
    low = 1 - (z - z.min()) / (z.max() - z.min())
    thickness = uniform(rng, 6, 16) * (0.4 + 0.6 * back + 0.4 * low)
    room = site.of([FAT, MUSCLE, *(tissue(n) for n in lobes())], box)
    mask = room & (_distance(~heart, site.spacing_mm) < thickness)
    planted = site.place("pericardial_effusion", "heart", "", box, mask)
    if planted is not None:
        site.tissues[box][site.lesions[box] == site.value] = SEROUS_FLUID
    return planted


def hydronephrosis(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """Urine in wide calyces and in a wide renal pelvis that reaches out of the hilum."""
    del diameter_mm
    side = _side(rng)
    kidney = site.mask(f"kidney_{side}")
    box = site.box(kidney, 25)
    if box is None:
        return None
    kidney = kidney[box]
    depth = _distance(kidney, site.spacing_mm)
    lobulated = smooth_noise(rng, tuple(kidney.shape), 16 / site.spacing_mm) * 2.0
    calyces = kidney & (depth > uniform(rng, 6, 10) + lobulated)
    z, y, x = _axes(box, site.spacing_mm)
    c = (kidney.nonzero().float().mean(0) + torch.tensor([float(s.start) for s in box])) * site.spacing_mm
    inward = -1.0 if side == "left" else 1.0  # towards the midline: the third axis runs to the left
    middle = (c[0] - uniform(rng, 0, 8), c[1] - 5, c[2] + inward * uniform(rng, 14, 20))
    radii = uniform(rng, 0.7, 1.25) * np.array([17.0, 10.0, 14.0])
    r2 = sum(((a - m) / r) ** 2 for a, m, r in zip((z, y, x), middle, radii, strict=True))
    pelvis = (kidney | site.of([FAT], box)) & (torch.as_tensor(r2) < 1)
    return site.place("hydronephrosis", "kidneys", side, box, calyces | pelvis)


def splenomegaly(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """The spleen grown downwards, forwards and inwards, over fat and bowel; None where blocked."""
    del diameter_mm
    spleen = site.mask("spleen")
    box = site.box(spleen, 70)
    if box is None:
        return None
    small = spleen[box]
    where = small.nonzero().float()
    low, high = where.min(0).values, where.max(0).values
    fixed = torch.stack([high[0] * 0.9 + low[0] * 0.1, high[1], high[2]])  # up, behind, left
    factor = uniform(rng, 1.35, 1.6)
    sources = [
        (f + (torch.arange(n) - f) / factor).round().long().clamp(0, n - 1)
        for f, n in zip(fixed.tolist(), small.shape, strict=True)
    ]
    grown = small[sources[0]][:, sources[1]][:, :, sources[2]]
    over = [FAT, UNCERTAIN_BOWEL, *(tissue(n) for n in ("stomach", "colon", "small_bowel"))]
    grown = grown & site.of(over, box) & (site.lesions[box] == 0)
    grown, pieces = _touching(grown, small)
    if int(pieces) < 1.6 * int(small.sum()):
        return None
    site.tissues[box][grown] = tissue("spleen")
    return PlantedLesion("splenomegaly", "spleen", "", (0.0, 0.0, 0.0), 0.0, 0)


def _touching(grown: torch.Tensor, core: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The part of `grown` that hangs together with `core`, and the size of both together."""
    labels, _ = ndimage.label((grown | core).numpy())
    keep = np.bincount(labels[core.numpy()]).argmax()
    joined = torch.from_numpy(labels == keep)
    return joined & grown, int(joined.sum())


def aneurysm(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """A fusiform widening of the lower aorta in view; it grows forwards, away from the spine."""
    aorta = site.mask("aorta")
    box = site.box(aorta, diameter_mm)
    if box is None:
        return None
    aorta = aorta[box]
    rows = aorta.flatten(1).sum(1).nonzero().flatten()  # slices that show the aorta
    level = int(rows[int(len(rows) * uniform(rng, 0.12, 0.4))])
    radius = diameter_mm / 2
    long = radius * uniform(rng, 1.5, 2.4)
    z, y, x = _axes(box, site.spacing_mm)
    middle = torch.zeros(aorta.shape[0], 2)
    for k in rows.tolist():  # the median is not moved by branches
        middle[k] = aorta[k].nonzero().float().median(0).values
    ended = torch.ones(aorta.shape[0], dtype=torch.bool)
    ended[rows] = False
    height = (z - z[level]) / long
    start = torch.tensor([float(s.start) for s in box])
    cy = (middle[:, 0] + start[1])[:, None, None] * site.spacing_mm - 0.5 * max(0.0, radius - 10)
    cx = (middle[:, 1] + start[2])[:, None, None] * site.spacing_mm + uniform(rng, -0.2, 0.2) * radius
    r2 = height**2 + ((y - cy) ** 2 + (x - cx) ** 2) / radius**2
    r2 = r2 + 0.12 * smooth_noise(rng, tuple(aorta.shape), 30 / site.spacing_mm)
    bowel = ("small_bowel", "duodenum", "colon", "stomach", "pancreas")
    room = aorta | site.of([FAT, UNCERTAIN_BOWEL, *(tissue(n) for n in bowel)], box)
    mask = room & (r2 < 1) & ~ended[:, None, None]
    widest = int(mask.flatten(1).sum(1).max())
    measured_mm = float(2 * np.sqrt(widest / np.pi) * site.spacing_mm)
    planted = site.place("aortic_aneurysm", "aorta", "", box, mask, diameter_mm=measured_mm)
    if planted is not None:
        site.tissues[box][site.lesions[box] == site.value] = tissue("aorta")
    return planted


def hiatal_hernia(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """A pouch of stomach behind the heart; None where gullet and stomach are not both in view."""
    del diameter_mm
    gullet, stomach = site.mask("esophagus"), site.mask("stomach")
    if int(gullet.sum()) < MIN_VOXELS or int(stomach.sum()) < MIN_VOXELS:
        return None
    top = int(stomach.nonzero()[:, 0].max())
    level = top + round(uniform(rng, 10, 30) / site.spacing_mm)
    if level >= len(gullet) or not bool(gullet[level].any()):
        return None
    y0, x0 = (gullet[level].nonzero().float().mean(0) * site.spacing_mm).tolist()
    radii = np.array([uniform(rng, 20, 36), uniform(rng, 16, 26), uniform(rng, 20, 34)])
    centre = np.array([level * site.spacing_mm, y0 + 4, x0])
    low = np.floor((centre - radii) / site.spacing_mm).astype(int)
    high = np.ceil((centre + radii) / site.spacing_mm).astype(int) + 1
    box = tuple(
        slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, site.tissues.shape, strict=True)
    )
    where: Box = (box[0], box[1], box[2])
    r2 = sum(((a - c) / r) ** 2 for a, c, r in zip(_axes(where, site.spacing_mm), centre, radii, strict=True))
    room = site.of([FAT, tissue("esophagus"), *(tissue(n) for n in lobes())], where)
    mask = room & (torch.as_tensor(r2) < 1)
    planted = site.place("hiatal_hernia", "stomach", "", where, mask)
    if planted is not None:
        site.tissues[where][site.lesions[where] == site.value] = tissue("stomach")
    return planted


def vertebral_fracture(site: Site, rng: np.random.Generator, diameter_mm: float) -> PlantedLesion | None:
    """The upper endplate of a lumbar vertebral body pressed in, more in front than behind."""
    del diameter_mm
    names = [f"vertebrae_L{k}" for k in range(1, 6)]
    rng.shuffle(names)
    for name in names:
        vertebra = site.mask(name)
        box = site.box(vertebra, 0)
        if box is None or box[0].start == 0 or box[0].stop == len(vertebra):
            continue
        bone = vertebra[box]
        depth, height, _ = bone.shape
        tall = bone.sum(0)  # (H, W): body columns are the tallest; the arch lies behind them
        body = (tall > 0.6 * float(tall.max())) & (torch.arange(height)[:, None] < 0.55 * height)
        if int(body.sum()) < MIN_VOXELS // 3:
            continue
        rows = body.any(1).nonzero().flatten()
        front, back = int(rows[0]), int(rows[-1])
        share = (torch.arange(height)[:, None] - front) / max(1, back - front)  # 0 in front, 1 behind
        left = uniform(rng, 0.35, 0.65) + uniform(rng, 0.15, 0.35) * share.clamp(0, 1)  # height that is left
        left = left + 0.06 * smooth_noise(rng, (2, *tall.shape), 8 / site.spacing_mm)[0]
        bottom = bone.int().argmax(0)  # (H, W)
        up = (torch.arange(depth)[:, None, None] - bottom[None] + 0.5) / tall.clamp_min(1)[None]
        fallen = bone & body[None] & (up > left[None])
        planted = site.place("vertebral_fracture", "lumbar_spine", "", box, bone & body[None] & ~fallen)
        if planted is not None:
            site.tissues[box][fallen & (site.lesions[box] == 0)] = DISC
            return planted
    return None
