"""The findings stage of retraining: verdicts teach what the text heads say of organs (RadFinder's prompts).

Image encoder, organ pooling and masks stay; the projection of texts into the joint space and the weights of
evidence learn. Of each study some numbers per abnormality are enough, so all studies are one batch. What no
verdict speaks of is held (our choice): findings of the same studies by the base checkpoint's probabilities,
and all other texts of training's bank by where the base puts them, so that search by words stays what it was.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.detection import Detector, Redrawn
from core_model.grounding import top_logit
from core_model.model import SightlineModel
from core_model.thresholds import Thresholds
from training.text_bank import TextBank

KEEP_FINDINGS, KEEP_TEXTS = 1.0, 10.0  # weights beside the loss of verdicts; our choice
TAUGHT = ("text_to_joint", "prompt_scale", "evidence")  # modules and parameters that learn


@dataclass(frozen=True)
class FindingRecord:
    """One study, as far as findings go.

    Attributes
    ----------
    organ: (A, E) embedding of each abnormality's organ.
    evidence: (A,) `core_model.grounding.top_logit` of the masks.
    in_view: (A,) bool, whether the organ is there; else nothing is learnt.
    truth: (A,) 1 present, 0 absent, -1 unknown.
    """

    organ: torch.Tensor
    evidence: torch.Tensor
    in_view: torch.Tensor
    truth: torch.Tensor


def detector_of(model: SightlineModel) -> Detector:
    """The reader's detector for the whole dictionary, on the model's device."""
    return Detector(model, abnormalities(), next(model.parameters()).device)


@torch.no_grad()
def finding_record(
    model: SightlineModel,
    detector: Detector,
    scan: Redrawn,
    truth: torch.Tensor,
    thresholds: Thresholds,
) -> FindingRecord:
    """What the reader's findings of a scan are made of.

    Parameters
    ----------
    detector: of `detector_of`.
    scan: by `model`, of `Detector.draw_again`.
    truth: (A,) of `training.retraining.cases.finding_truth`.
    """
    entries, device = abnormalities(), next(model.parameters()).device
    features = scan.features
    shares = F.avg_pool3d(features.organ_probability[None, 1:], 2)  # (1, O, d, h, w)
    pooled = model.organ_pooling(features.grid[None].to(device), shares.to(device))[0]  # (O, E)
    seen = detector.look(scan, thresholds)
    label = features.organ_probability.argmax(0)
    voxel_ml = model.config.spacing_mm**3 / 1000
    in_view = [
        float((label == organ(a.organ).label).sum()) * voxel_ml >= thresholds.organ_ml for a in entries
    ]
    return FindingRecord(
        organ=pooled[[organ(a.organ).label - 1 for a in entries]].cpu(),
        evidence=top_logit(seen.masks[None])[0].cpu(),
        in_view=torch.tensor(in_view),
        truth=truth,
    )


class FindingTeacher:
    """Teaches a copy of a model.

    Parameters
    ----------
    base: whose answers are kept.
    model: that is taught; the lesion stage may have changed its masks.
    before: records of the base, after: of `model`, of the same studies.
    thresholds: of the base's card, with which findings are said.
    """

    def __init__(
        self,
        base: SightlineModel,
        model: SightlineModel,
        before: Sequence[FindingRecord],
        after: Sequence[FindingRecord],
        thresholds: Thresholds,
    ) -> None:
        if not before or len(before) != len(after):
            raise ValueError(f"{len(before)} records before and {len(after)} after; give the same, and some")
        self.model = copy.deepcopy(model).cpu().requires_grad_(False)
        base = base.cpu()
        self._offset = torch.tensor([thresholds.finding_offset(a.name) for a in abnormalities()])
        self._temperature = thresholds.temperature
        with torch.no_grad():
            self._present = torch.cat([base.text.mean(a.present) for a in abnormalities()])  # (A, width)
            self._absent = torch.cat([base.text.mean(a.absent) for a in abnormalities()])
            bank = TextBank.of(base)
            self._texts = torch.cat([*bank.present, *bank.absent, *bank.organ, *bank.normal])  # (W, width)
            self._places = base.project_text(self._texts).embedding
            self._before = self._logits(base, _stacked(before)).sigmoid()  # (N, A)
        self._records = _stacked(after)
        self._parameters = []
        for name in TAUGHT:
            part = getattr(self.model, name)
            part.requires_grad_(True)
            self._parameters += list(part.parameters()) if isinstance(part, torch.nn.Module) else [part]

    def teach(self, steps: int, learning_rate: float = 3e-4) -> list[dict[str, float]]:
        """Learn from all records in each step; the losses, the last step's last."""
        optimiser = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=0.0)
        history = []
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            losses = self.losses()
            total = losses["verdicts"] + KEEP_FINDINGS * losses["kept"] + KEEP_TEXTS * losses["texts"]
            optimiser.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._parameters, 5.0)
            optimiser.step()
            history.append({name: float(value.detach()) for name, value in losses.items()})
        self.model.requires_grad_(False)
        return history

    def losses(self) -> dict[str, torch.Tensor]:
        """ "verdicts" of what is known, "kept" of all other findings, "texts" of where texts lie."""
        records = self._records
        logits = self._logits(self.model, records)
        known = records.in_view & (records.truth >= 0)
        rest = records.in_view & ~known
        nothing = logits.sum() * 0
        said = (
            F.binary_cross_entropy_with_logits(logits[known], records.truth[known])
            if known.any()
            else nothing
        )
        kept = nothing
        if rest.any():
            target = self._before[rest]
            # Less what even the base itself would have: zero where nothing changed.
            least = F.binary_cross_entropy(target, target)
            kept = F.binary_cross_entropy_with_logits(logits[rest], target) - least
        places = self.model.project_text(self._texts).embedding
        return {"verdicts": said, "kept": kept, "texts": (1 - (places * self._places).sum(-1)).mean()}

    def _logits(self, model: SightlineModel, records: FindingRecord) -> torch.Tensor:
        """(N, A) as the reader says them."""
        raw = model.finding_logits(
            records.organ,
            model.project_text(self._present).embedding,
            model.project_text(self._absent).embedding,
            records.evidence,
        )
        return (raw + self._offset) / self._temperature


def _stacked(records: Sequence[FindingRecord]) -> FindingRecord:
    """With a first axis that counts studies."""
    first = records[0]
    fields = {name: torch.stack([getattr(r, name) for r in records]) for name in vars(first)}
    return replace(first, **fields)
