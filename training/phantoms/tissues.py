"""The label values of a phantom's anatomy, and the types that its parts exchange.

Values 1..117 are TotalSegmentator v2 ``total`` class ids, so that label maps of real patients
and procedural anatomy go through the same scanner. Values above are tissues that the v2 map
does not name but a CT shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from core_model.anatomy import organs, structures, v2_to_reading

AIR = 0
PULMONARY_ARTERY = 118
FACE = 119
FAT = 120
MUSCLE = 121
SKIN = 122
SEROUS_FLUID = 123  # in a pleural space or in the pericardium
TABLE = 124
OTHER_BONE = 125
OTHER_VESSEL = 126
DISC = 127
UNCERTAIN_BOWEL = 128  # one label for two organs in the source map: painted, but no truth
N_TISSUES = 129
IGNORE = 255  # reading label of voxels whose organ is not known


def tissue(name: str) -> int:
    """Label value of a TotalSegmentator v2 structure by name.

    Raises
    ------
    KeyError: if v2 has no structure of that name.

    >>> tissue("liver")
    5
    """
    for structure in structures():
        if structure.name == name and structure.v2_id is not None:
            return structure.v2_id
    raise KeyError(f"{name!r} is not a TotalSegmentator v2 structure")


def reading_lookup() -> torch.Tensor:
    """(N_TISSUES,) int64: tissue value -> reading organ label, 0 where none, IGNORE where unknown."""
    table = torch.zeros(N_TISSUES, dtype=torch.int64)
    for value, label in v2_to_reading().items():
        table[value] = label
    by_name = {o.name: o.label for o in organs()}
    table[PULMONARY_ARTERY] = by_name["pulmonary_artery"]
    table[FACE] = by_name["face"]
    table[UNCERTAIN_BOWEL] = IGNORE
    return table  # (N_TISSUES,)


@dataclass(frozen=True)
class Anatomy:
    """A body without lesions or grey values.

    Attributes
    ----------
    tissues: (D, H, W) uint8, values of this module; axes towards head, posterior, left ("HPL").
    spacing_mm: isotropic voxel size.
    """

    tissues: torch.Tensor
    spacing_mm: float


AnatomySource = Callable[[np.random.Generator], Anatomy]


@dataclass(frozen=True)
class PlantedLesion:
    """One abnormality put into a phantom.

    Attributes
    ----------
    abnormality: name in the abnormality dictionary.
    organ: reading organ.
    side: "left", "right" or "" where the organ has none.
    centre: (z, y, x) voxel index in the anatomy's grid.
    diameter_mm: largest diameter; 0.0 for diffuse abnormalities (steatosis, effusion).
    mask_value: its value in `Phantom.lesions`; 0 where it has no mask (steatosis).
    """

    abnormality: str
    organ: str
    side: str
    centre: tuple[float, float, float]
    diameter_mm: float
    mask_value: int


@dataclass(frozen=True)
class Phantom:
    """A finished synthetic study: image, truth and what is in it.

    Attributes
    ----------
    hu: (D, H, W) float32 Hounsfield units, axes "HPL".
    organs: (D, H, W) uint8 reading organ labels.
    lesions: (D, H, W) uint8; value = `PlantedLesion.mask_value`.
    planted: what was planted.
    spacing_mm: (z, y, x) voxel size.
    phase: contrast phase, "native", "arterial" or "portal venous".
    """

    hu: torch.Tensor
    organs: torch.Tensor
    lesions: torch.Tensor
    planted: tuple[PlantedLesion, ...]
    spacing_mm: tuple[float, float, float]
    phase: str = "native"
    notes: dict[str, str] = field(default_factory=dict)
