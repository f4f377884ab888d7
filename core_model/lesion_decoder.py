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

from core_model.contrast import CHANNELS
from core_model.image_encoder import ImageFeatures, ResidualBlock, upsampling


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each voxel, blind to its neighbours.

    Group norm takes its statistics from the whole window: a decoder trained on small boxes round
    lesions would meet others in a whole scan. This one gives the same answer in both (our choice).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = x.movedim(1, -1)  # (B, D, H, W, C)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias).movedim(-1, 1)  # (B, C, D, H, W)


class LesionDecoder(nn.Module):
    """Three levels, from a quarter of the resolution to the full one.

    Parameters
    ----------
    channels: widths of the encoder's fine, half and quarter features.
    width: channels of the dense features that come out.
    channels_in: channels of the windowed CT and of `core_model.contrast.organ_contrast`.
    """

    def __init__(self, channels: Sequence[int], width: int, channels_in: int = 2 + CHANNELS) -> None:
        super().__init__()
        fine, half, quarter = channels
        self.quarter_block = ResidualBlock(quarter, 64, norm=ChannelNorm)
        # With the CT's channels these make multiples of 8, which convolutions run faster on.
        self.rise_half = upsampling(64, 32 - channels_in)
        self.half_block = ResidualBlock(32 + half, 48, norm=ChannelNorm)
        self.half_block_2 = ResidualBlock(48, 48, norm=ChannelNorm)
        self.rise_fine = upsampling(48, 16 - channels_in)
        self.fine_conv = nn.Conv3d(16 + fine, width, 3, 1, 1, bias=False)
        self.norm = ChannelNorm(width)
        self.out = nn.Conv3d(width, width, 1)

    def forward(self, x: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        """Dense features.

        Parameters
        ----------
        x: (B, channels_in, D, H, W) windowed CT and its contrast; even sides.
        features: of the encoder for the same window.

        Returns
        -------
        (B, width, D, H, W).
        """
        quarter = self.quarter_block(features.quarter)  # (B, 64, D/4, H/4, W/4)
        half = torch.cat([self.rise_half(quarter), features.half, F.avg_pool3d(x, 2)], 1)
        half = self.half_block_2(self.half_block(half))  # (B, 48, D/2, H/2, W/2)
        fine = self.fine_conv(torch.cat([self.rise_fine(half), features.fine, x], 1))
        dense: torch.Tensor = self.out(F.leaky_relu(self.norm(fine), 0.01))
        return dense
