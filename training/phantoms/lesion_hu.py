"""Grey values of planted lesions, in place on a painted scan.

Not where they lie (`lesions`, `disorders`). Abnormalities that are tissues of their own (fluid,
air, a pouch of stomach) are painted with those. Ranges are textbook values widened on purpose; our
choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from training.phantoms.disorders import lobes
from training.phantoms.fields import Box, bounding_box, eroded, gaussian_blur, smooth_noise, uniform
from training.phantoms.lesions import Planting
from training.phantoms.tissues import PlantedLesion, tissue

# Lesions whose HU depends neither on host nor on phase.
_OWN_HU = {
    "liver_cyst": (-5, 18),
    "renal_cyst": (-5, 18),
    "pancreatic_cyst": (-2, 22),
    "kidney_stone": (300, 1200),
    "gallstones": (100, 700),
    "bladder_stone": (250, 1100),
    "lung_nodule": (10, 90),
    "coronary_calcification": (250, 1000),
}
_HOSTS = {"liver": "liver", "kidneys": "kidney_left", "pancreas": "pancreas", "aorta": "aorta"}
# Painted as tissue, not by mask.
_TISSUE = ("pleural_effusion", "pericardial_effusion", "pneumothorax", "hiatal_hernia")


@dataclass(frozen=True)
class Lesion:
    """One planted lesion with what its grey values depend on.

    Attributes
    ----------
    what: the planted lesion.
    hu: (d, h, w) view of the scan round it, changed in place.
    mask: (d, h, w) bool.
    tissues: (d, h, w) values of `tissues`.
    hu_of: (N_TISSUES,) mean HU of each tissue of this patient.
    phase, spacing_mm: of the scan.
    """

    what: PlantedLesion
    hu: torch.Tensor
    mask: torch.Tensor
    tissues: torch.Tensor
    hu_of: torch.Tensor
    phase: str
    spacing_mm: float

    @property
    def native(self) -> bool:
        """Whether there is no contrast medium."""
        return self.phase == "native"

    def mean(self, name: str) -> float:
        """Mean HU of a structure."""
        return float(self.hu_of[tissue(name)])

    def noise(self, rng: np.random.Generator, wavelength_mm: float) -> torch.Tensor:
        """Smooth noise over the view."""
        return smooth_noise(rng, tuple(self.hu.shape), wavelength_mm / self.spacing_mm)


def paint_lesions(
    hu: torch.Tensor,
    planting: Planting,
    hu_of: torch.Tensor,
    rng: np.random.Generator,
    *,
    spacing_mm: float,
    phase: str,
) -> None:
    """Grey values of every planted lesion with a mask, in place.

    Parameters
    ----------
    hu: (D, H, W) HU.
    planting: the lesions, and the tissues that they lie in.
    hu_of: (N_TISSUES,) mean HU of each tissue.
    """
    for what in planting.planted:
        if what.mask_value == 0 or what.abnormality in _TISSUE:
            continue
        own = planting.lesions == what.mask_value
        wide = what.abnormality in _SPREADING
        box: Box | None = bounding_box(own, round(12 / spacing_mm) if wide else 0)
        if box is None:  # a later lesion took its last voxel
            continue
        lesion = Lesion(what, hu[box], own[box], planting.tissues[box], hu_of, phase, spacing_mm)
        _PAINTERS.get(what.abnormality, _lump)(lesion, rng)


def _lump_mean(lesion: Lesion, rng: np.random.Generator) -> float:
    """HU of a lump, relative to its host where that is what defines it."""
    name, native, organ = lesion.what.abnormality, lesion.native, lesion.what.organ
    host = lesion.mean(_HOSTS[organ]) if organ in _HOSTS else 40.0
    match name:
        case "liver_tumour":
            mean = max(22.0, host - (uniform(rng, 12, 30) if native else uniform(rng, 20, 65)))
        case "renal_tumour":
            mean = uniform(rng, 30, 55) if native else max(35.0, host * uniform(rng, 0.35, 0.75))
        case "pancreatic_tumour":
            mean = max(15.0, host - uniform(rng, 15, 50))
        case "aortic_calcification":
            mean = max(host + 150, uniform(rng, 350, 1100))
        case "colon_tumour" | "bladder_tumour":
            mean = uniform(rng, 35, 60) if native else uniform(rng, 60, 120)
        case "adrenal_mass":  # lipid-rich adenomas are near water without contrast
            mean = uniform(rng, -12, 40) if native else uniform(rng, 35, 95)
        case _:
            mean = uniform(rng, *_OWN_HU[name])
    return mean


def _lump(lesion: Lesion, rng: np.random.Generator) -> None:
    """A lump of one HU; tumours are uneven, may be necrotic, and in the liver have a rim."""
    what, mask = lesion.what, lesion.mask
    values = torch.full(mask.shape, _lump_mean(lesion, rng))
    if what.abnormality.endswith(("tumour", "mass")):
        values += lesion.noise(rng, 6) * uniform(rng, 0, 12)
        core = eroded(mask, max(1, round(what.diameter_mm / 5 / lesion.spacing_mm)))
        if what.diameter_mm > 15 and rng.random() < 0.4:  # necrosis
            values[core] = uniform(rng, 10, 35)
        if what.organ == "liver" and not lesion.native and rng.random() < 0.3:  # enhancing rim
            values[mask & ~eroded(mask, 1)] += uniform(rng, 10, 40)
    lesion.hu[mask] = values[mask]


def _haemangioma(lesion: Lesion, rng: np.random.Generator) -> None:
    """Blood-like: nodules as bright as vessels at its edge, which fill it in the late phase."""
    blood, liver = lesion.mean("portal_vein_and_splenic_vein"), lesion.mean("liver")
    values = torch.full(lesion.mask.shape, min(liver - uniform(rng, 8, 35), 45.0))
    if not lesion.native:
        if lesion.phase == "arterial":
            blood = 0.6 * lesion.mean("aorta")
        reach_mm = {"arterial": 0.22, "portal venous": 0.32, "excretory": 0.5}[lesion.phase]
        depth = max(1, round(lesion.what.diameter_mm * reach_mm / lesion.spacing_mm))
        edge = lesion.mask & ~eroded(lesion.mask, depth)
        nodules = lesion.noise(rng, 12) > (-1.0 if lesion.phase == "excretory" else 0.1)
        values[edge & nodules] = blood * uniform(rng, 0.85, 1.0)
    lesion.hu[lesion.mask] = values[lesion.mask]


def _urine(lesion: Lesion, rng: np.random.Generator) -> None:
    """Water; in the late phase the heavier contrast medium lies behind it."""
    values = torch.full(lesion.mask.shape, uniform(rng, -4, 18))
    if lesion.phase == "excretory" and rng.random() < 0.8:
        rows = torch.arange(lesion.mask.shape[1])[None, :, None] / lesion.mask.shape[1]
        values = torch.where(rows > uniform(rng, 0.3, 0.7), uniform(rng, 250, 1500), values)
    lesion.hu[lesion.mask] = values[lesion.mask]


def _aneurysm(lesion: Lesion, rng: np.random.Generator) -> None:
    """A lumen off the middle, dark thrombus round it where there is any, chalk in the wall."""
    mask = lesion.mask
    wall = mask & ~eroded(mask, 1)
    values = lesion.hu.clone()
    values[mask] = lesion.mean("aorta")
    if rng.random() < 0.75:
        thick = uniform(rng, 0.1, 0.35) * lesion.what.diameter_mm
        rows = torch.linspace(-1, 1, mask.shape[1])[None, :, None]
        depth = torch.zeros(mask.shape)
        inner = mask
        for _ in range(round(2 * thick / lesion.spacing_mm)):
            inner = eroded(inner, 1)
            depth += inner
        front = thick / lesion.spacing_mm * (1 - 0.6 * rows * (1 if rng.random() < 0.8 else -1))
        thrombus = mask & (depth + lesion.noise(rng, 25) * 0.4 < front)
        values[thrombus] = uniform(rng, 28, 50) + 4 * lesion.noise(rng, 6)[thrombus]
    chalk = wall & (lesion.noise(rng, 12) > uniform(rng, 0.6, 1.8))
    values[chalk] = uniform(rng, 350, 900)
    lesion.hu[mask] = values[mask]


def _consolidation(lesion: Lesion, rng: np.random.Generator) -> None:
    """Soft tissue with open bronchi that fades into ground glass at its border."""
    lung = torch.isin(lesion.tissues, torch.tensor([tissue(n) for n in lobes()], dtype=torch.uint8))
    soft = uniform(rng, 20, 50) if lesion.native else uniform(rng, 40, 100)
    value = soft + lesion.noise(rng, 8) * uniform(rng, 5, 40)
    a, b = lesion.noise(rng, 22), lesion.noise(rng, 22)
    bronchi = (a * a + b * b) < uniform(rng, 0.1, 0.22) ** 2
    value[bronchi] = uniform(rng, -900, -500)
    sigma = uniform(rng, 1.5, 4) / lesion.spacing_mm
    filled = gaussian_blur(lesion.mask.float(), (sigma,) * 3) ** 0.8
    filled = filled * (1 - uniform(rng, 0.0, 0.4) * torch.sigmoid(2 * lesion.noise(rng, 20)))
    lesion.hu[lung] = torch.lerp(lesion.hu, value, filled.clamp(0, 1))[lung]


def _fracture(lesion: Lesion, rng: np.random.Generator) -> None:
    """Impacted trabeculae under the fallen endplate."""
    top = lesion.mask & ~torch.roll(lesion.mask, -1, 0)  # nothing of it above
    band = top
    for _ in range(max(1, round(uniform(rng, 3, 7) / lesion.spacing_mm))):
        band = band | (torch.roll(band, -1, 0) & lesion.mask)
    lesion.hu[band] += uniform(rng, 40, 260)


def _bone_lesion(lesion: Lesion, rng: np.random.Generator) -> None:
    """Sclerotic (dense) or lytic (soft tissue in place of bone), uneven, with a blurred edge."""
    if rng.random() < 0.6:
        value = uniform(rng, 450, 1000) + lesion.noise(rng, 6) * uniform(rng, 20, 120)
    else:
        soft = uniform(rng, 20, 60) if lesion.native else uniform(rng, 50, 110)
        value = soft + lesion.noise(rng, 6) * uniform(rng, 5, 25)
    lesion.hu[lesion.mask] = value[lesion.mask]


def paint_emphysema(
    hu: torch.Tensor, lung: torch.Tensor, rng: np.random.Generator, spacing_mm: float
) -> None:
    """Holes of air in the lungs, more above than below, in place.

    Parameters
    ----------
    hu: (d, h, w) HU of a box round the lungs.
    lung: (d, h, w) bool.
    """
    shape = tuple(hu.shape)
    above = torch.linspace(-1, 1, shape[0])[:, None, None] * uniform(rng, 0.0, 0.6)
    holes = smooth_noise(rng, shape, uniform(rng, 7, 16) / spacing_mm) + above
    bullae = smooth_noise(rng, shape, uniform(rng, 30, 50) / spacing_mm) + above
    empty = (holes > uniform(rng, 0.1, 0.8)) | (bullae > uniform(rng, 1.2, 2.0))
    where = lung & empty & (hu < -500)  # vessels stay
    hu[where] = uniform(rng, -995, -950)
    rest = lung & ~empty & (hu < -500)
    hu[rest] -= uniform(rng, 10, 60)


_SPREADING = ("lung_consolidation",)  # painted beyond their mask
_PAINTERS: dict[str, Callable[[Lesion, np.random.Generator], None]] = {
    "liver_haemangioma": _haemangioma,
    "hydronephrosis": _urine,
    "aortic_aneurysm": _aneurysm,
    "lung_consolidation": _consolidation,
    "vertebral_fracture": _fracture,
    "lumbar_metastasis": _bone_lesion,
    "thoracic_metastasis": _bone_lesion,
}
