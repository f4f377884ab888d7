"""Random fields: reproducible, of the right scale; morphology against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from training.phantoms.fields import bounding_box, eroded, gaussian_blur, smooth_noise, uniform


@pytest.mark.parametrize("wavelength", [1.0, 3.0, 12.0, 500.0])
def test_noise_is_reproducible_and_of_unit_scale(wavelength: float) -> None:
    shape = (24, 30, 36)
    a = smooth_noise(np.random.default_rng(3), shape, wavelength)
    b = smooth_noise(np.random.default_rng(3), shape, wavelength)
    assert a.shape == shape
    assert a.dtype == torch.float32
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    if wavelength <= 12:
        assert 0.6 < float(a.std()) < 1.3


def test_longer_waves_are_smoother() -> None:
    rough, smooth = (
        float(smooth_noise(np.random.default_rng(0), (40, 40, 40), w).diff(dim=0).abs().mean())
        for w in (2, 10)
    )
    assert smooth < rough / 3


def test_blur_keeps_the_mean_and_spares_axes() -> None:
    volume = torch.zeros(11, 11, 11)
    volume[5, 5, 5] = 1
    out = gaussian_blur(volume, (0.0, 1.0, 0.1))
    assert float(out.sum()) == pytest.approx(1, abs=1e-5)
    assert float(out[4].sum()) == 0
    assert float(out[:, :, 4].sum()) == 0
    expected = ndimage.gaussian_filter1d(volume.numpy(), 1.0, axis=1, truncate=2.5)
    np.testing.assert_allclose(out.numpy(), expected, atol=5e-3)


def test_blur_of_a_constant_is_the_constant() -> None:
    torch.testing.assert_close(
        gaussian_blur(torch.full((5, 6, 7), 3.0), (1, 1, 1)), torch.full((5, 6, 7), 3.0)
    )


@given(st.integers(0, 2**30), st.integers(0, 3))
def test_bounding_box_holds_all(seed: int, margin: int) -> None:
    mask = torch.from_numpy(np.random.default_rng(seed).random((5, 6, 7)) < 0.03)
    box = bounding_box(mask, margin)
    if box is None:
        assert not bool(mask.any())
    else:
        assert int(mask[box].sum()) == int(mask.sum())
        where = mask.nonzero()
        for axis in range(3):
            assert box[axis].start == max(0, int(where[:, axis].min()) - margin)
            assert box[axis].stop == min(mask.shape[axis], int(where[:, axis].max()) + 1 + margin)


@given(st.integers(0, 2**30), st.integers(0, 3))
def test_erosion_is_that_of_scipy(seed: int, voxels: int) -> None:
    mask = ndimage.binary_dilation(np.random.default_rng(seed).random((7, 8, 9)) < 0.05, iterations=2)
    expected = ndimage.binary_erosion(mask, iterations=voxels, border_value=1) if voxels else mask
    np.testing.assert_array_equal(eroded(torch.from_numpy(mask), voxels).numpy(), expected)


def test_uniform_is_a_float_in_range() -> None:
    value = uniform(np.random.default_rng(0), 2, 3)
    assert type(value) is float
    assert 2 <= value < 3
