"""The lesion stage's objective: text-conditioned masks in small boxes round lesions and organs.

A frozen encoder reads the whole window once; only boxes of it go through the lesion decoder.
Tumours of 15 mm are some thirty voxels: whole windows would spend nearly all work on voxels that
teach nothing. Our choice; the language heads are trained by `training.objective`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.grounding import text_masks
from core_model.image_encoder import ImageFeatures
from core_model.model import SightlineModel
from core_model.volume import window
from training.losses import lesion_box_loss
from training.objective import TextBank, draw, mask_targets, organ_shares
from training.samples import Sample

STEP = 4  # voxels: corners lie on the coarsest grid that the decoder reads
ON_LESIONS = 0.6  # share of the boxes that are put on a lesion, where the window has one; our choice
TUMOUR_WEIGHT = 2.0  # of a tumour against another abnormality when a box is put on a lesion; our choice


@dataclass(frozen=True)
class Box:
    """A cube of a window.

    Attributes
    ----------
    sample: index in the batch.
    corner: (z, y, x) first voxel, multiples of `STEP`.
    """

    sample: int
    corner: tuple[int, int, int]


def choose_boxes(batch: Sample, rng: np.random.Generator, n: int, side: int) -> list[Box]:
    """`n` boxes of `side` voxels per sample: on lesions, and on organs that are searched.

    Raises
    ------
    ValueError: if `side` is no multiple of 4, below 16, or larger than the window.
    """
    shape = batch.organs.shape[1:]
    if side % STEP or not 4 * STEP <= side <= min(shape):
        raise ValueError(f"side is {side}; a multiple of {STEP} from {4 * STEP} to {min(shape)} is needed")
    boxes = []
    for b in range(len(batch.organs)):
        lesions = _voxels(batch.lesions[b], {i + 1: _weight(a.tumour) for i, a in enumerate(abnormalities())})
        searched = _voxels(batch.organs[b], {organ(a.organ).label: 1.0 for a in abnormalities()})
        for _ in range(n):
            pool = lesions if lesions and rng.random() < ON_LESIONS else searched
            boxes.append(Box(b, _corner(pool, rng, shape, side)))
    return boxes


def _weight(tumour: bool) -> float:
    return TUMOUR_WEIGHT if tumour else 1.0


def _voxels(labels: torch.Tensor, weights: dict[int, float]) -> list[tuple[torch.Tensor, float]]:
    """(voxel indices, weight) of each value of `weights` that is in `labels`."""
    found = [((labels == value).nonzero(), weight) for value, weight in weights.items()]
    return [(where, weight) for where, weight in found if len(where)]


def _corner(
    pool: list[tuple[torch.Tensor, float]], rng: np.random.Generator, shape: torch.Size, side: int
) -> tuple[int, int, int]:
    if pool:
        weights = np.array([w for _, w in pool])
        where, _ = pool[int(rng.choice(len(pool), p=weights / weights.sum()))]
        centre = where[int(rng.integers(len(where)))].cpu().numpy()
    else:
        centre = rng.integers(0, shape)
    shift = rng.integers(-side // 4, side // 4 + 1, 3)
    low = np.clip(centre + shift - side // 2, 0, np.array(shape) - side) // STEP * STEP
    return int(low[0]), int(low[1]), int(low[2])


def cut(tensor: torch.Tensor, boxes: list[Box], side: int, scale: int = 1) -> torch.Tensor:
    """The boxes of a tensor whose voxels are `scale` window voxels wide.

    Parameters
    ----------
    tensor: (B, ..., D / scale, H / scale, W / scale).

    Returns
    -------
    (N, ..., side / scale, side / scale, side / scale).
    """
    n = side // scale
    parts = []
    for box in boxes:
        z, y, x = (c // scale for c in box.corner)
        parts.append(tensor[box.sample, ..., z : z + n, y : y + n, x : x + n])
    return torch.stack(parts)


def lesion_objective(
    model: SightlineModel, bank: TextBank, batch: Sample, rng: np.random.Generator, *, n: int, side: int
) -> dict[str, torch.Tensor]:
    """The lesion stage's loss: ``{"masks": ...}``.

    Parameters
    ----------
    n: boxes per sample.
    side: of a box in voxels, a multiple of 4.
    """
    boxes = choose_boxes(batch, rng, n, side)
    with torch.no_grad():
        x = window(batch.hu).contiguous(memory_format=torch.channels_last_3d)
        whole = model.image(x)
    features = ImageFeatures(
        fine=_channels_last(cut(whole.fine, boxes, side)),
        half=_channels_last(cut(whole.half, boxes, side, 2)),
        quarter=_channels_last(cut(whole.quarter, boxes, side, 4)),
        organ_logits=whole.organ_logits,
    )
    dense = model.lesion_decoder(_channels_last(cut(x, boxes, side)), features)  # (N, C, s, s, s)
    text = model.project_text(draw(bank.present, rng))
    logits = text_masks(dense, text.mask_weight, text.mask_bias)  # (N, A, s, s, s)
    truth = Sample(
        hu=batch.hu,
        organs=cut(batch.organs, boxes, side),
        lesions=cut(batch.lesions, boxes, side),
        findings=batch.findings[[box.sample for box in boxes]],
    )
    target, region = mask_targets(truth, organ_shares(truth.organs), torch.arange(len(abnormalities())))
    return {"masks": lesion_box_loss(logits, target, region)}


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


__all__ = ["Box", "choose_boxes", "cut", "lesion_objective"]
