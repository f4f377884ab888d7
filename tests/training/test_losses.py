"""Losses with known values, what they ignore, and that gradients flow."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from training.losses import (
    finding_loss,
    lesion_voxel_loss,
    localization_losses,
    mask_loss,
    organ_loss,
    organ_text_loss,
    sigmoid_alignment_loss,
)
from training.phantoms.tissues import IGNORE


def labels_and_logits() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randint(0, 4, (1, 6, 6, 6), dtype=torch.uint8), torch.randn(1, 4, 6, 6, 6)


def test_organ_loss_of_a_perfect_answer_is_nothing() -> None:
    target, _ = labels_and_logits()
    logits = 40 * F.one_hot(target.long(), 4).movedim(-1, 1).float()
    assert float(organ_loss(logits, target)) == pytest.approx(0, abs=1e-4)


def test_organ_loss_against_its_definition() -> None:
    target, logits = labels_and_logits()
    p = logits.softmax(1)
    dice = []
    for k in (1, 2, 3):
        truth = (target == k).float()
        dice.append((2 * (p[:, k] * truth).sum() + 1) / (p[:, k].sum() + truth.sum() + 1))
    expected = F.cross_entropy(logits, target.long()) + 1 - torch.stack(dice).mean()
    torch.testing.assert_close(organ_loss(logits, target), expected)


def test_ignored_voxels_have_no_influence() -> None:
    target, logits = labels_and_logits()
    target[:, :2] = IGNORE
    other = logits.clone()
    other[:, :, :2] = torch.randn(1, 4, 2, 6, 6) * 9
    torch.testing.assert_close(organ_loss(logits, target), organ_loss(other, target))
    logits.requires_grad_()
    organ_loss(logits, target).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not bool(logits.grad[:, :, :2].any())
    assert bool(logits.grad[:, :, 2:].any())


def test_all_ignored_is_finite() -> None:
    _, logits = labels_and_logits()
    assert float(organ_loss(logits, torch.full((1, 6, 6, 6), IGNORE, dtype=torch.uint8))) == 0


def test_mask_loss_orders_answers() -> None:
    target = torch.zeros(1, 2, 6, 6, 6, dtype=torch.bool)
    target[0, 0, 2:4, 2:4, 2:4] = True
    region = torch.zeros_like(target)
    region[:, :, 1:5, 1:5, 1:5] = True
    right = torch.where(target, 20.0, -20.0)
    assert float(mask_loss(right, target, region)) == pytest.approx(0, abs=1e-3)
    near = right.clone()
    near[0, 0, 4, 2:4, 2:4] = 20
    far = right.clone()
    far[0, 0, 0, :2, :2] = 20
    wrong = float(mask_loss(-right, target, region))
    assert 0.01 < float(mask_loss(far, target, region)) < float(mask_loss(near, target, region)) < wrong


def test_mask_loss_without_any_lesion() -> None:
    none = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    logits = torch.zeros(1, 1, 4, 4, 4, requires_grad=True)
    loss = mask_loss(logits, none, ~none)
    assert float(loss.detach()) == pytest.approx(3 * math.log(2), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool((logits.grad > 0).all())


def test_finding_loss_leaves_unknown_out() -> None:
    logits = torch.tensor([[0.0, 3.0, -2.0]], requires_grad=True)
    truth = torch.tensor([[1.0, -1.0, 0.0]])
    loss = finding_loss(logits, truth)
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert float(loss.detach()) == pytest.approx(expected)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert logits.grad[0, 0] < 0 < logits.grad[0, 2]


def test_finding_loss_where_nothing_is_known() -> None:
    logits = torch.ones(1, 2, requires_grad=True)
    loss = finding_loss(logits, torch.full((1, 2), -1.0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0


def test_localization_loss_of_equal_cells_is_their_log_count() -> None:
    mass = torch.zeros(2, 4, 4, 4)
    mass[:, 1, 1, 1] = 5
    loss = localization_losses(torch.zeros(2, 4, 4, 4), mass)
    assert loss.tolist() == pytest.approx([math.log(64)] * 2, rel=1e-5)


def test_localization_loss_prefers_the_place() -> None:
    mass = torch.zeros(1, 5, 5, 5)
    mass[0, 2, 2, 2] = 1
    here, near, far = (torch.zeros(1, 5, 5, 5) for _ in range(3))
    here[0, 2, 2, 2] = near[0, 2, 2, 3] = far[0, 0, 0, 0] = 5
    losses = [float(localization_losses(x, mass)) for x in (here, near, far)]
    assert losses[0] < losses[1] < losses[2]


def test_localization_loss_of_no_text() -> None:
    assert float(localization_losses(torch.zeros(0, 2, 2, 2), torch.zeros(0, 2, 2, 2)).sum()) == 0


def test_organ_text_loss_of_a_perfect_match() -> None:
    names = torch.eye(4)
    present = torch.tensor([[True, False, True, True]])
    good = organ_text_loss(names[None], names, present, torch.tensor(50.0))
    assert float(good) == pytest.approx(0, abs=1e-6)
    swapped = names[[2, 1, 0, 3]][None]
    assert float(organ_text_loss(swapped, names, present, torch.tensor(50.0))) > 30
    absent_wrong = names[[0, 3, 2, 3]][None]
    torch.testing.assert_close(organ_text_loss(absent_wrong, names, present, torch.tensor(50.0)), good)
    assert float(organ_text_loss(names[None], names, ~present & False, torch.tensor(1.0))) == 0


def test_sigmoid_alignment_of_known_pairs() -> None:
    unit = torch.eye(2)
    scale, bias = torch.tensor(10.0), torch.tensor(-5.0)
    expected = math.log(1 + math.exp(-5))  # every pair is right by a logit of 5
    assert float(sigmoid_alignment_loss(unit, unit, scale, bias)) == pytest.approx(expected, rel=1e-5)
    assert float(sigmoid_alignment_loss(unit, unit.flip(0), scale, bias)) > 4
    swapped = torch.eye(len(unit), dtype=torch.bool).flip(0)
    same = float(sigmoid_alignment_loss(unit, unit.flip(0), scale, bias, swapped))
    assert same == pytest.approx(expected, rel=1e-5)  # false-negative correction says which pairs are right


@given(st.integers(0, 2**30))
def test_losses_are_never_negative(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 3, 4, 4, 4, generator=generator) * 3
    target = torch.rand(1, 3, 4, 4, 4, generator=generator) < 0.2
    region = torch.rand(1, 3, 4, 4, 4, generator=generator) < 0.5
    labels = torch.randint(0, 3, (1, 4, 4, 4), generator=generator, dtype=torch.uint8)
    assert float(mask_loss(logits, target, region)) >= 0
    assert float(organ_loss(logits, labels)) >= 0
    assert float(localization_losses(logits[0], target[0].float() + 1e-3).min()) >= 0


def test_lesion_voxel_loss_orders_answers_and_judges_nothing_outside() -> None:
    torch.manual_seed(0)
    target = torch.rand(300, 2) < 0.1
    judged = target | (torch.rand(300, 2) < 0.7)
    right = torch.where(target, 12.0, -12.0)
    unsure, missed = torch.zeros_like(right), torch.full_like(right, -12.0)
    losses = [float(lesion_voxel_loss(a, target, judged)) for a in (right, unsure, missed, -right)]
    assert losses[0] == pytest.approx(0, abs=1e-3)
    assert losses == sorted(losses)
    outside = torch.where(judged, right, 12.0)
    assert float(lesion_voxel_loss(outside, target, judged)) == pytest.approx(losses[0])


def test_lesion_voxel_loss_of_voxels_that_are_not_judged_is_zero() -> None:
    none = torch.zeros(5, 3, dtype=torch.bool)
    logits = torch.randn(5, 3, requires_grad=True)
    loss = lesion_voxel_loss(logits, none, none)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
