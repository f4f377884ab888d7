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
from training.phantoms.tissues import IGNORE
from training.prompts import texts_against, texts_for, texts_of_organ
from training.samples import MIN_ORGAN_VOXELS, Sample

# Diffuse abnormalities have no lesion mask: their mask is the organ itself.
DIFFUSE = ("hepatic_steatosis",)


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


def _draw(bank: tuple[torch.Tensor, ...], rng: np.random.Generator) -> torch.Tensor:
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
    encoded = model.encode_image(
        window(batch.hu).contiguous(memory_format=torch.channels_last_3d)
    )
    chosen = _choose(batch.findings, n_texts, rng)
    present = model.project_text(_draw(bank.present, rng))
    absent = model.project_text(_draw(bank.absent, rng))
    names = model.project_text(_draw(bank.organ, rng))
    n_organs = len(organs())
    one_hot = F.one_hot(
        torch.where(batch.organs == IGNORE, 0, batch.organs), n_organs + 1
    )[..., 1:].permute(0, 4, 1, 2, 3)  # (B, O, D, H, W)
    in_view = one_hot.flatten(2).sum(-1) >= MIN_ORGAN_VOXELS  # (B, O)
    shares = F.avg_pool3d(one_hot.float(), 2)  # (B, O, d, h, w)
    pooled = model.organ_pooling(encoded.grid.float(), shares)  # (B, O, E)
    losses = {
        "organs": organ_loss(encoded.organ_logits, batch.organs),
        "organ_text": organ_text_loss(pooled, names.embedding, in_view, model.organ_scale),
    }
    losses |= _abnormality_losses(model, encoded, batch, one_hot, pooled, present, absent, chosen)
    losses["localization"] = _localization(model, encoded, batch, shares, in_view, present, names, rng)
    losses["report"] = _report(model, encoded, batch, present, absent)
    return losses


def _choose(findings: torch.Tensor, n: int, rng: np.random.Generator) -> torch.Tensor:
    """Indices of `n` abnormalities: present ones first, the rest at random."""
    score = (findings == 1).any(0).float() * 2 + torch.from_numpy(rng.random(findings.shape[1]))
    return score.topk(min(n, findings.shape[1])).indices


def _targets(batch: Sample, one_hot: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lesion masks and organ regions of the chosen abnormalities, both (B, T, D, H, W) bool."""
    label = {o.name: o.label for o in organs()}
    targets, regions = [], []
    for index in chosen.tolist():
        entry = abnormalities()[index]
        organ = one_hot[:, label[entry.organ] - 1]
        grown = F.max_pool3d(organ[:, None].float(), 5, 1, 2)[:, 0] > 0.5
        here = batch.lesions == index + 1
        if entry.name in DIFFUSE:
            here = (organ > 0) & (batch.findings[:, index] == 1)[:, None, None, None]
        targets.append(here)
        regions.append(grown | here)
    return torch.stack(targets, 1), torch.stack(regions, 1)


def _abnormality_losses(
    model: SightlineModel,
    encoded: Encoded,
    batch: Sample,
    one_hot: torch.Tensor,
    pooled: torch.Tensor,
    present: EncodedText,
    absent: EncodedText,
    chosen: torch.Tensor,
) -> dict[str, torch.Tensor]:
    target, region = _targets(batch, one_hot, chosen)
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
    shares: torch.Tensor,
    in_view: torch.Tensor,
    present: EncodedText,
    names: EncodedText,
    rng: np.random.Generator,
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
        for o in seen[torch.from_numpy(rng.permutation(len(seen)))][:3].tolist():
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
