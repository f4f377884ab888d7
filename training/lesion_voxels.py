"""The lesion stage's objective: text-conditioned masks on chosen voxels of many patients.

A frozen encoder reads a window once; of its voxels some thousand are kept: of every lesion, of
its surroundings, of every organ that is searched, and those on which the model is most wrong.
The point decoder judges each voxel by itself, so an update on thousands of voxels of many patients
costs less than reading one window. Our choice; the language heads are trained by
`training.objective`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from core_model.abnormality import abnormalities
from core_model.model import EncodedText, SightlineModel
from core_model.pooling import box_max
from core_model.volume import window
from training.crop_views import features_of, mask_targets, organ_shares
from training.losses import lesion_voxel_loss
from training.samples import Crop
from training.text_bank import TextBank, draw
from training.window_memory import Records

PER_LESION, PER_RIM, PER_ORGAN, PER_TEXT = 128, 96, 300, 60  # voxels kept; our choice
CANDIDATES = 4000  # per organ, of which the worst are kept
RIM = 2  # voxels round a lesion: half of each is lesion, so they are never among the worst


@dataclass(frozen=True)
class Voxels(Records):
    """Voxels with what the decoder reads there and what is true; the first axis counts them.

    Attributes
    ----------
    read: (N, F + C), of `core_model.point_decoder.PointInputs.at`.
    target: (N, A) bool, whether the voxel belongs to each abnormality.
    judged: (N, A) bool, whether it lies where the abnormality is searched.
    """

    read: torch.Tensor
    target: torch.Tensor
    judged: torch.Tensor


@torch.no_grad()
def read_voxels(model: SightlineModel, bank: TextBank, batch: Crop, rng: np.random.Generator) -> list[Voxels]:
    """The chosen voxels of each window of a batch, read by the frozen encoder."""
    x = window(batch.hu).contiguous(memory_format=torch.channels_last_3d)
    features = features_of(model, x, batch)
    drawn = model.half_organ_head(features.half)
    inputs = model.lesion_decoder.inputs(x, model.decoder_organs(features.half, drawn))
    target, region = mask_targets(batch, organ_shares(batch.organs), torch.arange(len(abnormalities())))
    text = model.project_text(draw(bank.present, rng))
    chosen = []
    for b in range(len(batch.hu)):
        sure, spare = choose_places(batch.lesions[b], region[b], rng)
        both = torch.cat([sure, spare])
        read = inputs.at(b, both)
        logits = text_logits(model, text, read)  # (N, A)
        found = Voxels(read, _at(target[b], both), _at(region[b], both))
        wrong = logits.masked_fill(~found.judged | _at(_grown(target[b]), both), -torch.inf)
        top = wrong[len(sure) :].topk(min(PER_TEXT, len(spare)), 0)
        worst = top.indices[top.values > -torch.inf]
        keep = torch.cat([torch.arange(len(sure), device=worst.device), len(sure) + torch.unique(worst)])
        chosen.append(found.at(keep))
    return chosen


def choose_places(
    lesions: torch.Tensor, region: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxels to keep, and voxels of which only the worst are kept.

    Parameters
    ----------
    lesions: (D, H, W), as in `Crop`.
    region: (A, D, H, W) bool, where each abnormality is searched.

    Returns
    -------
    (N, 3) and (M, 3) indices: of each lesion and its surroundings and of each organ; of each organ.
    """
    labels, n = ndimage.label(lesions.cpu().numpy() > 0, np.ones((3, 3, 3)))
    sure, spare = [], []
    for index, box in enumerate(ndimage.find_objects(labels, n), start=1):
        low = [max(0, s.start - 3) for s in box]
        own = labels[tuple(slice(a, s.stop + 3) for a, s in zip(low, box, strict=True))] == index
        sure.append(_some(np.argwhere(own) + low, PER_LESION, rng))
        round_it = ndimage.binary_dilation(own, iterations=3) & ~own
        sure.append(_some(np.argwhere(round_it) + low, PER_RIM, rng))
    names = [a.organ for a in abnormalities()]
    for name in sorted(set(names)):
        where = _some(region[names.index(name)].nonzero().cpu().numpy(), PER_ORGAN + CANDIDATES, rng)
        sure.append(where[:PER_ORGAN])
        spare.append(where[PER_ORGAN:])
    here = lesions.device
    return torch.from_numpy(np.concatenate(sure)).to(here), torch.from_numpy(np.concatenate(spare)).to(here)


def _some(where: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return where[rng.permutation(len(where))[:count]]


def _at(volumes: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """(A, D, H, W) at (N, 3) voxels: (N, A)."""
    z, y, x = voxels.unbind(1)
    return volumes[:, z, y, x].T


def _grown(target: torch.Tensor) -> torch.Tensor:
    """(A, D, H, W) bool masks with `RIM` voxels more on every side."""
    grown = target.clone()
    for a in target.flatten(1).any(1).nonzero().flatten().tolist():
        grown[a] = box_max(target[a][None, None].float(), 2 * RIM + 1)[0, 0] > 0
    return grown


def text_logits(model: SightlineModel, text: EncodedText, read: torch.Tensor) -> torch.Tensor:
    """(N, A) logits that each voxel belongs to each of some texts."""
    return F.linear(model.lesion_decoder.points(read), text.mask_weight, text.mask_bias)


def lesion_objective(
    model: SightlineModel, bank: TextBank, voxels: Voxels, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """The lesion stage's loss of some voxels: ``{"masks": ...}``."""
    logits = text_logits(model, model.project_text(draw(bank.present, rng)), voxels.read)
    return {"masks": lesion_voxel_loss(logits, voxels.target, voxels.judged)}


__all__ = [
    "Voxels",
    "choose_places",
    "lesion_objective",
    "read_voxels",
    "text_logits",
]
