"""The scanner: an anatomy with its lesions becomes a CT in Hounsfield units.

HU by tissue and contrast phase, organ texture, vessels in lung and liver, bowel content with
fluid levels, cortical bone, then the point spread of the kernel and noise. Not a simulation of
X-ray physics: the aim is variety that a real CT falls into (domain randomisation, as SynthSeg).
HU ranges are textbook values widened on purpose; our choice.
"""

from __future__ import annotations

import numpy as np
import torch

from core_model.anatomy import structures
from training.phantoms.artefacts import add_metal, breathing
from training.phantoms.fields import bounding_box, eroded, gaussian_blur, smooth_noise, uniform
from training.phantoms.lesion_hu import paint_emphysema, paint_lesions
from training.phantoms.lesions import Planting
from training.phantoms.tissues import (
    AIR,
    DISC,
    FACE,
    FAT,
    MUSCLE,
    N_TISSUES,
    OTHER_BONE,
    OTHER_VESSEL,
    PULMONARY_ARTERY,
    SEROUS_FLUID,
    SKIN,
    TABLE,
    UNCERTAIN_BOWEL,
    Phantom,
    reading_lookup,
    tissue,
)

PHASES = ("native", "arterial", "portal venous", "excretory")
LATE_CHANCE = 0.12  # of an excretory scan, where no phase is asked for; our choice
METAL_CHANCE, BREATHING_CHANCE = 0.06, 0.1
_BOWEL = ("small_bowel", "colon", "stomach", "duodenum")


def _values(*prefixes: str) -> list[int]:
    return [s.v2_id for s in structures() if s.v2_id is not None and s.name.startswith(prefixes)]


def bone_values() -> list[int]:
    """Tissue values that are bone."""
    return [
        *_values("vertebrae", "rib_", "hip", "sacrum", "femur", "humerus", "scapula", "clavicula"),
        *_values("sternum", "skull"),
        OTHER_BONE,
    ]


def vessel_values() -> list[int]:
    """Tissue values that hold blood, the heart included."""
    arteries = _values("aorta", "iliac_artery", "subclavian", "common_carotid", "brachiocephalic_trunk")
    veins = _values("inferior_vena", "superior_vena", "portal", "iliac_vena", "brachiocephalic_vein")
    return [
        *arteries,
        *veins,
        *_values("pulmonary_vein", "heart", "atrial"),
        PULMONARY_ARTERY,
        OTHER_VESSEL,
    ]


def mean_hu(rng: np.random.Generator, phase: str, *, steatosis: bool) -> torch.Tensor:
    """(N_TISSUES,) float32: mean HU of each tissue for one patient in one contrast phase.

    Raises
    ------
    ValueError: if `phase` is not one of `PHASES`.
    """
    if phase not in PHASES:
        raise ValueError(f"phase {phase!r} is not one of {PHASES}")
    i = PHASES.index(phase)
    hu = rng.uniform(20, 80, N_TISSUES)

    def put(values: list[int], *ranges: tuple[float, float]) -> None:
        low, high = ranges[i] if len(ranges) == len(PHASES) else ranges[0]
        common = rng.uniform(low, high)
        for value in values:
            hu[value] = common + rng.uniform(-0.08, 0.08) * (high - low)

    hu[AIR] = -1000
    put([FAT], (-120, -85))
    put([MUSCLE, *_values("autochthon", "iliopsoas", "gluteus")], (35, 70))
    put([SKIN], (-10, 60))
    put([TABLE], (-700, 100))
    put([DISC], (60, 110))
    put([FACE], (20, 60))
    put([SEROUS_FLUID], (-5, 25))
    put(bone_values(), (110, 330))
    put(_values("costal"), (60, 160))
    put(vessel_values(), (30, 52), (140, 380), (100, 190), (75, 125))
    put(_values("aorta", "iliac_artery"), (30, 52), (200, 420), (110, 190), (80, 130))
    if phase == "arterial":  # veins below the kidneys are not yet opacified
        put(_values("iliac_vena"), (40, 120))
        put(_values("inferior_vena", "portal"), (60, 170))
    put(_values("liver"), (48, 66), (60, 95), (85, 130), (72, 110))
    if steatosis:
        hu[tissue("liver")] -= rng.uniform(35, 60)
    put(_values("spleen"), (40, 56), (80, 160), (95, 140), (78, 115))
    put(_values("kidney"), (25, 42), (110, 220), (130, 220), (110, 190))
    put(_values("pancreas"), (28, 48), (75, 125), (65, 110), (52, 90))
    put(_values("adrenal"), (10, 40), (45, 90), (45, 90), (35, 75))
    put(_values("thyroid"), (70, 120), (120, 200), (100, 170), (90, 150))
    put(_values("gallbladder"), (-3, 25))
    put(_values("urinary_bladder"), (-5, 20))
    if rng.random() < 0.15:
        hu[tissue("urinary_bladder")] = rng.uniform(40, 300)
    put(_values("prostate"), (30, 60), (40, 90), (50, 100), (50, 100))
    put(_values("spinal_cord"), (20, 50))
    put(_values("trachea"), (-1000, -960))
    put(_values("lung"), (-900, -700))
    put([tissue(n) for n in (*_BOWEL, "esophagus")], (25, 65), (40, 100), (40, 90), (38, 80))
    hu[UNCERTAIN_BOWEL] = hu[tissue("small_bowel")]
    put(_values("brain"), (28, 42))
    return torch.from_numpy(hu.astype(np.float32))


def scan(
    planting: Planting, spacing_mm: float, rng: np.random.Generator, phase: str | None = None
) -> Phantom:
    """Paint a planted anatomy.

    Parameters
    ----------
    planting: tissues and lesions on an isotropic grid, axes "HPL".
    phase: one of `PHASES`; None draws one.

    What was added to the engine later draws from a child of `rng`, so that a patient keeps the
    phase and the mean grey values that the state of `rng` gave before.

    Returns
    -------
    Phantom with image and truth on the same grid. Deterministic for a given `rng` state.
    """
    later = rng.spawn(1)[0]
    if phase is None:
        phase = str(rng.choice(PHASES[:3], p=[0.25, 0.25, 0.5]))
        if later.random() < LATE_CHANCE:
            phase = "excretory"
    names = {p.abnormality for p in planting.planted}
    steatosis = "hepatic_steatosis" in names
    tissues = planting.tissues.long()
    hu_of = mean_hu(rng, phase, steatosis=steatosis)
    hu = hu_of[tissues]
    shape = tuple(tissues.shape)
    amplitude = torch.from_numpy(rng.uniform(1, 6, N_TISSUES).astype(np.float32))
    amplitude[AIR] = 0
    amplitude[FAT] = uniform(rng, 4, 14)
    hu += smooth_noise(rng, shape, uniform(rng, 4, 12) / spacing_mm) * amplitude[tissues]
    _bone(hu, tissues, rng, spacing_mm)
    _lung(hu, tissues, rng, spacing_mm)
    _heart(hu, tissues, rng, spacing_mm)
    vessels = float(hu_of[tissue("portal_vein_and_splenic_vein")] - hu_of[tissue("liver")])
    _liver(hu, tissues, rng, spacing_mm, phase=phase, step=vessels if steatosis else None)
    _spleen(hu, tissues, rng, spacing_mm, phase)
    for value in (*(tissue(n) for n in _BOWEL), UNCERTAIN_BOWEL):
        _bowel(hu, tissues, value, rng, spacing_mm)
    _kidney(hu, tissues, rng, spacing_mm, phase)
    _bladder(hu, tissues, later, spacing_mm, phase)
    lungs = _organ(hu, tissues, _values("lung"))
    if "emphysema" in names and lungs is not None:
        paint_emphysema(*lungs, later, spacing_mm)
    paint_lesions(
        hu,
        planting,
        hu_of,
        rng,
        spacing_mm=spacing_mm,
        phase=phase,
    )
    if later.random() < METAL_CHANCE:
        add_metal(hu, tissues, later, spacing_mm)
    sigma = uniform(rng, 0.3, 0.9) / spacing_mm * 2
    hu = gaussian_blur(hu, (sigma, sigma, sigma))
    if later.random() < BREATHING_CHANCE:
        hu = breathing(hu, later, spacing_mm)
    lookup = reading_lookup().to(torch.uint8)
    return Phantom(
        hu=hu.clamp(-1024, 3071),
        organs=lookup[tissues],
        lesions=planting.lesions,
        planted=planting.planted,
        spacing_mm=(spacing_mm,) * 3,
        phase=phase,
    )


def _is(tissues: torch.Tensor, values: list[int]) -> torch.Tensor:
    table = torch.zeros(N_TISSUES, dtype=torch.bool)
    table[values] = True
    return table[tissues]


def _bone(hu: torch.Tensor, tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> None:
    """A cortex and a trabecular inside, in place."""
    bone = _is(tissues, bone_values())
    cortex = bone & ~eroded(bone, 1)
    trabeculae = smooth_noise(rng, tuple(hu.shape), 4 / spacing_mm) * uniform(rng, 20, 80)
    hu += torch.where(bone, trabeculae, 0.0)
    hu += torch.where(cortex, uniform(rng, 120, 600), 0.0)


def _tubes(
    rng: np.random.Generator, shape: tuple[int, ...], wavelength: float, radius: float
) -> torch.Tensor:
    """Winding tubes: where two independent noise fields both cross zero."""
    a = smooth_noise(rng, shape, wavelength)
    b = smooth_noise(rng, shape, wavelength)
    return (a * a + b * b) < radius * radius


def _organ(
    hu: torch.Tensor, tissues: torch.Tensor, values: list[int]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A view of `hu` round some tissues, and their mask in it; None where there are none."""
    mask = _is(tissues, values)
    box = bounding_box(mask)
    return None if box is None else (hu[box], mask[box])


def _lung(hu: torch.Tensor, tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> None:
    """Vessels, a density gradient towards the back, and haze, in place."""
    found = _organ(hu, tissues, _values("lung"))
    if found is None:
        return
    view, lung = found
    shape = tuple(view.shape)
    gradient = torch.linspace(-0.5, 0.5, shape[1])[None, :, None] * uniform(rng, 0, 150)
    haze = torch.relu(smooth_noise(rng, shape, 50 / spacing_mm) - uniform(rng, 0.8, 2.5))
    view += lung * (gradient + haze * uniform(rng, 0, 350))
    for wavelength, radius in ((40, uniform(rng, 0.15, 0.3)), (16, uniform(rng, 0.2, 0.4))):
        tubes = lung & _tubes(rng, shape, wavelength / spacing_mm, radius)
        view[tubes] = uniform(rng, -300, 60)


def _heart(hu: torch.Tensor, tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> None:
    """Blood in the chambers against myocardium, in place."""
    found = _organ(hu, tissues, _values("heart", "atrial"))
    if found is None:
        return
    view, heart = found
    wall = smooth_noise(rng, tuple(view.shape), 30 / spacing_mm) > uniform(rng, -0.2, 0.6)
    view[heart & wall] = view[heart & wall] * uniform(rng, 0.4, 0.8) + uniform(rng, 0, 30)


def _liver(
    hu: torch.Tensor,
    tissues: torch.Tensor,
    rng: np.random.Generator,
    spacing_mm: float,
    *,
    phase: str,
    step: float | None,
) -> None:
    """Portal and hepatic vein branches inside the liver, in place.

    `step` is vessel minus liver in HU where that is known (in a fatty liver vessels stay bright).
    """
    found = _organ(hu, tissues, [tissue("liver")])
    if found is None:
        return
    view, liver = found
    steps = {"native": (-18, -5), "arterial": (-15, 30), "portal venous": (10, 60), "excretory": (0, 30)}
    drawn = uniform(rng, *steps[phase])
    step = drawn if step is None else max(step, drawn)
    for wavelength, radius in ((45, uniform(rng, 0.15, 0.28)), (22, uniform(rng, 0.12, 0.25))):
        view += step * (liver & _tubes(rng, tuple(view.shape), wavelength / spacing_mm, radius))


def _spleen(
    hu: torch.Tensor, tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float, phase: str
) -> None:
    """The moire of the arterial spleen, in place."""
    found = _organ(hu, tissues, [tissue("spleen")])
    if found is None or phase != "arterial":
        return
    view, spleen = found
    view += spleen * smooth_noise(rng, tuple(view.shape), 10 / spacing_mm) * uniform(rng, 0, 35)


def _bowel(
    hu: torch.Tensor, tissues: torch.Tensor, value: int, rng: np.random.Generator, spacing_mm: float
) -> None:
    """Wall, and a lumen of gas above fluid or faeces, in place."""
    found = _organ(hu, tissues, [value])
    if found is None:
        return
    view, mask = found
    shape = tuple(view.shape)
    lumen = eroded(mask, max(1, round(uniform(rng, 1.5, 4) / spacing_mm)))
    # Gas rises: the noise that decides on gas is biased towards anterior (low second index).
    up = torch.linspace(0.5, -0.5, shape[1])[None, :, None] * uniform(rng, 0, 3)
    kind = smooth_noise(rng, shape, uniform(rng, 15, 40) / spacing_mm) + up
    gas = lumen & (kind > uniform(rng, 0.0, 1.8))
    fluid = uniform(rng, 0, 40) if rng.random() < 0.7 else uniform(rng, 80, 450)
    grain = smooth_noise(rng, shape, uniform(rng, 2, 6) / spacing_mm) * uniform(rng, 3, 60)
    second = smooth_noise(rng, shape, 25 / spacing_mm) > uniform(rng, -0.3, 1.2)
    content = torch.where(second, torch.tensor(uniform(rng, -60, 70)), torch.tensor(fluid)) + grain
    view[lumen] = content[lumen]
    view[gas] = uniform(rng, -1000, -850)


def _kidney(
    hu: torch.Tensor, tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float, phase: str
) -> None:
    """Cortex, medulla and the fatty sinus, in place."""
    found = _organ(hu, tissues, [tissue("kidney_left"), tissue("kidney_right")])
    if found is None:
        return
    view, mask = found
    inner = eroded(mask, max(1, round(5 / spacing_mm)))
    pattern = smooth_noise(rng, tuple(view.shape), 10 / spacing_mm)
    if phase != "native":
        factor = uniform(rng, 0.45, 0.85) if phase == "arterial" else uniform(rng, 0.8, 1.1)
        view[inner & (pattern > -0.3)] *= factor
    core = eroded(mask, max(2, round(uniform(rng, 10, 14) / spacing_mm)))
    sinus = core & (pattern > uniform(rng, -0.2, 0.6))
    view[sinus] = uniform(rng, -80, 20)
    if phase == "excretory":  # contrast medium in the calyces
        view[core & ~sinus & (pattern < uniform(rng, -0.3, 0.3))] = uniform(rng, 300, 1600)


def _bladder(
    hu: torch.Tensor, tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float, phase: str
) -> None:
    """The wall, and in the excretory phase contrast medium that lies behind the urine, in place."""
    found = _organ(hu, tissues, [tissue("urinary_bladder")])
    if found is None:
        return
    view, bladder = found
    inside = eroded(bladder, max(1, round(uniform(rng, 2, 4) / spacing_mm)))
    view[bladder & ~inside] = uniform(rng, 25, 50) if phase == "native" else uniform(rng, 35, 80)
    if phase == "excretory" and rng.random() < 0.8:
        level = int(uniform(rng, 0.3, 0.8) * view.shape[1])
        view[:, level:][inside[:, level:]] = uniform(rng, 150, 900)
