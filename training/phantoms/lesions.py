"""Planting abnormalities into an anatomy: lumps in organs, and what `disorders` does to shapes.

Grey values are the scanner's business (`lesion_hu`). Frequencies and sizes are our choice: every
abnormality must be met often in training, not as often as in a hospital.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from core_model.anatomy import structures
from training.phantoms.disorders import Disorder, Site, disorders, lobes
from training.phantoms.fields import smooth_noise, uniform
from training.phantoms.tissues import FAT, MUSCLE, Anatomy, PlantedLesion, tissue

# The first abnormalities of both tables are drawn from the patient's own generator, those that were
# added later from a child of it: so a seed keeps what it had when the tables grow.
FIRST_DISORDERS, FIRST_KINDS = 2, 10
_DISPLACED = ("liver", "spleen", "stomach", "duodenum", "small_bowel", "colon")
Place = Literal["inside", "dependent", "surface", "front"]


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
    place: where its centre lies: anywhere "inside", on the "dependent" (posterior) wall, on the
        "surface", or on the upper and anterior surface ("front").
    bulges: whether it may extend a "little" beyond its host, or "far", over fat and soft neighbours that
        it displaces: what it covers then counts as its host.
    """

    abnormality: str
    organ: str
    hosts: tuple[str, ...]
    diameter_mm: tuple[float, float]
    count: tuple[int, int]
    chance: float
    inset_mm: float = 0.0
    irregular: float = 0.15
    place: Place = "inside"
    bulges: Literal["no", "little", "far"] = "no"


def lesion_kinds() -> tuple[LesionKind, ...]:
    """All plantable focal abnormalities; later ones are painted over earlier ones."""
    kidneys = ("kidney_left", "kidney_right")
    adrenals = ("adrenal_gland_left", "adrenal_gland_right")
    bladder = ("urinary_bladder",)
    lumbar, thoracic = (_named(f"vertebrae_{letter}") for letter in "LT")
    return (
        LesionKind("liver_tumour", "liver", ("liver",), (8, 60), (1, 5), 0.5, 3.0, 0.35),
        LesionKind("liver_cyst", "liver", ("liver",), (6, 45), (1, 3), 0.25, 2.0, 0.05),
        LesionKind("renal_tumour", "kidneys", kidneys, (12, 55), (1, 1), 0.3, 0.0, 0.25, bulges="little"),
        LesionKind("renal_cyst", "kidneys", kidneys, (8, 45), (1, 3), 0.3, 0.0, 0.04, bulges="little"),
        LesionKind("kidney_stone", "kidneys", kidneys, (4, 12), (1, 2), 0.2, 6.0, 0.1),
        LesionKind(
            "pancreatic_tumour", "pancreas", ("pancreas",), (12, 40), (1, 1), 0.3, 0.0, 0.3, bulges="little"
        ),
        LesionKind("lung_nodule", "lung", lobes(), (5, 35), (1, 4), 0.4, 2.0, 0.3),
        LesionKind("colon_tumour", "colon", ("colon",), (18, 45), (1, 1), 0.25, 0.0, 0.3, bulges="little"),
        LesionKind(
            "gallstones", "gallbladder", ("gallbladder",), (4, 16), (1, 3), 0.3, 0.0, 0.1, place="dependent"
        ),
        LesionKind(
            "aortic_calcification", "aorta", ("aorta",), (4, 12), (2, 6), 0.3, 0.0, 0.3, place="surface"
        ),
        LesionKind("liver_haemangioma", "liver", ("liver",), (10, 50), (1, 2), 0.15, 3.0, 0.12),
        LesionKind(
            "pancreatic_cyst", "pancreas", ("pancreas",), (8, 35), (1, 2), 0.15, 0.0, 0.06, bulges="far"
        ),
        LesionKind("adrenal_mass", "adrenals", adrenals, (12, 45), (1, 1), 0.18, 0.0, 0.12, bulges="far"),
        LesionKind(
            "bladder_tumour", "urinary_bladder", bladder, (12, 40), (1, 1), 0.15, 0.0, 0.25, place="surface"
        ),
        LesionKind(
            "bladder_stone", "urinary_bladder", bladder, (5, 25), (1, 2), 0.12, 0.0, 0.1, place="dependent"
        ),
        LesionKind(
            "coronary_calcification", "heart", ("heart",), (4, 10), (2, 6), 0.2, 0.0, 0.4, place="front"
        ),
        LesionKind("lumbar_metastasis", "lumbar_spine", lumbar, (10, 30), (1, 2), 0.15, 5.0, 0.3),
        LesionKind("thoracic_metastasis", "thoracic_spine", thoracic, (8, 25), (1, 3), 0.15, 4.0, 0.3),
    )


def _named(prefix: str) -> tuple[str, ...]:
    return tuple(s.name for s in structures() if s.name.startswith(prefix))


@dataclass(frozen=True)
class Planting:
    """The lesions of one patient.

    Attributes
    ----------
    planted: what lies where.
    lesions: (D, H, W) uint8, value = `PlantedLesion.mask_value`, 0 elsewhere.
    tissues: (D, H, W) uint8, the anatomy after planting (fluid replaces lung).
    """

    planted: tuple[PlantedLesion, ...]
    lesions: torch.Tensor
    tissues: torch.Tensor


def plant(
    anatomy: Anatomy,
    rng: np.random.Generator,
    wanted: Sequence[tuple[str, float]] | None = None,
    chances: Mapping[str, float] | None = None,
) -> Planting:
    """Plant abnormalities at random, or exactly those in `wanted`.

    Parameters
    ----------
    anatomy: where to plant; organs that are not in it get nothing.
    wanted: (abnormality, diameter in mm) pairs; None draws them by each kind's chance. The
        diameter of those without a size (`disorders`) is ignored.
    chances: probability that a patient has an abnormality, instead of its kind's own, where it is drawn.

    Raises
    ------
    ValueError: if `wanted` names something that cannot be planted, or its organ is missing.
    """
    lesions = torch.zeros_like(anatomy.tissues)
    tissues = anatomy.tissues.clone()
    planted: list[PlantedLesion] = []
    kinds = {k.abnormality: k for k in lesion_kinds()}
    shapes = {d.abnormality: d for d in disorders()}
    if wanted is None:
        later = rng.spawn(1)[0]
        changed = chances or {}
        first_orders = _draw(rng, disorders()[:FIRST_DISORDERS], lesion_kinds()[:FIRST_KINDS], changed)
        orders = [(name, size, rng) for name, size in first_orders]
        later_orders = _draw(later, disorders()[FIRST_DISORDERS:], lesion_kinds()[FIRST_KINDS:], changed)
        orders += [(name, size, later) for name, size in later_orders]
    else:
        unknown = [n for n, _ in wanted if n not in kinds and n not in shapes]
        if unknown:
            raise ValueError(
                f"lesion {unknown[0]!r} cannot be planted; choose of {sorted([*kinds, *shapes])}"
            )
        orders = [(name, size, rng) for name, size in wanted]
    for name, diameter_mm, generator in orders:
        site = Site(tissues, lesions, anatomy.spacing_mm, len(planted) + 1)
        if name in shapes:
            done = shapes[name].plant(site, generator, diameter_mm)
        else:
            done = _focal(kinds[name], diameter_mm, site, generator)
        if done is not None:
            planted.append(done)
        elif wanted is not None:
            raise ValueError(
                f"lesion {name!r} was asked for, but its organ is not in this anatomy, or has no room for it"
            )
    return Planting(planted=tuple(planted), lesions=lesions, tissues=tissues)


def _draw(
    rng: np.random.Generator,
    shapes: Sequence[Disorder],
    kinds: Sequence[LesionKind],
    chances: Mapping[str, float],
) -> list[tuple[str, float]]:
    orders: list[tuple[str, float]] = []
    for shape in shapes:
        if rng.random() < chances.get(shape.abnormality, shape.chance):
            size = 0.0 if shape.diameter_mm is None else uniform(rng, *shape.diameter_mm)
            orders.append((shape.abnormality, size))
    for kind in kinds:
        if rng.random() < chances.get(kind.abnormality, kind.chance):
            for _ in range(int(rng.integers(kind.count[0], kind.count[1] + 1))):
                low, high = np.log(kind.diameter_mm)
                orders.append((kind.abnormality, float(np.exp(rng.uniform(low, high)))))
    return orders


def _surface(mask: torch.Tensor) -> torch.Tensor:
    eroded = -torch.nn.functional.max_pool3d(-mask[None, None].float(), 3, 1, 1)[0, 0]
    return mask & (eroded < 0.5)


def _focal(
    kind: LesionKind, diameter_mm: float, site: Site, rng: np.random.Generator
) -> PlantedLesion | None:
    """One lump of `kind`, painted into the lesion mask in place; None where there is no room."""
    tissues, lesions, spacing_mm = site.tissues, site.lesions, site.spacing_mm
    names = list(kind.hosts)
    rng.shuffle(names)
    for host in names:
        host_mask = tissues == tissue(host)
        where = host_mask.nonzero()
        if len(where) < 30:
            continue
        centre = _centre(kind, host_mask, where, rng, spacing_mm)
        mask, box = _lump(kind, diameter_mm, tuple(tissues.shape), centre, rng, spacing_mm=spacing_mm)
        organ_here = _host_region(kind, host_mask[box], tissues[box])
        mask = mask & organ_here & (lesions[box] == 0)
        if not bool(mask.any()):
            continue
        lesions[box][mask] = site.value
        if kind.bulges == "far":
            tissues[box][mask] = tissue(host)
        side = "left" if host.endswith("left") else "right" if host.endswith("right") else ""
        index = mask.nonzero().float().mean(0)
        offset = torch.tensor([float(s.start) for s in box])
        z, y, x = (index + offset).tolist()
        volume = float(mask.sum()) * spacing_mm**3
        equivalent_mm = float(np.cbrt(6 * volume / np.pi))
        return PlantedLesion(kind.abnormality, kind.organ, side, (z, y, x), equivalent_mm, site.value)
    return None


def _centre(
    kind: LesionKind,
    host_mask: torch.Tensor,
    where: torch.Tensor,
    rng: np.random.Generator,
    spacing_mm: float,
) -> tuple[int, int, int]:
    """A voxel of the host to put the lesion's centre on."""
    if kind.place == "dependent":
        where = where[where[:, 1] >= where[:, 1].float().quantile(0.6)]
    if kind.place in ("surface", "front"):
        where = _surface(host_mask).nonzero()
    if kind.place == "front":  # the grooves where the coronary arteries run
        low, high = where.min(0).values, where.max(0).values
        share = (where - low).float() / (high - low).clamp_min(1)  # (N, 3)
        where = where[(share[:, 0] > 0.45) & (share[:, 0] - share[:, 1] > -0.15)]
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


def _host_region(kind: LesionKind, host: torch.Tensor, tissues: torch.Tensor) -> torch.Tensor:
    """Where the lesion may extend: inside its host, or bulging beyond its surface (`LesionKind.bulges`)."""
    if kind.bulges == "no":
        return host
    if kind.bulges == "far":
        soft = [FAT, MUSCLE, *(tissue(n) for n in _DISPLACED)]
        return host | torch.isin(tissues, torch.tensor(soft, dtype=torch.uint8))
    return torch.nn.functional.max_pool3d(host[None, None].float(), 7, 1, 3)[0, 0] > 0.5


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
