"""Mean and maximum over cubes of voxels, one axis at a time: few taps instead of their cube."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

_Pool = Callable[[torch.Tensor, list[int], list[int]], torch.Tensor]


def box_mean(x: torch.Tensor, side: int) -> torch.Tensor:
    """The mean over cubes of `side` voxels (odd); over less at the border.

    Parameters
    ----------
    x: (B, C, D, H, W); an axis shorter than `side` gets the longest odd side that fits.
    """

    def mean(x: torch.Tensor, kernel: list[int], padding: list[int]) -> torch.Tensor:
        return F.avg_pool3d(x, kernel, 1, padding, count_include_pad=False)

    return _by_axis(x, [min(side, n - 1 + n % 2) for n in x.shape[2:]], mean)


def box_max(x: torch.Tensor, side: int) -> torch.Tensor:
    """The highest value within cubes of `side` voxels (odd); x: (B, C, D, H, W)."""

    def highest(x: torch.Tensor, kernel: list[int], padding: list[int]) -> torch.Tensor:
        return F.max_pool3d(x, kernel, 1, padding)

    return _by_axis(x, [side] * 3, highest)


def _by_axis(x: torch.Tensor, sides: list[int], pool: _Pool) -> torch.Tensor:
    for axis, side in enumerate(sides):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = side, side // 2
        x = pool(x, kernel, padding)
    return x
