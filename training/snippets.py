"""Intra-scan snippet localization (RadFinder): a report sentence against the slabs of its own scan.

A snippet is a sentence and the slice where its lesion is largest, in a crop. Not report mining:
the sentences come from `training.phantoms.reports`, the place from the lesion's mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.phantoms.reports import Snippet

SIGMA_MM = 24.0  # of the Gaussian target, RadFinder's: 2 positions of 12 mm (model.md 2.3)
TEMPERATURE = 0.1  # of the softmax over slabs, RadFinder's


@dataclass(frozen=True)
class CropSnippet:
    """A sentence and where in the crop it is.

    Attributes
    ----------
    text: without the reference to its image.
    slice_index: index along the crop's first axis where its lesion is largest.
    """

    text: str
    slice_index: int


def snippets_in(
    snippets: Sequence[Snippet], lesions: torch.Tensor, min_voxels: int
) -> tuple[CropSnippet, ...]:
    """The snippets whose lesion is in a crop.

    Parameters
    ----------
    lesions: (D, H, W) integer, values are `Snippet.mask_value`.
    min_voxels: with fewer of its voxels in the crop a lesion is left out.
    """
    found = []
    for snippet in snippets:
        area = (lesions == snippet.mask_value).sum((1, 2))  # (D,)
        if int(area.sum()) >= min_voxels:
            found.append(CropSnippet(snippet.text, int(area.argmax())))
    return tuple(found)


def gaussian_target(position_mm: torch.Tensor, n_slabs: int, slab_mm: float) -> torch.Tensor:
    """What the softmax over slabs should be.

    Parameters
    ----------
    position_mm: (N,) from the outer face of the first slab.

    Returns
    -------
    (N, n_slabs), every row sums to 1.
    """
    centres = (torch.arange(n_slabs, device=position_mm.device) + 0.5) * slab_mm
    gap = (centres[None] - position_mm[:, None]) / SIGMA_MM
    return (-0.5 * gap**2).softmax(1)


def snippet_losses(
    slabs: torch.Tensor, text: torch.Tensor, sample: torch.Tensor, position_mm: torch.Tensor, slab_mm: float
) -> torch.Tensor:
    """Cross entropy between the softmax of cosines over the scan's slabs and a Gaussian, of each text.

    Parameters
    ----------
    slabs: (B, d, E) unit length.
    text: (N, E) unit length; sample: (N,) int64, the scan of each text.
    position_mm: (N,) as in `gaussian_target`.

    Returns
    -------
    (N,)
    """
    cosine = torch.einsum("nde,ne->nd", slabs[sample], text)
    target = gaussian_target(position_mm, slabs.shape[1], slab_mm)
    return -(target * (cosine.float() / TEMPERATURE).log_softmax(1)).sum(1)
