"""Organs drawn by somebody else than the model's own head: what a `Reader` asks of it and does with it.

Not a segmentation: `core_model.totalsegmentator_masks` is one. Features, lesions and findings stay the
model's; they are looked for in, and pooled over, the organs that were drawn here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch

from core_model.anatomy import organs
from core_model.inference import ScanFeatures
from core_model.reading import OrganDrawing
from core_model.volume import bounding_slices, resample, sub_geometry


class OrganSegmenter(Protocol):
    """Draws reading organs."""

    @property
    def drawing(self) -> OrganDrawing:
        """Who draws, and which organs it can draw; what it cannot, the model's own head does."""
        ...

    def organs(self, volume: hd.Volume) -> hd.Volume:
        """Reading organ labels of a CT.

        Parameters
        ----------
        volume: Hounsfield units.

        Returns
        -------
        uint8 Volume on exactly `volume`'s geometry, 0 where no organ is.

        Raises
        ------
        ValueError: if it cannot draw this volume.
        """
        ...


def completed(
    drawn: npt.NDArray[np.uint8], own: npt.NDArray[np.uint8], drawing: OrganDrawing
) -> npt.NDArray[np.uint8]:
    """What was drawn, and where nothing was, those of the model's own organs that cannot be drawn.

    Parameters
    ----------
    drawn, own: (D, H, W) uint8 reading organ labels on one grid.
    """
    missing = [o.label for o in organs() if o.name not in drawing.organs]
    filled: npt.NDArray[np.uint8] = np.where((drawn == 0) & np.isin(own, missing), own, drawn)
    return filled


def with_organs(features: ScanFeatures, mask: hd.Volume) -> ScanFeatures:
    """The features of a scan with the organs of `mask` in place of the head's.

    Parameters
    ----------
    features: of the scan.
    mask: uint8 reading organ labels on the scan's own canonical grid.

    Returns
    -------
    Features whose `organ_probability` is the share of each organ in each voxel of the model's grid.
    """
    shares = torch.zeros_like(features.organ_probability)  # (1 + O, D, H, W)
    source = mask.get_geometry()
    for label in np.unique(mask.array).tolist():
        if label == 0:
            continue
        own = mask.array == label
        # A margin of nothing, because beyond a grid its last voxel goes on.
        box = bounding_slices(own, margin=(1, 1, 1))
        part = torch.from_numpy(own[box])[None].float()
        shares[label] = resample(part, sub_geometry(source, *box), features.geometry, antialias=True)[0]
    shares[0] = (1 - shares.sum(0)).clamp_min(0)
    return replace(features, organ_probability=shares)
