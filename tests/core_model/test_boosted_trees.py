"""Trees answer as those that grew."""

from __future__ import annotations

import pytest
import torch

from core_model.boosted_trees import BoostedTrees


def two_trees() -> BoostedTrees:
    """The first asks number 1, and number 0 on its right; the second says 10 whatever it sees."""
    trees = BoostedTrees(2, 3)
    trees.feature[0] = torch.tensor([1, 0])
    trees.threshold[0] = torch.tensor([0.5, 2.0])
    trees.child[0] = torch.tensor([[-1, 1], [-2, -3]])
    trees.value.copy_(torch.tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]]))
    return trees


def test_a_number_that_equals_the_threshold_goes_left() -> None:
    x = torch.tensor([[9.0, 0.5], [2.0, 0.6], [2.1, 0.6]])
    assert two_trees()(x).tolist() == [11.0, 12.0, 13.0]


def test_no_trees_say_nothing() -> None:
    assert BoostedTrees(0, 2)(torch.ones(4, 7)).tolist() == [0.0] * 4


def test_none_are_asked_of_no_places() -> None:
    assert two_trees()(torch.zeros(0, 2)).shape == (0,)


def test_numbers_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="x has 1 numbers, the trees ask for number 1"):
        two_trees()(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="trees is -1 and leaves 2"):
        BoostedTrees(-1, 2)
    with pytest.raises(ValueError, match="leaves 1; 0 and 2"):
        BoostedTrees(1, 1)
