"""The lesion decoder: dense features in which a text finds its voxels.

A second, light decoder beside the organ decoder, on the same encoder: organ features tell
where something is, the image itself (windowed CT) tells that it differs from its organ, which
the organ head must learn to ignore. Our choice; CT-GLIP uses one feature map for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from core_model.image_encoder import ImageFeatures, ResidualBlock, group_norm, upsampling


class LesionDecoder(nn.Module):
    """Three levels, from a quarter of the resolution to the full one.

    Parameters
    ----------
    channels: widths of the encoder's fine, half and quarter features.
    width: channels of the dense features that come out.
    channels_in: channels of the windowed CT.
    """

    def __init__(self, channels: Sequence[int], width: int, channels_in: int = 2) -> None:
        super().__init__()
        fine, half, quarter = channels
        self.quarter_block = ResidualBlock(quarter, 64)
        self.rise_half = upsampling(64, 32)
        self.half_block = ResidualBlock(32 + half + channels_in, 48)
        self.rise_fine = upsampling(48, 16)
        self.fine_conv = nn.Conv3d(16 + fine + channels_in, width, 3, 1, 1, bias=False)
        self.norm = group_norm(width)
        self.out = nn.Conv3d(width, width, 1)

    def forward(self, x: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        """Dense features.

        Parameters
        ----------
        x: (B, 2, D, H, W) windowed CT.
        features: of the encoder for `x`.

        Returns
        -------
        (B, width, D, H, W).
        """
        quarter = self.quarter_block(features.quarter)  # (B, 64, D/4, H/4, W/4)
        small = F.avg_pool3d(x, 2)  # (B, 2, D/2, H/2, W/2)
        half = self.half_block(torch.cat([self.rise_half(quarter), features.half, small], 1))
        fine = self.fine_conv(torch.cat([self.rise_fine(half), features.fine, x], 1))
        dense: torch.Tensor = self.out(F.leaky_relu(self.norm(fine), 0.01))
        return dense
