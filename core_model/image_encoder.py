"""The image encoder: a residual 3D U-Net with a thin full-resolution level.

Gives dense features and organ logits; knows no text. CT-GLIP uses an nnU-Net backbone and its
highest-resolution feature map (model.md 1.1); depth, widths and the thin top are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with instance norm and a skip; `stride` halves the resolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.InstanceNorm3d(channels_out, affine=True)
        self.conv2 = nn.Conv3d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.InstanceNorm3d(channels_out, affine=True)
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
    dense: (B, C0 + C1, D, H, W): decoder features of the two finest levels, at full resolution.
    half: (B, C1 + C2, D/2, H/2, W/2): decoder features for grounding.
    organ_logits: (B, 1 + organs, D, H, W); channel 0 is "no organ".
    """

    dense: torch.Tensor
    half: torch.Tensor
    organ_logits: torch.Tensor


class ImageEncoder(nn.Module):
    """Residual U-Net.

    Parameters
    ----------
    channels: widths per level, finest first; every level halves the resolution.
    n_organs: reading organs (one more output channel is the background).
    channels_in: input channels (`core_model.volume.window` makes 2).
    """

    def __init__(self, channels: Sequence[int], n_organs: int, channels_in: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv3d(channels_in, channels[0], 3, 1, 1)
        self.down = nn.ModuleList(
            ResidualBlock(a, b, 2) for a, b in zip(channels[:-1], channels[1:], strict=True)
        )
        self.up = nn.ModuleList(
            ResidualBlock(b + a, a) for a, b in zip(channels[-2:0:-1], channels[:1:-1], strict=True)
        )
        # The finest level is thin: one convolution, because its cost is memory traffic.
        self.top = nn.Conv3d(channels[1] + channels[0], channels[0], 3, 1, 1, bias=False)
        self.top_norm = nn.InstanceNorm3d(channels[0], affine=True)
        self.organ_head = nn.Conv3d(channels[0], n_organs + 1, 1)
        self.dense_channels = channels[0] + channels[1]
        self.half_channels = channels[1] + channels[2]
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
        for block, skip in zip(self.up, skips[-2:0:-1], strict=True):
            levels.append(block(torch.cat([_to(levels[-1], skip), skip], dim=1)))
        half = levels[-1]  # (B, C1, D/2, H/2, W/2)
        fine = self.top(torch.cat([_to(half, skips[0]), skips[0]], dim=1))
        fine = F.leaky_relu(self.top_norm(fine), 0.01)  # (B, C0, D, H, W)
        return ImageFeatures(
            dense=torch.cat([fine, _to(half, fine)], dim=1),  # (B, C0 + C1, D, H, W)
            half=torch.cat([half, _to(levels[-2], half)], dim=1),  # (B, C1 + C2, D/2, H/2, W/2)
            organ_logits=self.organ_head(fine),
        )


def _to(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="nearest")
