"""The point decoder: dense features in which a text finds its voxels, each voxel judged by itself.

What a voxel is judged by is the CT, its contrast to its organ at several scales
(`core_model.contrast`), and which organs it and its neighbourhood are. Not the encoder's features:
they know each patient so well that lesions are learnt by heart from few patients. Because the
decoder looks at one voxel at a time, it is trained on a few thousand chosen voxels of many
patients instead of on whole windows. Our choice; CT-GLIP uses one feature map for organs and lesions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from core_model.contrast import CHANNELS, organ_contrast
from core_model.pooling import box_mean

HIDDEN = (64, 48)
NEIGHBOURHOOD = 5  # half-resolution cells; 40 mm at 4 mm


@dataclass(frozen=True)
class PointInputs:
    """What the decoder reads of a window, without parameters of its own.

    Attributes
    ----------
    fine: (B, F, D, H, W), the windowed CT and its contrast.
    half: (B, C, D/2, H/2, W/2), organ probabilities of each cell and of its neighbourhood.
    """

    fine: torch.Tensor
    half: torch.Tensor

    def at(self, sample: int, voxels: torch.Tensor) -> torch.Tensor:
        """What is read at some voxels.

        Parameters
        ----------
        voxels: (N, 3) indices (z, y, x) of the window.

        Returns
        -------
        (N, F + C); the half level is interpolated, as `PointDecoder.forward` does.
        """
        z, y, x = voxels.unbind(1)
        size = torch.tensor(self.fine.shape[2:], device=voxels.device)
        where = ((voxels + 0.5) / size * 2 - 1).flip(1).float()[None, :, None, None]  # (1, N, 1, 1, 3)
        half = self.half[sample : sample + 1]
        pulled = F.grid_sample(half, where, padding_mode="border", align_corners=False)  # (1, C, N, 1, 1)
        return torch.cat([self.fine[sample, :, z, y, x], pulled[0, :, :, 0, 0]]).T


class PointDecoder(nn.Module):
    """Three layers on each voxel.

    Parameters
    ----------
    organs: organs that the encoder draws.
    width: channels of the dense features that come out.
    """

    def __init__(self, organs: int, width: int) -> None:
        super().__init__()
        self.split = (2 + CHANNELS, 2 * (1 + organs))
        self.first = nn.Linear(sum(self.split), HIDDEN[0])
        self.second = nn.Linear(*HIDDEN)
        self.out = nn.Linear(HIDDEN[1], width)

    def inputs(self, x: torch.Tensor, half_organ_logits: torch.Tensor) -> PointInputs:
        """Gather what is read.

        Parameters
        ----------
        x: (B, 2, D, H, W) windowed CT; even sides.
        half_organ_logits: (B, 1 + O, D/2, H/2, W/2), of the encoder for `x`.
        """
        organ = half_organ_logits.float().softmax(1)  # (B, 1 + O, d, h, w)
        fine = torch.cat([x.float(), organ_contrast(x, organ)], 1)
        return PointInputs(fine, torch.cat([organ, box_mean(organ, NEIGHBOURHOOD)], 1))

    def points(self, read: torch.Tensor) -> torch.Tensor:
        """(N, F + C) of `PointInputs.at` -> (N, width) dense features."""
        return self._rest(self.first(read))

    def forward(self, x: torch.Tensor, half_organ_logits: torch.Tensor) -> torch.Tensor:
        """(B, width, D, H, W) dense features of a whole window; see `inputs`."""
        read = self.inputs(x, half_organ_logits)
        fine, half = self.first.weight[:, : self.split[0]], self.first.weight[:, self.split[0] :]
        hidden = F.linear(read.fine.movedim(1, -1), fine, self.first.bias)  # (B, D, H, W, hidden)
        # A linear layer and interpolation can change places: the narrow side is interpolated.
        low = F.linear(read.half.movedim(1, -1), half).movedim(-1, 1)
        hidden = hidden + F.interpolate(low, scale_factor=2.0, mode="trilinear").movedim(1, -1)
        return self._rest(hidden).movedim(-1, 1)

    def _rest(self, hidden: torch.Tensor) -> torch.Tensor:
        dense: torch.Tensor = self.out(F.gelu(self.second(F.gelu(hidden))))
        return dense
