"""Scans that are one organ all over, with a lump or a vessel in it, as candidates are sought in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.masks import Region
from core_model.place_features import OrganView

SHAPE = (30, 32, 34)
CENTRE = (14, 15, 16)
NAMES = [a.name for a in abnormalities()]
TUMOUR, CYST = NAMES.index("liver_tumour"), NAMES.index("liver_cyst")

Bools = npt.NDArray[np.bool_]


def distance(centre: tuple[float, ...], axes: tuple[int, ...] = (0, 1, 2)) -> npt.NDArray[np.float64]:
    """(D, H, W) voxels from a point, or from a line along the axes that are left out."""
    index = np.indices(SHAPE)
    return np.sqrt(sum((index[a] - centre[a]) ** 2 for a in axes))


def ball(centre: tuple[float, ...] = CENTRE, radius: float = 3.0) -> Bools:
    """A lump."""
    return np.asarray(distance(centre) <= radius)


def tube(centre: tuple[float, ...] = CENTRE, radius: float = 3.0) -> Bools:
    """A vessel along the first axis."""
    return np.asarray(distance(centre, (1, 2)) <= radius)


def liver(
    lesion: Bools, *, hu: float = 100.0, lesion_hu: float = 60.0, marked: dict[int, Bools] | None = None
) -> OrganView:
    """A scan that is liver all over, with a lesion, which the mask of liver tumours shows.

    Parameters
    ----------
    marked: what the masks of some abnormalities show instead; nothing else is searched.
    """
    image = np.full(SHAPE, hu, dtype=np.float32)
    image[lesion] = lesion_hu
    everywhere = torch.ones(SHAPE, dtype=torch.bool)
    shown = {TUMOUR: lesion} if marked is None else marked
    logits = tuple(
        # Highest in the middle: a peak is one voxel.
        np.where(shown[i], 3.0 - distance(CENTRE) / 100, -6.0).astype(np.float32) if i in shown else None
        for i in range(len(NAMES))
    )
    label = np.full(SHAPE, organ("liver").label, dtype=np.uint8)
    return OrganView("liver", image, label, Region(everywhere, everywhere), logits)
