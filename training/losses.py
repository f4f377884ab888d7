"""The losses of grounded pretraining, each a pure function on tensors.

Where a loss couples the scans of a batch (a Dice over all of them, a mean over what is present), it comes in
two parts: ``..._rows`` says what is needed of each scan, ``..._of`` makes the loss of many. So scans may have
been seen on different devices, or one after another (`training.views`).

Organ masks (Dice and cross entropy), text-conditioned masks, prompt-based disease supervision
(RadFinder), organ-text alignment (CT-GLIP), localization in the scan (RadFinder's Gaussian
target, here over all grid cells; our choice) and report-volume alignment (SigLIP).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from training.phantoms.tissues import IGNORE

# Lesions fill about a hundredth of their organ; and one of a few voxels must not outweigh a large one.
POSITIVE_WEIGHT = 4.0
SMOOTH_VOXELS = 10.0
NEGATIVE_WEIGHT = 10.0  # of voxels outside of a lesion; our choice


def organ_rows(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """What `organ_loss` needs of each scan: sums over its voxels, which add up over scans.

    Parameters
    ----------
    logits: (B, 1 + O, D, H, W).
    target: (B, D, H, W) uint8 with `IGNORE` where unknown.

    Returns
    -------
    (B, 4, 1 + O), per class: log probability of its voxels, soft size, soft overlap, size.
    """
    n = logits.shape[1]
    known = (target != IGNORE)[:, None]  # (B, 1, D, H, W)
    labels = torch.where(known, target[:, None].long(), 0)
    # Gather and scatter instead of a one-hot target: 37 channels of it would cost more than the network.
    log_probability = logits.float().log_softmax(1)
    own = log_probability.gather(1, labels)  # (B, 1, D, H, W)
    total = (log_probability.exp() * known).sum((2, 3, 4))  # (B, 1 + O)
    cells = (labels + torch.arange(len(labels), device=labels.device).view(-1, 1, 1, 1, 1) * n)[known]
    own = own[known]
    empty = own.new_zeros(len(labels) * n)
    sums = [empty.index_add(0, cells, values) for values in (own, own.exp(), torch.ones_like(own))]
    likelihood, overlap, count = (each.view(-1, n) for each in sums)
    return torch.stack([likelihood, total, overlap, count], 1)


def organ_loss_of(rows: torch.Tensor) -> torch.Tensor:
    """Cross entropy plus one minus mean soft Dice over the organs present, of all scans together.

    Parameters
    ----------
    rows: (B, 4, 1 + O) of `organ_rows`.
    """
    likelihood, total, overlap, count = rows.sum(0).unbind(0)  # (1 + O,) each
    entropy = -likelihood.sum() / count.sum().clamp_min(1)
    present = count > 8
    present[0] = False
    dice = (2 * overlap + 1) / (total + count + 1)
    return entropy + 1 - dice[present].mean() if bool(present.any()) else entropy


def organ_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`organ_loss_of` of `organ_rows`."""
    return organ_loss_of(organ_rows(logits, target))


def mask_rows(logits: torch.Tensor, target: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """What `mask_loss` needs of each scan and text.

    Parameters
    ----------
    logits: (B, A, D, H, W).
    target: (B, A, D, H, W) bool.
    region: (B, A, D, H, W) bool, the organ of each text; outside errors count a tenth.

    Returns
    -------
    (B, A, 3): cross entropy (weighted towards the organ), soft Dice, and 1 where the text is in the scan.
    """
    logits = logits.float()
    truth = target.float()
    weight = torch.tensor(POSITIVE_WEIGHT, device=logits.device)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=weight)
    near = region | target
    dims = (2, 3, 4)
    focus = (entropy * near).sum(dims) / near.sum(dims).clamp_min(50)
    everywhere = entropy.mean(dims)
    probability = logits.sigmoid()
    overlap = (probability * truth).sum(dims)
    total = probability.sum(dims) + truth.sum(dims)
    dice = (2 * overlap + SMOOTH_VOXELS) / (total + SMOOTH_VOXELS)
    present = target.any(-1).any(-1).any(-1)
    return torch.stack([focus + 2 * everywhere, dice, present.float()], -1)


def mask_loss_of(rows: torch.Tensor) -> torch.Tensor:
    """Text-conditioned masks: mean cross entropy, plus one minus mean Dice where present.

    Parameters
    ----------
    rows: (B, A, 3) of `mask_rows`.
    """
    entropy, dice, present = rows.unbind(-1)
    found = present > 0
    return entropy.mean() + (1 - dice[found]).mean() if bool(found.any()) else entropy.mean()


def mask_loss(logits: torch.Tensor, target: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """`mask_loss_of` of `mask_rows`."""
    return mask_loss_of(mask_rows(logits, target, region))


def lesion_voxel_loss(logits: torch.Tensor, target: torch.Tensor, judged: torch.Tensor) -> torch.Tensor:
    """Text-conditioned masks on chosen voxels.

    Per text the mean cross entropy of its own voxels, and `NEGATIVE_WEIGHT` times that of the others
    that are judged, averaged over texts. Were both to count the same, faint unevenness of an organ
    would pass for a lesion: among chosen voxels lesions are far more frequent than in a scan. Our choice.

    Parameters
    ----------
    logits: (N, A).
    target: (N, A) bool.
    judged: (N, A) bool, `target` included; nothing else is judged.
    """
    loss = F.softplus(torch.where(target, -logits, logits).float())  # (N, A)
    total = logits.sum() * 0
    for side, weight in ((judged & target, 1.0), (judged & ~target, NEGATIVE_WEIGHT)):
        count = side.sum(0)  # (A,)
        seen = count > 0
        if bool(seen.any()):
            total = total + weight * ((loss * side).sum(0)[seen] / count[seen]).mean()
    return total


def finding_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy over (B, A); entries of -1 are unknown and left out."""
    known = truth >= 0
    if not bool(known.any()):
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits[known], truth[known])


def localization_losses(logits: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Cross entropy between the softmax over grid cells and where each text's target lies.

    Parameters
    ----------
    logits: (N, d, h, w) scaled cosines, one row per text that is in the scan.
    mass: (N, d, h, w) share of the target per cell; any positive sum.

    Returns
    -------
    (N,), one loss per text.
    """
    if len(logits) == 0:
        return logits.new_zeros(0)
    target = F.avg_pool3d(mass[:, None], 3, 1, 1)[:, 0] + mass  # a little blur: neighbours are not wrong
    target = target.flatten(1) / target.flatten(1).sum(1, keepdim=True).clamp_min(1e-6)
    return -(target * logits.float().flatten(1).log_softmax(1)).sum(1)


def organ_text_loss(
    organ: torch.Tensor, names: torch.Tensor, present: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """CT-GLIP's organ-text alignment: each organ embedding against all organ names.

    Parameters
    ----------
    organ: (B, O, E) unit length; names: (O, E) unit length; present: (B, O) bool.
    """
    logits = torch.einsum("boe,pe->bop", organ, names) * scale
    target = torch.arange(names.shape[0], device=logits.device).expand(organ.shape[0], -1)
    if not bool(present.any()):
        return logits.sum() * 0
    return F.cross_entropy(logits[present], target[present])


def sigmoid_alignment_loss(
    volume: torch.Tensor,
    report: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    same: torch.Tensor | None = None,
) -> torch.Tensor:
    """SigLIP: every volume-report pair of the batch is a yes-or-no question.

    Parameters
    ----------
    volume, report: (B, E) unit length, row i belongs to row i.
    same: (B, B) bool, pairs that are right, the diagonal among them; None: the diagonal alone.
    """
    logits = volume @ report.T * scale + bias
    right = torch.eye(len(volume), dtype=torch.bool, device=logits.device) if same is None else same
    return -F.logsigmoid(torch.where(right, logits, -logits)).mean()
