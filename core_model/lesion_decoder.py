"""The lesion decoder: dense features in which a text finds its voxels.

A second, light decoder beside the organ decoder, on the same encoder: organ features tell
where something is, the image itself (windowed CT) tells that it differs from its organ, which
the organ head must learn to ignore. Our choice; CT-GLIP uses one feature map for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from core_model.contrast import CHANNELS, organ_contrast
from core_model.image_encoder import ImageFeatures, ResidualBlock, group_norm, upsampling


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
    contrast: read `core_model.contrast.organ_contrast` too, norm each voxel by itself, and take
        one block more; without it the decoder reads the windowed CT alone, under group norm.
    """

    def __init__(self, channels: Sequence[int], width: int, *, contrast: bool) -> None:
        super().__init__()
        fine, half, quarter = channels
        seen = 2 + (CHANNELS if contrast else 0)
        # With contrast, the CT's channels are counted in: multiples of 8 are faster.
        rise_half, rise_fine = (32 - seen, 16 - seen) if contrast else (32, 16)
        norm: Callable[[int], nn.Module] = ChannelNorm if contrast else group_norm
        self.contrast = contrast
        self.quarter_block = ResidualBlock(quarter, 64, norm=norm)
        self.rise_half = upsampling(64, rise_half)
        self.half_block = ResidualBlock(rise_half + half + seen, 48, norm=norm)
        self.half_block_2: nn.Module = ResidualBlock(48, 48, norm=norm) if contrast else nn.Identity()
        self.rise_fine = upsampling(48, rise_fine)
        self.fine_conv = nn.Conv3d(rise_fine + fine + seen, width, 3, 1, 1, bias=False)
        self.norm = norm(width)
        self.out = nn.Conv3d(width, width, 1)

    def seen(self, x: torch.Tensor, half_organ_logits: torch.Tensor) -> torch.Tensor:
        """What `forward` takes as `x`: (B, 2, D, H, W) windowed CT, and its contrast where that is read."""
        return torch.cat([x, organ_contrast(x, half_organ_logits)], 1) if self.contrast else x

    def forward(self, x: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        """Dense features.

        Parameters
        ----------
        x: (B, 2 or 6, D, H, W), of `seen`; even sides.
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
