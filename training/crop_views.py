"""One pass of the model over crops, and what the objective keeps of each (`training.views`).

Everything that looks at voxels or grid cells is here; losses that couple crops are `training.objective`.
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
from training.losses import (
    localization_losses,
    mask_rows,
    organ_rows,
)
from training.own_words import OwnWords, own_words_rows
from training.phantoms.disorders import UNMASKED
from training.phantoms.tissues import IGNORE
from training.plan import Draw, Plan
from training.samples import MIN_ORGAN_VOXELS, Crop
from training.snippets import snippet_losses
from training.text_bank import TextBank
from training.views import Views

POOLED_CELLS = 400  # of an organ, about; our choice


@dataclass(frozen=True)
class _Scene:
    """What the views of one batch share.

    Attributes
    ----------
    grid: (B, E, d, h, w) float32.
    present, absent: one wording per abnormality; names: one per organ.
    generators: one per crop.
    """

    model: SightlineModel
    batch: Crop
    plan: Plan
    encoded: Encoded
    grid: torch.Tensor
    present: EncodedText
    absent: EncodedText
    names: EncodedText
    generators: tuple[np.random.Generator, ...]

    @cached_property
    def shares(self) -> torch.Tensor:
        """(B, O, d, h, w) of the true organs, see `organ_shares`."""
        return organ_shares(self.batch.organs)

    @cached_property
    def pooled_over(self) -> torch.Tensor:
        """(B, O, d, h, w) that embeddings are pooled over.

        A frozen encoder's own organs are what the reader will pool over, its errors included.
        """
        shares = self.shares if self.batch.shares is None else self.batch.shares
        rows = zip(torch.split(shares, 1), self.generators, strict=True)
        return torch.cat([thinned(one, rng) for one, rng in rows])

    @cached_property
    def in_view(self) -> torch.Tensor:
        """(B, O) bool."""
        return self.shares.flatten(2).sum(-1) * 8 >= MIN_ORGAN_VOXELS

    def wants(self, *names: str) -> bool:
        return not self.plan.losses.isdisjoint(names)


def view(model: SightlineModel, bank: TextBank, batch: Crop, drawn: Draw, plan: Plan) -> Views:
    """What the losses need of each crop of a batch: one pass of the model.

    Parameters
    ----------
    drawn: with the row seeds of this batch.

    Returns
    -------
    Tensors with one row per crop (`training.views`), so that those of several batches and devices can be
    joined before `losses_of`.
    """
    x = window(batch.hu).contiguous(memory_format=torch.channels_last_3d)
    masked = {"masks", "findings"} if batch.evidence is None else {"masks"}
    encoded = encode(model, x, batch, lesions=not plan.losses.isdisjoint(masked))
    scene = _Scene(
        model=model,
        batch=batch,
        plan=plan,
        encoded=encoded,
        grid=encoded.grid.float(),
        present=model.project_text(drawn.present),
        absent=model.project_text(drawn.absent),
        names=model.project_text(drawn.names),
        generators=tuple(np.random.default_rng(int(seed)) for seed in drawn.row_seeds),
    )
    views: Views = {"truth": batch.findings}
    if encoded.organ_logits.requires_grad or not torch.is_grad_enabled():
        views |= _organ_views(scene)
    if scene.wants("organ_text", "abnormality_text", "masks", "findings"):
        views |= _grounded_views(scene, drawn.chosen)
    if scene.wants("localization"):
        views["localization"] = _localization(scene)
    if scene.wants("snippets", "report"):
        views |= _summary_views(scene)
    if scene.wants("abnormality_text", "report"):
        own = batch.words or (OwnWords(),) * len(batch.findings)
        views |= own_words_rows(own, bank, scene.generators, batch.findings.device)
    return views


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


def _organ_views(scene: _Scene) -> Views:
    views, target = {}, scene.batch.organs
    if scene.wants("organs"):
        views["organs"] = organ_rows(scene.encoded.organ_logits, target)
    if scene.wants("coarse_organs"):  # deep supervision: on every 2nd and 4th voxel
        half, quarter = scene.encoded.coarse_organ_logits
        views["half_organs"] = organ_rows(half, target[:, ::2, ::2, ::2])
        views["quarter_organs"] = organ_rows(quarter, target[:, ::4, ::4, ::4])
    return views


def _grounded_views(scene: _Scene, chosen: torch.Tensor) -> Views:
    """For CT-GLIP's two alignments, text-conditioned masks and prompt supervision."""
    model, batch, present = scene.model, scene.batch, scene.present
    pooled = model.organ_pooling(scene.grid, scene.pooled_over)  # (B, O, E)
    views = {"pooled": pooled, "in_view": scene.in_view.float()}
    if scene.wants("masks", "findings"):
        evidence = None if batch.evidence is None else batch.evidence[:, chosen]
        if scene.wants("masks") or evidence is None:
            target, region = mask_targets(batch, scene.shares, chosen)
            logits = text_masks(scene.encoded.dense, present.mask_weight[chosen], present.mask_bias[chosen])
            if scene.wants("masks"):
                views["masks"] = mask_rows(logits, target, region)
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
            views["findings"] = torch.stack([scores, truth], -1)  # (B, T, 2)
    return views


def _summary_views(scene: _Scene) -> Views:
    """For RadFinder's alignments: slabs with snippets, the volume with its report."""
    views = {}
    whole = scene.model.summarise(scene.grid, body_cells(scene.batch))
    if scene.wants("snippets"):
        views["snippets"] = _snippets(scene.model, whole.slabs, scene.batch)
    if scene.wants("report"):
        views["volume"] = whole.volume
    return views


def body_cells(batch: Crop) -> torch.Tensor:
    """(B, d, h, w) bool: half-resolution cells that show something denser than air, or an organ."""
    body = (batch.hu[:, 0] > BODY_HU) | (batch.organs > 0)  # (B, D, H, W)
    return F.max_pool3d(body.float(), 2) > 0


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


def _sums(losses: torch.Tensor, sample: torch.Tensor, rows: int) -> torch.Tensor:
    """(B, 2): sum and count of some losses (N,) by the crop that each belongs to, (N,) int64."""
    pairs = torch.stack([losses, torch.ones_like(losses)], 1)  # (N, 2)
    return losses.new_zeros(rows, 2).index_add(0, sample, pairs)


def _localization(scene: _Scene) -> torch.Tensor:
    """Every positive sentence, and three organ names per scan, against the scan's own cells: `_sums`."""
    model, encoded, batch = scene.model, scene.encoded, scene.batch
    shares, in_view, present, names = scene.shares, scene.in_view, scene.present, scene.names
    logits, masses, sample = [], [], []
    # Split at once: the gradient of each own slice would be as large as the whole batch.
    for b, grid in enumerate(torch.split(encoded.grid, 1)):  # (1, E, d, h, w)
        texts, mass = [], []
        for index in (batch.findings[b] == 1).nonzero().flatten().tolist():
            here = batch.lesions[b] == index + 1
            if bool(here.any()):
                texts.append(present.embedding[index])
                mass.append(F.avg_pool3d(here[None, None].float(), 2)[0, 0])
        seen = in_view[b].nonzero().flatten()
        order = scene.generators[b].permutation(len(seen))
        for o in seen.cpu()[torch.from_numpy(order)][:3].tolist():
            texts.append(names.embedding[o])
            mass.append(shares[b, o])
        if texts:
            logits.append(cell_logits(grid, torch.stack(texts)[None], model.cell_scale)[0])
            masses.append(torch.stack(mass))
            sample += [b] * len(texts)
    rows = len(batch.findings)
    if not logits:
        return (encoded.grid.float() * 0).flatten(1).sum(1)[:, None].expand(rows, 2)
    losses = localization_losses(torch.cat(logits), torch.cat(masses))
    return _sums(losses, torch.tensor(sample, device=losses.device), rows)


def _snippets(model: SightlineModel, slabs: torch.Tensor, batch: Crop) -> torch.Tensor:
    """Every report sentence of a scan against the scan's own slabs: `_sums`."""
    pairs = [(b, s) for b, own in enumerate(batch.snippets) for s in own]
    if not pairs:
        return (slabs * 0).flatten(1).sum(1)[:, None].expand(len(slabs), 2)
    spacing = model.config.spacing_mm
    text = model.encode_text([s.text for _, s in pairs]).embedding  # (N, E)
    sample = torch.tensor([b for b, _ in pairs], device=slabs.device)
    position = torch.tensor([(s.slice_index + 0.5) * spacing for _, s in pairs], device=slabs.device)
    return _sums(snippet_losses(slabs, text, sample, position, 2 * spacing), sample, len(slabs))


__all__ = [
    "POOLED_CELLS",
    "body_cells",
    "encode",
    "features_of",
    "mask_targets",
    "organ_shares",
    "thinned",
    "view",
]
