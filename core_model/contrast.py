"""How much each voxel and its neighbourhood differ from their own organ, at several scales.

A lesion is 15 to 60 HU darker than its organ, and what its organ measures depends on contrast
phase and patient. In a window of 400 HU that is a tenth of the scale. Here it becomes channels of
its own, averaged over neighbourhoods as large as lesions are, with what tells a lesion from the
organ's border beside them. Our choice; no parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from core_model.pooling import box_mean
from core_model.volume import windows_hu

CHANNELS = 19  # of `organ_contrast`
SIDES = (3, 5, 9, 15)  # voxels of the neighbourhoods; 12 to 60 mm at 4 mm
SCALE_HU = (12.0, 10.0, 8.0, 8.0)  # mean difference of a neighbourhood that becomes 1
NOISE_HU, SPREAD_HU, WIDE_HU = 30.0, 20.0, 200.0  # other differences that become 1
FAT_HU, BRIGHT_HU = -40.0, 50.0  # below: fat and gas; so far above its organ: a vessel, contrast, bone
FLUID_HU = 25.0  # between simple fluid and tissue
FAR_HU = 80.0  # from its organ; what lies farther counts as that far
LIMIT = 4.0


def organ_contrast(x: torch.Tensor, organ: torch.Tensor) -> torch.Tensor:
    """Contrast channels.

    Parameters
    ----------
    x: (B, 2, D, H, W) windowed CT (`core_model.volume.window`), even sides.
    organ: (B, 1 + O, D/2, H/2, W/2) organ probabilities; channel 0 is "none".

    Returns
    -------
    (B, `CHANNELS`, D, H, W), each within -4..4: the difference to the organ, its mean over each of
    `SIDES` without fat and gas, its spread over the two smallest; the mean over the smallest
    against `FLUID_HU`; the wide window's difference; for each of the three smallest how much of it
    is bright (not of the third) and how much fat or gas; how much of the third is organ; the means
    once more, against how much such means vary in the organ.
    """
    both = windows_hu(x)
    hu, small = both[:, 1:], F.avg_pool3d(both, 2)
    members = _members(small[:, 1:], organ)
    known = _doubled(members.likely.sum(1, keepdim=True)) > 0.5
    expected = _doubled(members.spread_out(small))  # (B, 2, D, H, W)
    off = (both - expected) * known
    difference, difference_wide = off[:, 1:], off[:, :1]
    tissue = known & (expected[:, 1:] > FAT_HU)
    inside = _doubled(members.inside)
    fat = (hu < FAT_HU).float()
    weight = (1 - fat) * inside.clamp_min(0.1)
    near = difference.clamp(-FAR_HU, FAR_HU) * tissue
    bright = (near > BRIGHT_HU).float()
    base = torch.cat([weight, weight * near, weight * near**2, weight * hu, fat, bright, inside], 1)
    means, spreads, shares = [], [], []
    for side in SIDES:
        box = box_mean(base if side <= SIDES[2] else base[:, :2], side)
        total = box[:, :1].clamp_min(1e-3)
        mean = box[:, 1:2] / total
        means.append(mean)
        if side <= SIDES[1]:
            spreads.append((box[:, 2:3] / total - mean**2).clamp_min(0).sqrt() / SPREAD_HU)
            shares.append(box[:, 5:6] * 3)
        if side <= SIDES[2]:
            shares.append(box[:, 4:5] * 3)
        if side == SIDES[0]:
            fluid = (box[:, 3:4] / total - FLUID_HU) / 15
        if side == SIDES[2]:
            shares.append(box[:, 6:7] * 2 - 1)
    every = torch.cat(means, 1)  # (B, 4, D, H, W)
    usual = _doubled(members.spread_out(F.avg_pool3d(every, 2) ** 2)).clamp_min(0).sqrt()
    scale = torch.tensor(SCALE_HU, device=x.device)[:, None, None, None]
    parts = [difference * tissue / NOISE_HU, every / scale, *spreads, fluid, difference_wide / WIDE_HU]
    parts += [*shares, every / (usual + 1) / 2]
    return torch.cat(parts, 1).clamp(-LIMIT, LIMIT)  # (B, CHANNELS, D, H, W)


@dataclass(frozen=True)
class _Members:
    """Which cells speak for which organ, and which organ is expected where; all at half resolution.

    Attributes
    ----------
    weight: (B, O, d, h, w), how much a cell says about each organ: what differs much from the organ's
        mean (vessels, lesions, the border) says little.
    likely: (B, O, d, h, w), the organ of the neighbourhood, because a lesion can look like another
        organ, or like none, to the organ head; sums to 1 or, far from organs, 0.
    inside: (B, 1, d, h, w), how much of a cell is organ.
    """

    weight: torch.Tensor
    likely: torch.Tensor
    inside: torch.Tensor

    def spread_out(self, values: torch.Tensor) -> torch.Tensor:
        """(B, C, d, h, w) -> the same, each cell with the mean of its organ."""
        total = self.weight.sum((2, 3, 4)).clamp_min(1e-3)  # (B, O)
        mean = torch.einsum("bodhw,bcdhw->boc", self.weight, values) / total[..., None]  # (B, O, C)
        return torch.einsum("bodhw,boc->bcdhw", self.likely, mean)


def _members(hu: torch.Tensor, organ: torch.Tensor) -> _Members:
    """From (B, 1, d, h, w) HU and (B, 1 + O, d, h, w) organ probabilities."""
    likely = box_mean(organ[:, 1:], 3) ** 2
    likely = likely / likely.sum(1, keepdim=True).clamp_min(1e-4)
    first = _Members(organ[:, 1:], likely, 1 - organ[:, :1])
    typical = torch.exp(-(((hu - first.spread_out(hu)) / 40) ** 2))
    return _Members(organ[:, 1:] * typical, likely, first.inside)


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="trilinear")
