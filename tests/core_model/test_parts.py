"""Stray parts of organs go to who is next; what belongs to an organ stays."""

from __future__ import annotations

import pytest
import torch

from core_model.parts import without_strays


def painted(*blocks: tuple[int, slice, slice, slice]) -> torch.Tensor:
    """(4, 12, 12, 12) probabilities: 0.6 for the painted label, 0.3 for label 3, else background."""
    probability = torch.zeros(4, 12, 12, 12)
    probability[0] = 1.0
    for label, *where in blocks:
        z, y, x = where
        probability[:, z, y, x] = torch.tensor([0.1, 0.0, 0.0, 0.0])[:, None, None, None]
        probability[3, z, y, x] = 0.3
        probability[label, z, y, x] = 0.6
    return probability


LARGE, SMALL = slice(0, 5), slice(9, 11)


def test_a_stray_goes_to_the_next_organ_where_that_is_no_stray() -> None:
    third = painted((3, slice(7, 12), LARGE, LARGE), (1, LARGE, LARGE, LARGE))
    third[:, 9:11, 1:3, 1:3] = torch.tensor([0.05, 0.65, 0.0, 0.3])[:, None, None, None]
    label = without_strays(third).argmax(0)
    assert (label[9:11, 1:3, 1:3] == 3).all()
    assert (label[LARGE, LARGE, LARGE] == 1).all()


def test_a_stray_that_makes_another_stray_is_nothing() -> None:
    label = without_strays(
        painted((1, LARGE, LARGE, LARGE), (3, slice(7, 12), LARGE, LARGE), (1, SMALL, SMALL, SMALL))
    ).argmax(0)
    assert (label[SMALL, SMALL, SMALL] == 0).all()


@pytest.mark.parametrize(("share", "stays"), [(0.3, False), (0.05, True)])
def test_a_part_large_enough_stays(share: float, stays: bool) -> None:
    label = without_strays(painted((2, LARGE, LARGE, LARGE), (2, SMALL, SMALL, SMALL)), share).argmax(0)
    assert bool((label[SMALL, SMALL, SMALL] == 2).all()) is stays


def test_the_share_is_checked() -> None:
    with pytest.raises(ValueError, match="share = 2"):
        without_strays(painted(), 2)
