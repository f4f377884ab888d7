"""One training step's objective: batch in, named losses out.

Puts the model and `training.losses` together; knows no optimiser and no files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.grounding import cell_logits, text_masks, top_logit
from core_model.model import Encoded, EncodedText, SightlineModel
from core_model.volume import window
from training.losses import (
    finding_loss,
    localization_loss,
    mask_loss,
    organ_loss,
    organ_text_loss,
    sigmoid_alignment_loss,
)
from training.phantoms.disorders import UNMASKED
from training.phantoms.tissues import IGNORE
from training.prompts import texts_against, texts_for, texts_of_organ
from training.samples import MIN_ORGAN_VOXELS, Sample


@dataclass(frozen=True)
class TextBank:
    """Sentence embeddings of every wording, computed once: the tower is frozen.

    Attributes
    ----------
    present, absent: per abnormality (W, width); organ: per organ (W, width).
    """

    present: tuple[torch.Tensor, ...]
    absent: tuple[torch.Tensor, ...]
    organ: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, model: SightlineModel) -> TextBank:
        """Embed all wordings of the dictionary and the organ table."""
        return cls(
            present=tuple(model.text(texts_for(a)) for a in abnormalities()),
            absent=tuple(model.text(texts_against(a)) for a in abnormalities()),
            organ=tuple(model.text(texts_of_organ(o)) for o in organs()),
        )


def draw(bank: tuple[torch.Tensor, ...], rng: np.random.Generator) -> torch.Tensor:
    """One wording of each: (N, width)."""
    return torch.stack([wordings[int(rng.integers(len(wordings)))] for wordings in bank])


def objective(
    model: SightlineModel, bank: TextBank, batch: Sample, rng: np.random.Generator, n_texts: int
) -> dict[str, torch.Tensor]:
    """All losses of one batch by name; see `training.losses` for each.

    Parameters
    ----------
    n_texts: abnormalities whose masks and findings are judged; those present come first.
    """
    encoded = model.encode_image(window(batch.hu).contiguous(memory_format=torch.channels_last_3d))
    chosen = _choose(batch.findings, n_texts, rng)
    present = model.project_text(draw(bank.present, rng))
    absent = model.project_text(draw(bank.absent, rng))
    names = model.project_text(draw(bank.organ, rng))
    shares = organ_shares(batch.organs)  # (B, O, d, h, w)
    in_view = shares.flatten(2).sum(-1) * 8 >= MIN_ORGAN_VOXELS  # (B, O)
    pooled = model.organ_pooling(encoded.grid.float(), shares)  # (B, O, E)
    losses = {"organ_text": organ_text_loss(pooled, names.embedding, in_view, model.organ_scale)}
    if encoded.organ_logits.requires_grad:  # not with a frozen encoder
        losses["organs"] = organ_loss(encoded.organ_logits, batch.organs)
        losses["coarse_organs"] = _coarse_organs(encoded, batch.organs)
    losses |= _abnormality_losses(
        model, encoded, batch, chosen, shares=shares, pooled=pooled, present=present, absent=absent
    )
    losses["localization"] = _localization(
        model, encoded, batch, rng, shares=shares, in_view=in_view, present=present, names=names
    )
    losses["report"] = _report(model, encoded, batch, present, absent)
    return losses


def _coarse_organs(encoded: Encoded, target: torch.Tensor) -> torch.Tensor:
    """Deep supervision: the organ loss at half and at quarter resolution, on every 2nd and 4th voxel."""
    half, quarter = encoded.coarse_organ_logits
    return organ_loss(half, target[:, ::2, ::2, ::2]) + 0.5 * organ_loss(quarter, target[:, ::4, ::4, ::4])


def _choose(findings: torch.Tensor, n: int, rng: np.random.Generator) -> torch.Tensor:
    """Indices of `n` abnormalities: present ones first, the rest at random."""
    score = (findings == 1).any(0).float() * 2
    score = score + torch.from_numpy(rng.random(findings.shape[1])).to(score.device)
    return score.topk(min(n, findings.shape[1])).indices


def organ_shares(labels: torch.Tensor) -> torch.Tensor:
    """Share of each half-resolution cell that is each organ.

    Parameters
    ----------
    labels: (B, D, H, W) uint8 with `IGNORE`; even sides.

    Returns
    -------
    (B, O, D/2, H/2, W/2) float32.
    """
    index = torch.where(labels == IGNORE, 0, labels).long()[:, None]
    b, _, d, h, w = index.shape
    shares = torch.zeros(b, len(organs()) + 1, d // 2, h // 2, w // 2, device=labels.device)
    eighth = torch.full((b, 1, d // 2, h // 2, w // 2), 0.125, device=labels.device)
    for z in (0, 1):
        for y in (0, 1):
            for x in (0, 1):
                shares.scatter_add_(1, index[:, :, z::2, y::2, x::2], eighth)
    return shares[:, 1:]


def mask_targets(
    batch: Sample, shares: torch.Tensor, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lesion masks and organ regions of the chosen abnormalities, both (B, T, D, H, W) bool."""
    label = {o.name: o.label for o in organs()}
    entries = [abnormalities()[i] for i in chosen.tolist()]
    organ = shares[:, [label[e.organ] - 1 for e in entries]]  # (B, T, d, h, w)
    grown = F.max_pool3d(organ, 3, 1, 1) > 0  # 8 mm round the organ
    region = F.interpolate(grown.float(), scale_factor=2.0, mode="nearest") > 0
    targets = []
    for index, entry in zip(chosen.tolist(), entries, strict=True):
        here = batch.lesions == index + 1
        if entry.name in UNMASKED:  # their mask is the organ itself
            positive = (batch.findings[:, index] == 1)[:, None, None, None]
            here = (batch.organs == label[entry.organ]) & positive
        targets.append(here)
    target = torch.stack(targets, 1)
    return target, region | target


def _abnormality_losses(
    model: SightlineModel,
    encoded: Encoded,
    batch: Sample,
    chosen: torch.Tensor,
    *,
    shares: torch.Tensor,
    pooled: torch.Tensor,
    present: EncodedText,
    absent: EncodedText,
) -> dict[str, torch.Tensor]:
    target, region = mask_targets(batch, shares, chosen)
    logits = text_masks(encoded.dense, present.mask_weight[chosen], present.mask_bias[chosen])
    label = {o.name: o.label for o in organs()}
    organ_of = torch.tensor([label[abnormalities()[i].organ] - 1 for i in chosen.tolist()])
    evidence = top_logit(logits.float().sigmoid(), region)
    scores = model.finding_logits(
        pooled[:, organ_of], present.embedding[chosen], absent.embedding[chosen], evidence
    )
    return {
        "masks": mask_loss(logits, target, region),
        "findings": finding_loss(scores, batch.findings[:, chosen]),
    }


def _localization(
    model: SightlineModel,
    encoded: Encoded,
    batch: Sample,
    rng: np.random.Generator,
    *,
    shares: torch.Tensor,
    in_view: torch.Tensor,
    present: EncodedText,
    names: EncodedText,
) -> torch.Tensor:
    """Every positive sentence, and three organ names per scan, against the scan's own cells."""
    rows, masses = [], []
    for b in range(len(batch.hu)):
        texts, mass = [], []
        for index in (batch.findings[b] == 1).nonzero().flatten().tolist():
            here = batch.lesions[b] == index + 1
            if bool(here.any()):
                texts.append(present.embedding[index])
                mass.append(F.avg_pool3d(here[None, None].float(), 2)[0, 0])
        seen = in_view[b].nonzero().flatten()
        for o in seen.cpu()[torch.from_numpy(rng.permutation(len(seen)))][:3].tolist():
            texts.append(names.embedding[o])
            mass.append(shares[b, o])
        if texts:
            rows.append(cell_logits(encoded.grid[b : b + 1], torch.stack(texts)[None], model.cell_scale)[0])
            masses.append(torch.stack(mass))
    if not rows:
        return encoded.grid.sum() * 0
    return localization_loss(torch.cat(rows), torch.cat(masses))


def _report(
    model: SightlineModel, encoded: Encoded, batch: Sample, present: EncodedText, absent: EncodedText
) -> torch.Tensor:
    """SigLIP between the volume and the mean of its report's sentences."""
    volume = F.normalize(encoded.grid.float().mean((2, 3, 4)), dim=-1)  # (B, E)
    truth = batch.findings[..., None]  # (B, A, 1)
    sentences = torch.where(truth == 1, present.embedding, absent.embedding) * (truth >= 0)
    report = F.normalize(sentences.sum(1) + 1e-6, dim=-1)  # (B, E)
    return sigmoid_alignment_loss(volume, report, model.global_scale, model.global_bias)
