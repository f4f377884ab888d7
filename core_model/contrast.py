"""How much each voxel differs from its own organ, in amounts that a network notices.

A lesion is 15 to 60 HU darker than its organ, in noise of 10 to 30 HU, and what its organ measures
depends on contrast phase and patient. In a window of 400 HU that is a tenth of the scale. Here it
becomes a channel of its own. Our choice; no parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CHANNELS = 4  # of `organ_contrast`
NOISE_HU, SMOOTH_HU, WIDE_HU = 30.0, 15.0, 200.0  # differences that become 1
WATER_HU = 25.0  # between simple fluid and tissue
LIMIT = 3.0


def organ_contrast(x: torch.Tensor, half_organ_logits: torch.Tensor) -> torch.Tensor:
    """Contrast channels.

    Parameters
    ----------
    x: (B, 2, D, H, W) windowed CT (`core_model.volume.window`), even sides.
    half_organ_logits: (B, 1 + O, D/2, H/2, W/2).

    Returns
    -------
    (B, 4, D, H, W), each within -3..3: the soft-tissue window against the mean of the voxel's organ,
    the same averaged over 3x3x3 voxels, averaged HU against `WATER_HU`, and the wide window against
    the mean of the organ. The mean is that of the organ in this window.
    """
    organ = half_organ_logits.float().softmax(1)  # (B, 1 + O, d, h, w)
    small = F.avg_pool3d(x.float(), 2)  # (B, 2, d, h, w)
    weight = organ.sum((2, 3, 4)).clamp_min(1e-3)
    mean = torch.einsum("bodhw,bcdhw->boc", organ, small) / weight[..., None]  # (B, 1 + O, 2)
    # Blurred, because a lesion can look like another organ to the organ head.
    expected = F.avg_pool3d(torch.einsum("bodhw,boc->bcdhw", organ, mean), 5, 1, 2, count_include_pad=False)
    difference = x.float() - F.interpolate(expected, scale_factor=2.0, mode="trilinear")
    wide, soft = difference[:, :1] * 1000, difference[:, 1:] * 200  # HU, as in `window`
    smooth, fluid = (
        F.avg_pool3d(hu, 3, 1, 1, count_include_pad=False) for hu in (soft, x[:, 1:].float() * 200 + 40)
    )
    parts = [soft / NOISE_HU, smooth / SMOOTH_HU, (fluid - WATER_HU) / SMOOTH_HU, wide / WIDE_HU]
    return torch.cat(parts, 1).clamp(-LIMIT, LIMIT)  # (B, 4, D, H, W)
