"""The judge's objective: which whole candidates are lesions, on candidates of many patients.

Encoder, masks and their texts are frozen; they read a window once and give the candidates that the
reader would see. Those that touch a lesion of their kind are true, the others are not: the judge
learns from what its own masks get wrong. Our choice; neither paper judges candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from core_model.abnormality import abnormalities
from core_model.candidates import CandidateView, candidates, describe_all, evidence
from core_model.grounding import text_masks
from core_model.masks import Region, region_of
from core_model.model import SightlineModel
from core_model.volume import window
from training.crop_views import encode
from training.samples import Crop
from training.text_bank import TextBank, draw
from training.window_memory import Records

PER_WINDOW = 20  # candidates of one kind that are kept: the weakest teach little; our choice


@dataclass(frozen=True)
class Candidates(Records):
    """Candidates with what the judge reads of them and what is true; the first axis counts them.

    Attributes
    ----------
    described: (N, F), of `core_model.candidates.CandidateView.describe`.
    evidence: (N,), of `core_model.candidates.evidence`.
    kind: (N,) int64, index of the abnormality whose text made it.
    true: (N,) bool, whether it touches a lesion of that kind.
    """

    described: torch.Tensor
    evidence: torch.Tensor
    kind: torch.Tensor
    true: torch.Tensor


@torch.no_grad()
def read_candidates(
    model: SightlineModel, bank: TextBank, batch: Crop, rng: np.random.Generator, threshold: float
) -> list[Candidates]:
    """The candidates of each window of a batch that has any.

    Parameters
    ----------
    threshold: of a voxel's probability, as `core_model.thresholds.Thresholds.mask`.
    """
    x = window(batch.hu).contiguous(memory_format=torch.channels_last_3d)
    encoded = encode(model, x, batch)
    kinds = [i for i, a in enumerate(abnormalities()) if a.tumour]
    text = model.project_text(draw(bank.present, rng)[kinds])
    masks = text_masks(encoded.dense, text.mask_weight, text.mask_bias).float().sigmoid()  # (B, K, D, H, W)
    organ = encoded.organ_logits.float().softmax(1)
    found = []
    for b in range(len(batch.hu)):
        view = CandidateView.of(batch.hu[b, 0], encoded.dense[b], organ[b])
        regions = region_of(organ[b], model.config.spacing_mm, (abnormalities()[k].organ for k in kinds))
        maps = dict(zip(kinds, masks[b], strict=True))
        one = _of_window(view, maps, regions, batch.lesions[b].cpu().numpy(), threshold)
        if one is not None:
            found.append(one.map(lambda t: t.to(batch.hu.device)))
    return found


def _of_window(
    view: CandidateView,
    maps: dict[int, torch.Tensor],
    regions: dict[str, Region],
    lesions: npt.NDArray[np.uint8],
    threshold: float,
) -> Candidates | None:
    """Candidates of one window; `maps` by index of the abnormality, None where there are none."""
    parts = []
    for index, mask in maps.items():
        name = abnormalities()[index].organ
        pieces = candidates(mask, regions[name], threshold, PER_WINDOW)
        if pieces:
            own = lesions == index + 1
            parts.append(
                Candidates(
                    described=describe_all(view, pieces, name, mask, regions[name]),
                    evidence=torch.tensor([evidence(p.score) for p in pieces]),
                    kind=torch.full((len(pieces),), index),
                    true=torch.tensor([bool((p.mask & own).any()) for p in pieces]),
                )
            )
    return Candidates.joined(parts) if parts else None


def candidate_logits(
    model: SightlineModel, bank: TextBank, found: Candidates, rng: np.random.Generator
) -> torch.Tensor:
    """(N,) logits of candidates, each judged by one wording of its kind."""
    text = model.project_text(draw(bank.present, rng))
    weight, bias = text.judge_weight[found.kind], text.judge_bias[found.kind]
    return model.candidate_logits(found.described, found.evidence, weight, bias)


def candidate_objective(
    model: SightlineModel, bank: TextBank, found: Candidates, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """The judge's loss of some candidates: ``{"candidates": ...}``; kinds count the same.

    Kinds have few or many candidates, and many false ones must not decide for all.
    """
    with torch.random.fork_rng():  # what dropout leaves out follows from `rng` too
        torch.manual_seed(int(rng.integers(2**63)))
        logits = candidate_logits(model, bank, found, rng)
    each = F.binary_cross_entropy_with_logits(logits.float(), found.true.float(), reduction="none")
    per_kind = [each[found.kind == k].mean() for k in set(found.kind.tolist())]
    return {"candidates": torch.stack(per_kind).mean()}


__all__ = ["Candidates", "candidate_logits", "candidate_objective", "read_candidates"]
