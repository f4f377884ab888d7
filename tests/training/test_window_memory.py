"""The memory of windows keeps the newest, draws from all of them alike, and goes on as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from training.window_memory import Records, WindowMemory


@dataclass(frozen=True)
class Numbered(Records):
    """A value of its window, and a number."""

    value: torch.Tensor
    number: torch.Tensor


def numbered(n: int, value: float) -> Numbered:
    return Numbered(torch.full((n, 1), value), torch.arange(n))


def test_it_keeps_the_newest_windows_and_draws_from_all() -> None:
    memory, rng = WindowMemory(Numbered, 3), np.random.default_rng(0)
    with pytest.raises(ValueError, match="holds no records"):
        memory.draw(rng, 1)
    memory.add([numbered(0, 7.0)])
    with pytest.raises(ValueError, match="holds no records"):
        memory.draw(rng, 1)
    for k in range(5):
        memory.add([numbered(20, float(k))])
    drawn = memory.draw(rng, 30)
    assert drawn.value.dtype == torch.float32
    assert drawn.number.dtype == torch.int64, "whole numbers stay whole"
    assert drawn.value[:, 0].unique(return_counts=True)[1].tolist() == [10, 10, 10]
    assert drawn.value[:, 0].unique().tolist() == [2.0, 3.0, 4.0]
    assert len(drawn) == 30
    assert len(set(zip(drawn.value[:, 0].tolist(), drawn.number.tolist(), strict=True))) == 30, "each once"
    assert len(memory.draw(rng, 1000)) == 60


def test_it_draws_from_so_many_windows_at_a_time() -> None:
    memory = WindowMemory(Numbered, 9, per_draw=2)
    memory.add([numbered(4, float(k)) for k in range(9)])
    drawn = memory.draw(np.random.default_rng(1), 6)
    assert drawn.value.unique(return_counts=True)[1].tolist() == [3, 3]


def test_it_goes_on_as_it_was() -> None:
    memory, other = WindowMemory(Numbered, 2), WindowMemory(Numbered, 2)
    memory.add([numbered(5, 1.0), numbered(7, 2.0)])
    other.add([numbered(3, 9.0)])
    other.load_state_dict(memory.state_dict())
    a, b = (m.draw(np.random.default_rng(1), 6) for m in (memory, other))
    assert torch.equal(a.value, b.value)
    assert torch.equal(a.number, b.number)


def test_it_draws_under_bfloat16_autocast() -> None:
    memory = WindowMemory(Numbered, 2)
    memory.add([numbered(3, 1.0), numbered(3, 2.0)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert memory.draw(np.random.default_rng(0), 6).value.dtype == torch.float32
