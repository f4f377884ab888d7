"""One training step's objective: batch in, named losses out.

In two parts, so that a step may have more crops than a device can hold: `view` passes crops through the model
and keeps little of each, `losses_of` makes the losses of all of them, contrastive ones over the full batch
(`training.parallel` joins views of several devices and passes). Knows no optimiser and no files. Only what is
asked for is computed.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from core_model.model import SightlineModel
from training.contrastive import abnormality_text_loss, organ_sentences
from training.crop_views import view
from training.losses import (
    finding_loss,
    mask_loss_of,
    organ_loss_of,
    organ_text_loss,
    sigmoid_alignment_loss,
)
from training.plan import Draw, Plan, draw_step
from training.samples import Crop
from training.text_bank import TextBank
from training.views import Views


def objective(
    model: SightlineModel,
    bank: TextBank,
    batch: Crop,
    rng: np.random.Generator,
    plan: Plan,
) -> dict[str, torch.Tensor]:
    """The planned losses of one batch by name; organ masks only where the encoder is trained."""
    drawn = draw_step(bank, batch.findings, rng, plan)
    return losses_of(model, bank, view(model, bank, batch, drawn, plan), drawn, rng=rng, plan=plan)


def losses_of(
    model: SightlineModel, bank: TextBank, views: Views, drawn: Draw, *, rng: np.random.Generator, plan: Plan
) -> dict[str, torch.Tensor]:
    """The planned losses of a step from the views of all its crops; none of them sees a voxel."""
    losses: dict[str, torch.Tensor] = {}
    if "organs" in views and "organs" in plan.losses:
        losses["organs"] = organ_loss_of(views["organs"])
    if "half_organs" in views:
        half, quarter = (organ_loss_of(views[f"{name}_organs"]) for name in ("half", "quarter"))
        losses["coarse_organs"] = half + 0.5 * quarter
    if "organ_text" in plan.losses:
        names = model.project_text(drawn.names).embedding
        losses["organ_text"] = organ_text_loss(
            views["pooled"], names, views["in_view"].bool(), model.organ_scale
        )
    if "abnormality_text" in plan.losses:
        losses["abnormality_text"] = _abnormality_text(model, bank, views, drawn, rng=rng, plan=plan)
    if "masks" in plan.losses:
        losses["masks"] = mask_loss_of(views["masks"])
    if "findings" in plan.losses:
        scores, truth = views["findings"].unbind(-1)
        losses["findings"] = finding_loss(scores, truth)
    for name in ("localization", "snippets"):
        if name in plan.losses:
            total, count = views[name].sum(0)
            losses[name] = total / count.clamp_min(1)
    if "report" in plan.losses:
        losses["report"] = _report(model, views, drawn, rng, plan)
    return losses


def _abnormality_text(
    model: SightlineModel, bank: TextBank, views: Views, drawn: Draw, *, rng: np.random.Generator, plan: Plan
) -> torch.Tensor:
    truth, in_view = views["truth"], views["in_view"].bool()
    said, code = views["said"], views["said_code"]
    sentences = organ_sentences(model, bank, truth, in_view, rng, said=said, said_code=code)
    dictionary = model.project_text(drawn.present).embedding
    extra = dictionary if plan.dictionary else dictionary[:0]
    return abnormality_text_loss(model, sentences, views["pooled"], truth, extra, correct=plan.correct)


def _report(
    model: SightlineModel, views: Views, drawn: Draw, rng: np.random.Generator, plan: Plan
) -> torch.Tensor:
    """SigLIP between the volume and the mean of its report's sentences.

    A phantom's report is made up: reports differ in how much they deny, so that a random share of what is
    absent goes unmentioned (our choice). Scans of the same findings count as each other's, and so do scans
    of the same own words (false-negative correction).
    """
    findings, length = views["truth"], views["own_report_length"]
    present, absent = (model.project_text(t).report for t in (drawn.present, drawn.absent))
    truth = findings[..., None]  # (B, A, 1)
    share = rng.random((len(findings), 1))
    said = torch.from_numpy(rng.random(findings.shape) < share).to(truth.device)[..., None]
    sentences = torch.where(truth == 1, present, absent)
    made_up = (sentences * ((truth == 1) | (said & (truth == 0)))).sum(1)  # (B, E)
    spoken = length > 0
    summed, words = made_up, views["own_report"]
    if bool(spoken.any()):
        written = torch.arange(words.shape[1], device=length.device) < length[:, None]  # (B, S)
        own = (
            torch.unflatten(model.project_text(words.flatten(0, 1)).report, 0, written.shape)
            * written[..., None]
        )
        summed = torch.where(spoken[:, None], own.sum(1), made_up)
    report = F.normalize(summed + 1e-6, dim=-1)  # (B, E)
    same = None
    if plan.correct:
        same = (findings[:, None] == findings[None]).all(-1) & ~(spoken[:, None] | spoken[None])
        same |= (words[:, None] == words[None]).flatten(2).all(-1) & spoken[:, None] & spoken[None]
    return sigmoid_alignment_loss(views["volume"], report, model.global_scale, model.global_bias, same)


__all__ = ["losses_of", "objective"]
