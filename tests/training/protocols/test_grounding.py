"""Masks and axial positions of sentences, against figures made by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.judging import dice
from training.protocols.grounding import axial_truth, overlap


def boxes(*where: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Cubes of 2x2x2 voxels at corners in a grid of 12x12x12."""
    mask = np.zeros((12, 12, 12), dtype=bool)
    for z, y, x in where:
        mask[z : z + 2, y : y + 2, x : x + 2] = True
    return mask


def test_position_is_the_centre_of_the_voxels() -> None:
    mask = np.zeros((10, 4, 4), dtype=bool)
    mask[2, 0, 0] = True
    mask[6, :3, 0] = True  # three times as many voxels
    truth = axial_truth(mask, 3.0)
    assert (truth.centre, truth.low, truth.high, truth.length) == (15.0, 6.0, 18.0, 27.0)
    assert truth.error(12.0) == 3.0
    assert (truth.outside(12.0), truth.outside(0.0), truth.outside(20.0)) == (0.0, 6.0, 2.0)
    assert (truth.positions(12.0), truth.positions(11.9), truth.positions(36.1)) == (0, 1, 2)


def test_an_empty_mask_has_no_position() -> None:
    with pytest.raises(ValueError, match="empty"):
        axial_truth(np.zeros((3, 3, 3), dtype=bool), 1.0)


@given(st.integers(0, 10**6), st.floats(0.5, 5.0))
def test_centre_lies_between_the_ends(seed: int, spacing: float) -> None:
    mask = np.random.default_rng(seed).random((7, 3, 3)) < 0.2
    mask[3, 1, 1] = True
    truth = axial_truth(mask, spacing)
    assert truth.low - 1e-9 <= truth.centre <= truth.high + 1e-9 <= truth.length + 1e-6
    assert truth.outside(truth.centre) == pytest.approx(0.0, abs=1e-9)


def test_one_of_two_instances_is_found_and_one_is_false() -> None:
    truth = boxes((0, 0, 0), (8, 8, 8))
    found = overlap(boxes((0, 0, 0), (4, 4, 8)), truth)
    assert (found.found, found.predicted, found.planted) == (1, 2, 2)
    assert found.dice == 0.5
    assert found.instance_dice == 0.5


def test_an_instance_counts_from_a_dice_of_a_fifth() -> None:
    truth = np.zeros((1, 1, 40), dtype=bool)
    truth[..., :10] = True
    wide, narrow = np.zeros_like(truth), np.zeros_like(truth)
    wide[..., 8:18] = True  # 2 shared of 10 and 10: 0.2
    narrow[..., 9:19] = True  # 1 shared: 0.1
    assert (overlap(wide, truth).found, overlap(narrow, truth).found) == (1, 0)
    assert overlap(narrow, truth).dice == pytest.approx(0.1)
    assert overlap(narrow, truth).instance_dice == 0.0


def test_two_pieces_of_one_instance_are_one_hit_and_one_false() -> None:
    truth = np.zeros((1, 1, 12), dtype=bool)
    truth[..., 1:11] = True
    pieces = truth.copy()
    pieces[..., 6] = False
    found = overlap(pieces, truth)
    assert (found.found, found.predicted, found.planted) == (1, 2, 1)
    assert found.instance_dice == pytest.approx(2 * 5 / (5 + 10))


def test_voxels_that_touch_at_a_corner_are_one_instance() -> None:
    assert overlap(boxes((0, 0, 0), (2, 2, 2)), boxes((0, 0, 0))).predicted == 1


def test_nothing_predicted_finds_nothing() -> None:
    found = overlap(np.zeros((12, 12, 12), dtype=bool), boxes((1, 1, 1)))
    assert (found.dice, found.found, found.predicted, found.instance_dice) == (0.0, 0, 0, 0.0)


def test_masks_of_two_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="one grid"):
        overlap(np.zeros((2, 2, 2), dtype=bool), np.zeros((2, 2, 3), dtype=bool))


@given(st.integers(0, 10**6))
def test_figures_of_any_two_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.random((5, 6, 7)) < 0.15, rng.random((5, 6, 7)) < 0.15
    found, back = overlap(one, other), overlap(other, one)
    assert found.dice == pytest.approx(dice(one, other))
    assert found.found <= min(found.predicted, found.planted)
    assert (found.dice, found.found) == pytest.approx((back.dice, back.found))
    assert overlap(one, one).instance_dice == pytest.approx(1.0 if one.any() else 0.0)
