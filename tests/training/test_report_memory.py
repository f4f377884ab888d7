"""The memory of report-volume alignment: what it keeps, and that it equals a larger batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.report_memory import ReportMemory

SCALE, BIAS = torch.tensor(10.0), torch.tensor(-3.0)


def unit(n: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def findings(n: int, first: int) -> torch.Tensor:
    """Rows that all differ."""
    return torch.eye(32)[first : first + n]


def call(memory: ReportMemory, n: int, seed: int, first: int, correct: bool = True) -> torch.Tensor:
    return memory.loss(unit(n, seed), unit(n, 100 + seed), findings(n, first), SCALE, BIAS, correct=correct)


def test_first_batch_is_siglip() -> None:
    logits = unit(3, 0) @ unit(3, 100).T * SCALE + BIAS
    expected = -F.logsigmoid((2 * torch.eye(3) - 1) * logits).sum() / 3
    torch.testing.assert_close(call(ReportMemory(8), 3, 0, 0), expected)


def test_earlier_pairs_are_partners_in_both_directions() -> None:
    memory = ReportMemory(8)
    call(memory, 2, 1, 0)
    found = call(memory, 2, 2, 2)
    volumes = torch.cat([unit(2, 2), unit(2, 1)])
    reports = torch.cat([unit(2, 102), unit(2, 101)])
    logits = volumes @ reports.T * SCALE + BIAS
    pairs = -F.logsigmoid((2 * torch.eye(4) - 1) * logits)
    pairs[2:, 2:] = 0  # pairs of the memory alone were judged before
    torch.testing.assert_close(found, pairs.sum() / 2)


def test_reports_that_say_the_same_are_right() -> None:
    found = {}
    for correct in (True, False):
        memory = ReportMemory(8)
        call(memory, 1, 1, 0, correct)
        found[correct] = memory.loss(unit(1, 1), unit(1, 101), findings(1, 0), SCALE, BIAS, correct=correct)
    logit = unit(1, 1) @ unit(1, 101).T * SCALE + BIAS
    one, zero = -F.logsigmoid(logit)[0, 0], -F.logsigmoid(-logit)[0, 0]
    torch.testing.assert_close(found[True], 3 * one)
    torch.testing.assert_close(found[False], one + 2 * zero)


def test_the_oldest_are_forgotten_and_nothing_carries_a_gradient() -> None:
    memory = ReportMemory(3)
    volume = unit(2, 1).requires_grad_()
    memory.loss(volume, unit(2, 101), findings(2, 0), SCALE, BIAS, correct=True)
    call(memory, 2, 2, 2)
    assert len(memory) == 3
    state = memory.state_dict()
    assert not any(v.requires_grad for v in state.values())
    torch.testing.assert_close(state["volume"], torch.cat([unit(2, 1)[1:], unit(2, 2)]))
    other = ReportMemory(3)
    other.load_state_dict(state)
    assert torch.equal(call(other, 2, 3, 4), call(memory, 2, 3, 4))


def test_a_memory_of_nothing() -> None:
    with pytest.raises(ValueError, match="size is 0"):
        ReportMemory(0)
