"""The judge is shown the candidates that a reader sees, told which are true, and alone is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core_model.abnormality import abnormalities
from core_model.candidates import evidence
from core_model.model import SightlineModel
from tests.tiny import tiny_model
from tests.training.tiny_run import descend
from training.lesion_candidates import (
    Candidates,
    candidate_logits,
    candidate_objective,
    read_candidates,
)
from training.samples import Crop
from training.text_bank import TextBank

NAMES = [a.name for a in abnormalities()]
TUMOURS = [i for i, a in enumerate(abnormalities()) if a.tumour]


@pytest.fixture
def model() -> SightlineModel:
    """A model whose masks are everywhere: an organ that is searched is one candidate."""
    everywhere = tiny_model()
    with torch.no_grad():
        everywhere.text_to_mask[-1].weight.zero_()
        everywhere.text_to_mask[-1].bias.fill_(0.0)
        everywhere.text_to_mask[-1].bias[-1] = 5.0
    everywhere.freeze(["encoder", "lesions"])
    return everywhere


def read(model: SightlineModel, batch: Crop, threshold: float = 0.3) -> list[Candidates]:
    return read_candidates(model, TextBank.of(model), batch, np.random.default_rng(0), threshold)


def test_candidates_of_tumours_come_with_the_score_of_their_mask(
    model: SightlineModel, coarse_crops: Crop
) -> None:
    found = Candidates.joined(read(model, coarse_crops))
    assert set(found.kind.tolist()) <= set(TUMOURS)
    assert found.described.shape == (len(found), model.candidate_judge.first.in_features)
    score = float(torch.tensor(1.0).sigmoid())
    assert found.evidence.tolist() == pytest.approx([evidence(score)] * len(found), abs=1e-4)
    assert read(model, coarse_crops, threshold=0.9) == [], "no voxel is so probable"


def test_true_is_what_touches_a_lesion_of_its_kind(model: SightlineModel, coarse_crops: Crop) -> None:
    [first, *_] = read(model, coarse_crops)
    kind = int(first.kind[0])
    for value, expected in ((kind + 1, True), (0, False), (1 + NAMES.index("liver_cyst"), False)):
        lesions = torch.full_like(coarse_crops.lesions, value)
        [again, *_] = read(model, Crop(coarse_crops.hu, coarse_crops.organs, lesions, coarse_crops.findings))
        assert bool(again.true[again.kind == kind].all()) is expected
        assert not bool(again.true[again.kind != kind].any())


def test_only_the_judge_is_trained_and_it_learns(model: SightlineModel, coarse_crops: Crop) -> None:
    bank, found = TextBank.of(model), Candidates.joined(read(model, coarse_crops))
    found = Candidates.joined([found, found])
    half = torch.arange(len(found)) < len(found) // 2
    described = found.described.clone()
    described[half, -1] += 3.0  # what tells the true ones
    found = Candidates(described, found.evidence, found.kind, half)

    def loss() -> torch.Tensor:
        return candidate_objective(model, bank, found, np.random.default_rng(0))["candidates"]

    totals = descend(model, loss, 150, 2e-3)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {
        "candidate_judge",
        "text_to_judge",
    }
    assert totals[-1] < 0.3 * totals[0]
    logits = candidate_logits(model, bank, found, np.random.default_rng(0))
    assert bool((logits[half] > 0).all())
    assert bool((logits[~half] < 0).all())


def test_kinds_count_the_same_however_many_candidates_they_have(model: SightlineModel) -> None:
    """Nine easy ones of one kind do not hide a wrong one of another."""
    width = model.candidate_judge.first.in_features
    kinds = torch.tensor([TUMOURS[0]] * 9 + [TUMOURS[1]])
    logit = torch.tensor([-4.0] * 9 + [4.0])
    found = Candidates(torch.zeros(10, width), logit, kinds, torch.zeros(10, dtype=torch.bool))
    loss = candidate_objective(model, TextBank.of(model), found, np.random.default_rng(0))["candidates"]
    easy, wrong = np.log1p(np.exp(-4.0)), np.log1p(np.exp(4.0))
    assert loss.item() == pytest.approx((easy + wrong) / 2, rel=1e-4)
