"""Planting abnormalities into an anatomy: where they lie, how large they are, their masks.

Grey values are the scanner's business. Frequencies and sizes are our choice: every
abnormality must be met often in training, not as often as in a hospital.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core_model.anatomy import structures
from training.phantoms.fields import smooth_noise, uniform
from training.phantoms.tissues import PLEURAL_FLUID, Anatomy, PlantedLesion, tissue


@dataclass(frozen=True)
class LesionKind:
    """How one abnormality is planted.

    Attributes
    ----------
    abnormality, organ: names in the dictionary and the organ table.
    hosts: names of the v2 structures it may lie in.
    diameter_mm: smallest and largest diameter, drawn log-uniformly.
    count: smallest and largest number per patient.
    chance: probability that a patient has it.
    inset_mm: how far its centre keeps from the host's surface.
    irregular: strength of the surface's noise, 0 = ellipsoid.
    """

    abnormality: str
    organ: str
    hosts: tuple[str, ...]
    diameter_mm: tuple[float, float]
    count: tuple[int, int]
    chance: float
    inset_mm: float = 0.0
    irregular: float = 0.15


def _lobes() -> tuple[str, ...]:
    return tuple(s.name for s in structures() if s.name.startswith("lung_"))


def lesion_kinds() -> tuple[LesionKind, ...]:
    """All plantable focal abnormalities; later ones are painted over earlier ones."""
    kidneys = ("kidney_left", "kidney_right")
    return (
        LesionKind("liver_tumour", "liver", ("liver",), (8, 60), (1, 5), 0.5, 3.0, 0.35),
        LesionKind("liver_cyst", "liver", ("liver",), (6, 45), (1, 3), 0.25, 2.0, 0.05),
        LesionKind("renal_tumour", "kidneys", kidneys, (12, 55), (1, 1), 0.3, 0.0, 0.25),
        LesionKind("renal_cyst", "kidneys", kidneys, (8, 45), (1, 3), 0.3, 0.0, 0.04),
        LesionKind("kidney_stone", "kidneys", kidneys, (4, 12), (1, 2), 0.2, 6.0, 0.1),
        LesionKind("pancreatic_tumour", "pancreas", ("pancreas",), (12, 40), (1, 1), 0.3, 0.0, 0.3),
        LesionKind("lung_nodule", "lung", _lobes(), (5, 35), (1, 4), 0.4, 2.0, 0.3),
        LesionKind("colon_tumour", "colon", ("colon",), (18, 45), (1, 1), 0.25, 0.0, 0.3),
        LesionKind("gallstones", "gallbladder", ("gallbladder",), (4, 16), (1, 3), 0.3, 0.0, 0.1),
        LesionKind("aortic_calcification", "aorta", ("aorta",), (4, 12), (2, 6), 0.3, 0.0, 0.3),
    )


@dataclass(frozen=True)
class Planting:
    """The lesions of one patient.

    Attributes
    ----------
    planted: what lies where.
    lesions: (D, H, W) uint8, value = `PlantedLesion.mask_value`, 0 elsewhere.
    tissues: (D, H, W) uint8, the anatomy after planting (pleural fluid replaces lung).
    """

    planted: tuple[PlantedLesion, ...]
    lesions: torch.Tensor
    tissues: torch.Tensor


def plant(
    anatomy: Anatomy,
    rng: np.random.Generator,
    wanted: Sequence[tuple[str, float]] | None = None,
) -> Planting:
    """Plant abnormalities at random, or exactly those in `wanted`.

    Parameters
    ----------
    anatomy: where to plant; organs that are not in it get nothing.
    wanted: (abnormality, diameter in mm) pairs; None draws them by each kind's chance.
        "hepatic_steatosis" and "pleural_effusion" are diffuse: their diameter is ignored.

    Raises
    ------
    ValueError: if `wanted` names something that cannot be planted, or its organ is missing.
    """
    lesions = torch.zeros_like(anatomy.tissues)
    tissues = anatomy.tissues.clone()
    planted: list[PlantedLesion] = []
    kinds = {k.abnormality: k for k in lesion_kinds()}
    if wanted is None:
        orders = _draw(rng)
    else:
        unknown = [n for n, _ in wanted if n not in kinds and n not in _DIFFUSE]
        if unknown:
            raise ValueError(
                f"lesion {unknown[0]!r} cannot be planted; choose of {sorted([*kinds, *_DIFFUSE])}"
            )
        orders = list(wanted)
    for name, diameter_mm in orders:
        value = len(planted) + 1
        if name == "hepatic_steatosis":
            lesion = PlantedLesion(name, "liver", "", (0.0, 0.0, 0.0), 0.0, 0)
            done: PlantedLesion | None = lesion if bool((tissues == tissue("liver")).any()) else None
        elif name == "pleural_effusion":
            done = _effusion(tissues, lesions, rng, value, anatomy.spacing_mm)
        else:
            done = _focal(
                kinds[name],
                diameter_mm,
                tissues,
                lesions,
                rng,
                value=value,
                spacing_mm=anatomy.spacing_mm,
            )
        if done is not None:
            planted.append(done)
        elif wanted is not None:
            raise ValueError(f"lesion {name!r} was asked for, but its organ is not in this anatomy")
    return Planting(planted=tuple(planted), lesions=lesions, tissues=tissues)


_DIFFUSE = ("hepatic_steatosis", "pleural_effusion")


def _draw(rng: np.random.Generator) -> list[tuple[str, float]]:
    orders: list[tuple[str, float]] = []
    if rng.random() < 0.2:
        orders.append(("hepatic_steatosis", 0.0))
    if rng.random() < 0.25:
        orders.append(("pleural_effusion", 0.0))
    for kind in lesion_kinds():
        if rng.random() < kind.chance:
            for _ in range(int(rng.integers(kind.count[0], kind.count[1] + 1))):
                low, high = np.log(kind.diameter_mm)
                orders.append((kind.abnormality, float(np.exp(rng.uniform(low, high)))))
    return orders


def _surface(mask: torch.Tensor) -> torch.Tensor:
    eroded = -torch.nn.functional.max_pool3d(-mask[None, None].float(), 3, 1, 1)[0, 0]
    return mask & (eroded < 0.5)


def _focal(
    kind: LesionKind,
    diameter_mm: float,
    tissues: torch.Tensor,
    lesions: torch.Tensor,
    rng: np.random.Generator,
    *,
    value: int,
    spacing_mm: float,
) -> PlantedLesion | None:
    """One lump of `kind`, painted into `lesions` in place; None where there is no room."""
    names = list(kind.hosts)
    rng.shuffle(names)
    for host in names:
        host_mask = tissues == tissue(host)
        where = host_mask.nonzero()
        if len(where) < 30:
            continue
        centre = _centre(kind, host_mask, where, rng, spacing_mm)
        mask, box = _lump(kind, diameter_mm, tuple(tissues.shape), centre, rng, spacing_mm=spacing_mm)
        organ_here = _host_region(kind, host_mask[box])
        mask = mask & organ_here & (lesions[box] == 0)
        if not bool(mask.any()):
            continue
        lesions[box][mask] = value
        side = "left" if host.endswith("left") else "right" if host.endswith("right") else ""
        index = mask.nonzero().float().mean(0)
        offset = torch.tensor([float(s.start) for s in box])
        z, y, x = (index + offset).tolist()
        volume = float(mask.sum()) * spacing_mm**3
        equivalent_mm = float(np.cbrt(6 * volume / np.pi))
        return PlantedLesion(kind.abnormality, kind.organ, side, (z, y, x), equivalent_mm, value)
    return None


def _centre(
    kind: LesionKind,
    host_mask: torch.Tensor,
    where: torch.Tensor,
    rng: np.random.Generator,
    spacing_mm: float,
) -> tuple[int, int, int]:
    """A voxel of the host to put the lesion's centre on."""
    if kind.abnormality == "gallstones":  # stones lie on the dependent (posterior) wall
        where = where[where[:, 1] >= where[:, 1].float().quantile(0.6)]
    if kind.abnormality == "aortic_calcification":
        where = _surface(host_mask).nonzero()
    inset = round(kind.inset_mm / spacing_mm)
    for _ in range(20):
        z, y, x = where[int(rng.integers(len(where)))].tolist()
        if inset == 0:
            break
        near = host_mask[
            max(0, z - inset) : z + inset + 1,
            max(0, y - inset) : y + inset + 1,
            max(0, x - inset) : x + inset + 1,
        ]
        if float(near.float().mean()) > 0.95:
            break
    return z, y, x


def _host_region(kind: LesionKind, host: torch.Tensor) -> torch.Tensor:
    """Where the lesion may extend: inside its host, or bulging a little beyond the surface."""
    if kind.abnormality in ("renal_tumour", "renal_cyst", "colon_tumour", "pancreatic_tumour"):
        return torch.nn.functional.max_pool3d(host[None, None].float(), 7, 1, 3)[0, 0] > 0.5
    return host


def _lump(
    kind: LesionKind,
    diameter_mm: float,
    shape: tuple[int, ...],
    centre: tuple[int, int, int],
    rng: np.random.Generator,
    *,
    spacing_mm: float,
) -> tuple[torch.Tensor, tuple[slice, slice, slice]]:
    """An irregular ellipsoid in its bounding box."""
    radius = diameter_mm / 2 / spacing_mm
    radii = radius * rng.uniform(0.75, 1.0, 3)
    radii[int(rng.integers(3))] = radius
    reach = int(np.ceil(radius * 1.4)) + 1
    box = tuple(slice(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip(centre, shape, strict=True))
    axes = [torch.arange(s.start, s.stop).float() for s in box]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    r2 = (
        ((z - centre[0]) / radii[0]) ** 2
        + ((y - centre[1]) / radii[1]) ** 2
        + ((x - centre[2]) / radii[2]) ** 2
    )
    wobble = smooth_noise(rng, tuple(z.shape), max(2.0, radius * 0.8)) * kind.irregular
    mask = torch.sqrt(r2) + wobble < 1
    mask |= r2 < 0.1
    return mask, (box[0], box[1], box[2])


def _effusion(
    tissues: torch.Tensor,
    lesions: torch.Tensor,
    rng: np.random.Generator,
    value: int,
    spacing_mm: float,
) -> PlantedLesion | None:
    """Fluid in the dependent part of one pleural space; it replaces lung tissue in place."""
    side = "left" if rng.random() < 0.5 else "right"
    lobes = [tissue(n) for n in _lobes() if n.endswith(side)]
    lung = torch.isin(tissues, torch.tensor(lobes, dtype=tissues.dtype))
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
    tissues[mask] = PLEURAL_FLUID
    lesions[mask] = value
    z, y, x = mask.nonzero().float().mean(0).tolist()
    return PlantedLesion("pleural_effusion", "lung", side, (z, y, x), 0.0, value)
