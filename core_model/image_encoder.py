"""The image encoder: a residual 3D U-Net with a thin full-resolution level.

Gives dense features and organ logits; knows no text. CT-GLIP uses an nnU-Net backbone and its
highest-resolution feature map (model.md 1.1); depth, widths and the thin top are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 8 channels per group: unlike instance norm it keeps channels-last on CPU."""
    return nn.GroupNorm(channels // 8, channels)


class ResidualBlock(nn.Module):
    """Two normalised 3x3x3 convolutions and a skip; `stride` 2 halves the resolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = group_norm(channels_out)
        self.conv2 = nn.Conv3d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = group_norm(channels_out)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            self.skip = nn.Conv3d(channels_in, channels_out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)), 0.01)
        y = self.norm2(self.conv2(y))
        return F.leaky_relu(y + self.skip(x), 0.01)  # (B, C, D/stride, H/stride, W/stride)


@dataclass(frozen=True)
class ImageFeatures:
    """What the encoder gives for a window of (D, H, W) voxels.

    Attributes
    ----------
    fine: (B, C0, D, H, W), half: (B, C1, D/2, H/2, W/2), quarter: (B, C2, D/4, H/4, W/4):
        decoder features of the three finest levels.
    organ_logits: (B, 1 + organs, D, H, W); channel 0 is "no organ".
    """

    fine: torch.Tensor
    half: torch.Tensor
    quarter: torch.Tensor
    organ_logits: torch.Tensor


def upsampling(channels_in: int, channels_out: int) -> nn.ConvTranspose3d:
    """Learned doubling of the resolution (as nnU-Net's decoder)."""
    return nn.ConvTranspose3d(channels_in, channels_out, 2, 2)


class ImageEncoder(nn.Module):
    """Residual U-Net.

    Parameters
    ----------
    channels: widths per level, finest first, multiples of 8; every level halves the resolution.
    n_organs: reading organs (one more output channel is the background).
    channels_in: input channels (`core_model.volume.window` makes 2).

    Raises
    ------
    ValueError: if there are fewer than 4 levels.
    """

    def __init__(self, channels: Sequence[int], n_organs: int, channels_in: int = 2) -> None:
        super().__init__()
        if len(channels) < 4:
            raise ValueError(f"channels has {len(channels)} levels; grounding needs at least 4")
        self.stem = nn.Conv3d(channels_in, channels[0], 3, 1, 1)
        self.down = nn.ModuleList(ResidualBlock(a, b, 2) for a, b in pairwise(channels))
        coarse_to_fine = list(zip(channels[-2:0:-1], channels[:1:-1], strict=True))
        self.rise = nn.ModuleList(upsampling(b, a) for a, b in coarse_to_fine)
        self.up = nn.ModuleList(ResidualBlock(2 * a, a) for a, _ in coarse_to_fine)
        # The finest level is thin: one convolution, because its cost is memory traffic.
        self.last_rise = upsampling(channels[1], channels[0])
        self.top = nn.Conv3d(2 * channels[0], channels[0], 3, 1, 1, bias=False)
        self.top_norm = group_norm(channels[0])
        self.organ_head = nn.Conv3d(channels[0], n_organs + 1, 1)
        self.channels = tuple(channels[:3])
        self.stride = 2 ** (len(channels) - 1)

    def forward(self, x: torch.Tensor) -> ImageFeatures:
        """Encode a window.

        Parameters
        ----------
        x: (B, 2, D, H, W), windowed; D, H and W are multiples of `stride`.

        Raises
        ------
        ValueError: if a side is not a multiple of `stride`.
        """
        if any(n % self.stride for n in x.shape[2:]):
            raise ValueError(
                f"x has spatial shape {tuple(x.shape[2:])}; pad every side to a multiple of {self.stride}"
            )
        skips = [F.leaky_relu(self.stem(x), 0.01)]
        for block in self.down:
            skips.append(block(skips[-1]))
        levels = [skips[-1]]
        for rise, block, skip in zip(self.rise, self.up, skips[-2:0:-1], strict=True):
            levels.append(block(torch.cat([rise(levels[-1]), skip], dim=1)))
        half = levels[-1]  # (B, C1, D/2, H/2, W/2)
        fine = self.top(torch.cat([self.last_rise(half), skips[0]], dim=1))
        fine = F.leaky_relu(self.top_norm(fine), 0.01)  # (B, C0, D, H, W)
        return ImageFeatures(fine=fine, half=half, quarter=levels[-2], organ_logits=self.organ_head(fine))
