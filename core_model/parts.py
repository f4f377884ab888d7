"""Organs rid of their stray parts: blobs far smaller than the organ, drawn where another one is.

nnU-Net calls it post-processing and keeps the largest component; here one more question is asked of
the voxels that are taken away: which organ is the next most probable. Works on the model's grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

# A part that is smaller than this share of the organ's largest is no part of it. Our choice, by
# the mean organ Dice of development patients.
SHARE = 0.2
_TOUCHING = np.ones((3, 3, 3))  # voxels that share a corner belong together


def without_strays(probability: torch.Tensor, share: float = SHARE) -> torch.Tensor:
    """Give the stray parts of every organ to the next most probable organ, or to none.

    Parameters
    ----------
    probability: (1 + O, D, H, W); channel 0 is "none".
    share: of the largest part's voxels that a part must have to stay.

    Returns
    -------
    The same shape. In a stray part the organ's probability is 0; where that makes a stray of another
    organ, or leaves nothing as probable as one of so many must be, all are 0 but "none".

    Raises
    ------
    ValueError: if `share` is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}; it is a part of the largest component, 0 to 1")
    clean = probability.clone()
    label = clean.argmax(0)
    stray = torch.from_numpy(strays(label.numpy(), share))
    clean.scatter_(0, label[None], clean.gather(0, label[None]) * ~stray[None])
    again = torch.from_numpy(strays(clean.argmax(0).numpy(), share)) | (clean.amax(0) < 1 / len(clean))
    clean[1:] *= ~again
    clean[0][again] = 1.0
    return clean


def strays(label: npt.NDArray[np.integer], share: float) -> npt.NDArray[np.bool_]:
    """(D, H, W) bool: voxels of parts with less than `share` of the voxels of their label's largest part."""
    stray = np.zeros(label.shape, dtype=bool)
    for value, box in enumerate(ndimage.find_objects(label), start=1):
        if box is None:
            continue
        own = label[box] == value
        parts, count = ndimage.label(own, _TOUCHING)
        if count > 1:
            size = np.bincount(parts.ravel())
            size[0] = 0
            stray[box] |= own & (size[parts] < share * size.max())
    return stray
