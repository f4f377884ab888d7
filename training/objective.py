"""One training step's objective: batch in, named losses out.

Puts the model and the losses together; knows no optimiser and no files. Only what is asked for
is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.grounding import MIN_SHARE, cell_logits, text_masks, top_logit
from core_model.image_encoder import ImageFeatures
from core_model.inference import BODY_HU
from core_model.model import Encoded, EncodedText, SightlineModel
from core_model.volume import window
from training.contrastive import abnormality_text_loss, organ_sentences
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
from training.samples import MIN_ORGAN_VOXELS, Crop
from training.snippets import snippet_loss
from training.text_bank import TextBank, draw

LOSSES = frozenset(
    {
        "organs",
        "coarse_organs",
        "masks",
        "findings",
        "organ_text",
        "abnormality_text",
        "localization",
        "snippets",
        "report",
    }
)
POOLED_CELLS = 400  # of an organ, about; our choice


@dataclass(frozen=True)
class Plan:
    """What of the objective is computed.

    Attributes
    ----------
    losses: names, of `LOSSES`.
    n_texts: abnormalities whose masks and findings are judged; those present come first.
    dictionary: the abnormality dictionary supplies extra texts for abnormality-text alignment.
    correct: false-negative correction in all contrastive losses.

    Raises
    ------
    ValueError: if there is no loss of a name.
    """

    losses: frozenset[str] = LOSSES
    n_texts: int = 6
    dictionary: bool = True
    correct: bool = True

    def __post_init__(self) -> None:
        unknown = sorted(self.losses - LOSSES)
        if unknown:
            raise ValueError(f"loss {unknown[0]!r} is unknown; choose of {', '.join(sorted(LOSSES))}")


@dataclass(frozen=True)
class _Scene:
    """What the losses of one batch share.

    Attributes
    ----------
    grid: (B, E, d, h, w) float32.
    present, absent: one wording per abnormality; names: one per organ.
    """

    model: SightlineModel
    bank: TextBank
    batch: Crop
    rng: np.random.Generator
    plan: Plan
    encoded: Encoded
    grid: torch.Tensor
    present: EncodedText
    absent: EncodedText
    names: EncodedText

    @cached_property
    def shares(self) -> torch.Tensor:
        """(B, O, d, h, w) of the true organs, see `organ_shares`."""
        return organ_shares(self.batch.organs)

    @cached_property
    def pooled_over(self) -> torch.Tensor:
        """(B, O, d, h, w) that embeddings are pooled over.

        A frozen encoder's own organs are what the reader will pool over, its errors included.
        """
        return thinned(self.shares if self.batch.shares is None else self.batch.shares, self.rng)

    @cached_property
    def in_view(self) -> torch.Tensor:
        """(B, O) bool."""
        return self.shares.flatten(2).sum(-1) * 8 >= MIN_ORGAN_VOXELS

    def wants(self, *names: str) -> bool:
        return not self.plan.losses.isdisjoint(names)


def objective(
    model: SightlineModel,
    bank: TextBank,
    batch: Crop,
    rng: np.random.Generator,
    plan: Plan,
) -> dict[str, torch.Tensor]:
    """The planned losses of one batch by name; organ masks only where the encoder is trained."""
    x = window(batch.hu).contiguous(memory_format=torch.channels_last_3d)
    masked = {"masks", "findings"} if batch.evidence is None else {"masks"}
    encoded = encode(model, x, batch, lesions=not plan.losses.isdisjoint(masked))
    chosen = _choose(batch.findings, plan.n_texts, rng)
    scene = _Scene(
        model=model,
        bank=bank,
        batch=batch,
        rng=rng,
        plan=plan,
        encoded=encoded,
        grid=encoded.grid.float(),
        present=model.project_text(draw(bank.present, rng)),
        absent=model.project_text(draw(bank.absent, rng)),
        names=model.project_text(draw(bank.organ, rng)),
    )
    losses: dict[str, torch.Tensor] = {}
    if encoded.organ_logits.requires_grad:  # not with a frozen encoder
        losses |= _organ_losses(scene)
    if scene.wants("organ_text", "abnormality_text", "masks", "findings"):
        losses |= _grounded_losses(scene, chosen)
    if scene.wants("localization"):
        losses["localization"] = _localization(scene)
    if scene.wants("snippets", "report"):
        losses |= _summary_losses(scene)
    return losses


def features_of(model: SightlineModel, x: torch.Tensor, batch: Crop) -> ImageFeatures:
    """Of (B, 2, D, H, W) windowed CT; a batch that a frozen encoder has read is not read again."""
    if batch.features is None:
        read: ImageFeatures = model.image(x)
        return read
    layout = torch.channels_last_3d  # as the encoder gives them; heads look at cells, one after another
    held = {f.name: getattr(batch.features, f.name) for f in fields(batch.features)}
    return ImageFeatures(**{k: v.contiguous(memory_format=layout) for k, v in held.items()})


def encode(model: SightlineModel, x: torch.Tensor, batch: Crop, *, lesions: bool = True) -> Encoded:
    """`SightlineModel.encode_image` on `features_of`."""
    return model.encode_features(features_of(model, x, batch), x, lesions=lesions)


def _organ_losses(scene: _Scene) -> dict[str, torch.Tensor]:
    losses = {}
    if scene.wants("organs"):
        losses["organs"] = organ_loss(scene.encoded.organ_logits, scene.batch.organs)
    if scene.wants("coarse_organs"):
        losses["coarse_organs"] = _coarse_organs(scene.encoded, scene.batch.organs)
    return losses


def _grounded_losses(scene: _Scene, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """CT-GLIP's two alignments, text-conditioned masks and prompt supervision."""
    model, batch, present = scene.model, scene.batch, scene.present
    pooled = model.organ_pooling(scene.grid, scene.pooled_over)  # (B, O, E)
    losses = {}
    if scene.wants("organ_text"):
        losses["organ_text"] = organ_text_loss(
            pooled, scene.names.embedding, scene.in_view, model.organ_scale
        )
    if scene.wants("abnormality_text"):
        sentences = organ_sentences(model, scene.bank, batch.findings, scene.in_view, scene.rng)
        extra = present.embedding if scene.plan.dictionary else present.embedding[:0]
        losses["abnormality_text"] = abnormality_text_loss(
            model, sentences, pooled, batch.findings, extra, correct=scene.plan.correct
        )
    if scene.wants("masks", "findings"):
        evidence = None if batch.evidence is None else batch.evidence[:, chosen]
        if scene.wants("masks") or evidence is None:
            target, region = mask_targets(batch, scene.shares, chosen)
            logits = text_masks(scene.encoded.dense, present.mask_weight[chosen], present.mask_bias[chosen])
            if scene.wants("masks"):
                losses["masks"] = mask_loss(logits, target, region)
            if evidence is None:
                evidence = top_logit(logits.float().sigmoid(), region)
        if scene.wants("findings"):
            label = {o.name: o.label for o in organs()}
            organ_of = torch.tensor([label[abnormalities()[i].organ] - 1 for i in chosen.tolist()])
            scores = model.finding_logits(
                pooled[:, organ_of],
                present.embedding[chosen],
                scene.absent.embedding[chosen],
                evidence.nan_to_num(),
            )
            truth = torch.where(evidence.isnan(), -1.0, batch.findings[:, chosen])
            losses["findings"] = finding_loss(scores, truth)
    return losses


def _summary_losses(scene: _Scene) -> dict[str, torch.Tensor]:
    """RadFinder's alignments: slabs with snippets, the volume with its report."""
    model, losses = scene.model, {}
    whole = model.summarise(scene.grid, body_cells(scene.batch))
    if scene.wants("snippets"):
        losses["snippets"] = _snippets(model, whole.slabs, scene.batch)
    if scene.wants("report"):
        losses["report"] = _report(scene, whole.volume)
    return losses


def body_cells(batch: Crop) -> torch.Tensor:
    """(B, d, h, w) bool: half-resolution cells that show something denser than air, or an organ."""
    body = (batch.hu[:, 0] > BODY_HU) | (batch.organs > 0)  # (B, D, H, W)
    return F.max_pool3d(body.float(), 2) > 0


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


def thinned(shares: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Organ shares with some `POOLED_CELLS` cells of each larger organ, drawn anew each time.

    Whole scans are pooled over all cells. In training a sample of a lung's ten thousand says the same,
    costs a fraction, and keeps an organ from being known by its every cell. Our choice.

    Parameters
    ----------
    shares: (B, O, d, h, w), of `organ_shares`.
    """
    cells = (shares >= MIN_SHARE).sum((2, 3, 4), keepdim=True)  # (B, O, 1, 1, 1)
    drawn = torch.from_numpy(rng.random((len(shares), 1, *shares.shape[2:]), dtype=np.float32))
    return shares * (drawn.to(shares.device) * cells < POOLED_CELLS)


def mask_targets(
    batch: Crop, shares: torch.Tensor, chosen: torch.Tensor
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


def _localization(scene: _Scene) -> torch.Tensor:
    """Every positive sentence, and three organ names per scan, against the scan's own cells."""
    model, encoded, batch, rng = scene.model, scene.encoded, scene.batch, scene.rng
    shares, in_view, present, names = scene.shares, scene.in_view, scene.present, scene.names
    rows, masses = [], []
    # Split at once: the gradient of each own slice would be as large as the whole batch.
    for b, grid in enumerate(torch.split(encoded.grid, 1)):  # (1, E, d, h, w)
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
            rows.append(cell_logits(grid, torch.stack(texts)[None], model.cell_scale)[0])
            masses.append(torch.stack(mass))
    if not rows:
        return encoded.grid.sum() * 0
    return localization_loss(torch.cat(rows), torch.cat(masses))


def _snippets(model: SightlineModel, slabs: torch.Tensor, batch: Crop) -> torch.Tensor:
    """Every report sentence of a scan against the scan's own slabs."""
    pairs = [(b, s) for b, own in enumerate(batch.snippets) for s in own]
    if not pairs:
        return slabs.sum() * 0
    spacing = model.config.spacing_mm
    text = model.encode_text([s.text for _, s in pairs]).embedding  # (N, E)
    sample = torch.tensor([b for b, _ in pairs], device=slabs.device)
    position = torch.tensor([(s.slice_index + 0.5) * spacing for _, s in pairs], device=slabs.device)
    return snippet_loss(slabs, text, sample, position, 2 * spacing)


def _report(scene: _Scene, volume: torch.Tensor) -> torch.Tensor:
    """SigLIP between the volume and the mean of its report's sentences.

    Reports differ in how much they deny: a random share of what is absent goes unmentioned (our choice).
    Scans of the same findings count as each other's (false-negative correction).
    """
    model, findings = scene.model, scene.batch.findings
    truth = findings[..., None]  # (B, A, 1)
    share = scene.rng.random((len(findings), 1))
    said = torch.from_numpy(scene.rng.random(findings.shape) < share).to(truth.device)[..., None]
    sentences = torch.where(truth == 1, scene.present.report, scene.absent.report)
    sentences = sentences * ((truth == 1) | (said & (truth == 0)))
    report = F.normalize(sentences.sum(1) + 1e-6, dim=-1)  # (B, E)
    same = (findings[:, None] == findings[None]).all(-1) if scene.plan.correct else None
    return sigmoid_alignment_loss(volume, report, model.global_scale, model.global_bias, same)


__all__ = [
    "LOSSES",
    "Plan",
    "TextBank",
    "body_cells",
    "draw",
    "encode",
    "features_of",
    "mask_targets",
    "objective",
    "organ_shares",
    "thinned",
]
