"""The objective of one batch: every loss is finite, and every trained part gets a gradient."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from core_model.model import SightlineModel
from tests.tiny import tiny_model
from tests.training.small_anatomy import small_anatomy
from training.crop_views import POOLED_CELLS, organ_shares, thinned
from training.objective import objective
from training.phantoms.tissues import IGNORE
from training.plan import LOSSES, Plan
from training.prompts import texts_against, texts_for, texts_of_organ
from training.samples import Crop, PhantomCrops, collate
from training.text_bank import TextBank


@pytest.fixture(scope="module")
def batch() -> Crop:
    crops = PhantomCrops([(small_anatomy, 1.0)], (16, 32, 32), 6.0, seed=4, crops=2)
    return collate(list(islice(crops, 2)))


@pytest.fixture
def model() -> SightlineModel:
    return tiny_model(spacing_mm=6.0, projectors="separate")


@pytest.mark.parametrize("pooling", ["mean", "attention", "both"])
@pytest.mark.parametrize("projectors", ["shared", "separate"])
def test_losses_are_finite_and_train_every_part(pooling: str, projectors: str, batch: Crop) -> None:
    model = tiny_model(spacing_mm=6.0, pooling=pooling, projectors=projectors)
    losses = objective(model, TextBank.of(model), batch, np.random.default_rng(0), Plan())
    assert set(losses) == LOSSES
    assert all(bool(v.isfinite()) and v.ndim == 0 for v in losses.values())
    total = torch.stack(list(losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in model.text.parameters())


def test_small_organs_are_pooled_whole_and_large_ones_over_a_sample() -> None:
    shares = torch.zeros(2, 3, 10, 20, 20)
    shares[:, 0] = 0.5
    shares[:, 1, 0, 0, :5] = 1
    drawn = [thinned(shares, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0][:, 1:], shares[:, 1:])
    kept = drawn[0][:, 0]
    assert set(kept.unique().tolist()) == {0.0, 0.5}
    assert (kept > 0).flatten(1).sum(1).tolist() == pytest.approx([POOLED_CELLS] * 2, rel=0.2)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_each_loss_can_be_had_alone(name: str, model: SightlineModel, batch: Crop) -> None:
    losses = objective(
        model, TextBank.of(model), batch, np.random.default_rng(0), Plan(losses=frozenset({name}))
    )
    assert set(losses) == {name}
    losses[name].backward()  # type: ignore[no-untyped-call]
    assert model.image.stem.weight.grad is not None


def test_findings_that_frozen_masks_have_not_learnt_are_left_out(model: SightlineModel, batch: Crop) -> None:
    plan = Plan(losses=frozenset({"findings"}), n_texts=len(abnormalities()))

    def loss(evidence: torch.Tensor, findings: torch.Tensor) -> float:
        one = replace(batch, evidence=evidence, findings=findings)
        found = objective(model, TextBank.of(model), one, np.random.default_rng(0), plan)
        return found["findings"].item()

    evidence = torch.linspace(-2, 2, batch.findings.numel()).reshape(batch.findings.shape)
    known = batch.findings.clone()
    known[:, 0] = -1
    unlearnt = evidence.clone()
    unlearnt[:, 0] = torch.nan
    assert loss(unlearnt, batch.findings) == pytest.approx(loss(evidence, known))
    assert loss(evidence + 1, batch.findings) != pytest.approx(loss(evidence, batch.findings))


def test_what_is_not_planned_is_not_computed(model: SightlineModel, batch: Crop) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the lesion decoder ran")

    model.lesion_decoder.forward = fail  # type: ignore[method-assign, assignment]
    plan = Plan(losses=frozenset({"report"}))
    assert objective(model, TextBank.of(model), batch, np.random.default_rng(0), plan)
    with pytest.raises(AssertionError, match="the lesion decoder ran"):
        objective(model, TextBank.of(model), batch, np.random.default_rng(0), Plan())


def test_a_loss_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="loss 'organ' is unknown"):
        Plan(losses=frozenset({"organ"}))


def test_the_generator_decides(model: SightlineModel, batch: Crop) -> None:
    bank = TextBank.of(model)
    a, b, c = (
        torch.stack(list(objective(model, bank, batch, np.random.default_rng(s), Plan(n_texts=4)).values()))
        for s in (0, 0, 1)
    )
    torch.testing.assert_close(a, b)
    assert not torch.equal(a, c)


def test_a_batch_of_unknown_things_is_finite(model: SightlineModel, batch: Crop) -> None:
    unknown = Crop(
        hu=batch.hu,
        organs=torch.full_like(batch.organs, IGNORE),
        lesions=torch.zeros_like(batch.lesions),
        findings=torch.full_like(batch.findings, -1),
    )
    losses = objective(model, TextBank.of(model), unknown, np.random.default_rng(0), Plan(n_texts=3))
    assert all(bool(v.isfinite()) for v in losses.values())
    assert float(losses["findings"].detach()) == float(losses["localization"].detach()) == 0


def test_a_few_steps_lower_the_loss(model: SightlineModel, batch: Crop) -> None:
    bank = TextBank.of(model)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    totals = []
    for _ in range(8):
        losses = objective(model, bank, batch, np.random.default_rng(0), Plan(n_texts=12))
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.9 * totals[0]


def test_organ_shares_are_means_of_one_hot_cells() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, len(organs()) + 1, (2, 4, 6, 8), dtype=torch.uint8)
    labels[0, 0] = IGNORE
    shares = organ_shares(labels)
    known = torch.where(labels == IGNORE, 0, labels).long()
    one_hot = F.one_hot(known, len(organs()) + 1).movedim(-1, 1).float()
    torch.testing.assert_close(shares, F.avg_pool3d(one_hot, 2)[:, 1:])


def test_bank_holds_every_wording(model: SightlineModel) -> None:
    bank = TextBank.of(model)
    assert [len(b) for b in bank.present] == [len(texts_for(a)) for a in abnormalities()]
    assert [len(b) for b in bank.absent] == [len(texts_against(a)) for a in abnormalities()]
    assert len(bank.organ) == len(organs())
    torch.testing.assert_close(bank.organ[20][0], model.text([texts_of_organ(organ("liver"))[0]])[0])


def test_wordings_for_and_against_differ() -> None:
    for a in abnormalities():
        assert not set(texts_for(a)) & set(texts_against(a))
        assert all("{" not in t for t in (*texts_for(a), *texts_against(a)))
    assert all("{" not in t for o in organs() for t in texts_of_organ(o))
