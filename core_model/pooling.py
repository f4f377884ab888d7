"""Mean and maximum over cubes of voxels, one axis at a time: few taps instead of their cube."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def box_mean(x: torch.Tensor, side: int) -> torch.Tensor:
    """The mean over cubes of `side` voxels (odd); over less at the border.

    Parameters
    ----------
    x: (B, C, D, H, W); an axis shorter than `side` gets the longest odd side that fits.
    """

    for axis in (2, 3, 4):
        n = x.shape[axis]
        x = _mean_along(x, axis, min(side, n - 1 + n % 2) // 2)
    return x


def _mean_along(x: torch.Tensor, axis: int, reach: int) -> torch.Tensor:
    """The mean over `reach` neighbours on either side along one axis, or over fewer at the ends.

    From running sums, so that a wide mean costs what a narrow one does: torch's average pooling on a CPU
    takes four times as long for 9 voxels.
    """
    n = x.shape[axis]
    if not reach:
        return x
    sums = x.float().cumsum(axis)
    last = sums.narrow(axis, n - 1, 1).expand_as(sums.narrow(axis, 0, reach))
    upper = torch.cat([sums.narrow(axis, reach, n - reach), last], axis)
    inner = n - reach - 1  # so many neighbourhoods do not reach the beginning
    upper.narrow(axis, reach + 1, inner).sub_(sums.narrow(axis, 0, inner))
    place = torch.arange(n, device=x.device)
    count = (place + reach).clamp_max(n - 1) - (place - reach).clamp_min(0) + 1
    return (upper / count.view([n if a == axis else 1 for a in range(x.ndim)])).to(x.dtype)


def box_max(x: torch.Tensor, side: int) -> torch.Tensor:
    """The highest value within cubes of `side` voxels (odd); x: (B, C, D, H, W)."""

    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = side, side // 2
        x = F.max_pool3d(x, kernel, 1, padding)
    return x
