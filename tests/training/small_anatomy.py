"""An anatomy of boxes, made in milliseconds: what lies where is known exactly."""

from __future__ import annotations

import numpy as np
import torch

from training.phantoms.tissues import FAT, MUSCLE, SKIN, Anatomy, tissue

SPACING_MM = 4.0

# name -> (z, y, x) ranges in voxels; axes towards head, posterior and left: right organs have low x.
BOXES = {
    "liver": ((10, 34), (14, 38), (10, 32)),
    "spleen": ((20, 32), (26, 38), (48, 58)),
    "kidney_right": ((4, 18), (40, 50), (16, 26)),
    "kidney_left": ((4, 18), (40, 50), (44, 54)),
    "pancreas": ((12, 18), (26, 34), (34, 50)),
    "gallbladder": ((6, 10), (16, 24), (20, 28)),
    "aorta": ((0, 48), (42, 48), (32, 38)),
    "colon": ((1, 9), (12, 24), (40, 56)),
    "vertebrae_L1": ((8, 14), (49, 56), (30, 40)),
    "vertebrae_T12": ((16, 22), (49, 56), (30, 40)),
    "adrenal_gland_left": ((19, 22), (40, 46), (44, 50)),
    "urinary_bladder": ((0, 8), (26, 38), (30, 42)),
    "heart": ((36, 46), (16, 34), (28, 42)),
    "esophagus": ((26, 48), (38, 41), (34, 37)),
    "stomach": ((24, 34), (14, 24), (44, 56)),
    "lung_lower_lobe_right": ((36, 48), (14, 46), (10, 28)),
    "lung_lower_lobe_left": ((36, 48), (14, 46), (42, 60)),
}


def small_anatomy(rng: np.random.Generator | None = None) -> Anatomy:
    """The boxes in a body of 48 x 64 x 70 voxels; `rng` is not used: it is an anatomy source."""
    del rng
    tissues = torch.zeros(48, 64, 70, dtype=torch.uint8)
    tissues[:, 8:60, 4:66] = SKIN
    tissues[:, 9:59, 5:65] = FAT
    tissues[:, 11:57, 7:63] = MUSCLE
    for name, (z, y, x) in BOXES.items():
        tissues[slice(*z), slice(*y), slice(*x)] = tissue(name)
    return Anatomy(tissues=tissues, spacing_mm=SPACING_MM)
