"""Means and maxima over cubes, against torch's own pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core_model.pooling import box_max, box_mean

SIZE = st.integers(1, 12)


@given(st.tuples(SIZE, SIZE, SIZE), st.sampled_from([1, 3, 5, 9]), st.integers(0, 2**20))
def test_a_mean_is_the_mean_over_what_is_there(shape: tuple[int, int, int], side: int, seed: int) -> None:
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(seed)) * 1000
    expected = x
    for axis, n in enumerate(shape):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis] = min(side, n - 1 + n % 2)
        padding[axis] = kernel[axis] // 2
        expected = F.avg_pool3d(expected, kernel, 1, padding, count_include_pad=False)
    torch.testing.assert_close(box_mean(x, side), expected, rtol=1e-4, atol=1e-2)


def test_a_mean_can_be_learnt_through() -> None:
    x = torch.randn(1, 1, 6, 5, 4, requires_grad=True)
    box_mean(x, 3).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(), torch.tensor(120.0))


def test_a_maximum_reaches_so_far() -> None:
    x = torch.zeros(1, 1, 5, 5, 5)
    x[0, 0, 2, 2, 2] = 1
    assert int(box_max(x, 3).sum()) == 27
