"""Contrast channels: what differs from its organ stands out, whatever the organ measures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core_model.anatomy import organ, organs
from core_model.contrast import CHANNELS, LIMIT, NOISE_HU, SCALE_HU, organ_contrast
from core_model.volume import window

SIDE = 24
FLUID, WIDE, GAS = 7, 8, 10  # channels
LESION = (..., slice(10, 14), slice(10, 14), slice(10, 14))


def scene(liver_hu: float, lesion_hu: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(windowed CT, half-resolution organ probabilities) of a liver with one lesion, beside spleen."""
    hu = torch.full((1, 1, SIDE, SIDE, SIDE), liver_hu)
    hu[..., 20:] = 300.0
    hu[LESION] = lesion_hu
    logits = torch.zeros(1, 1 + len(organs()), SIDE // 2, SIDE // 2, SIDE // 2)
    logits[:, organ("liver").label] = 9.0
    logits[:, organ("spleen").label, :, :, 10:] = 18.0
    return window(hu), logits.softmax(1)


@settings(max_examples=25, deadline=None)
@given(liver=st.floats(60, 180), step=st.floats(15, 60))
def test_a_lesion_stands_out_by_its_difference(liver: float, step: float) -> None:
    contrast = organ_contrast(*scene(liver, liver - step))
    assert contrast.shape == (1, CHANNELS, SIDE, SIDE, SIDE)
    assert float(contrast.abs().max()) <= LIMIT
    lesion, far = contrast[0, :, 12, 12, 12], contrast[0, :, 4, 4, 4]
    assert float(lesion[0]) == pytest.approx(-step / NOISE_HU, rel=0.05)
    assert float(lesion[1]) == pytest.approx(max(-LIMIT, -step / SCALE_HU[0]), rel=0.05)
    assert bool((far[:5].abs() < 0.15).all())
    # The lesion fills the smallest neighbourhood, and little of the third.
    assert -step < float(lesion[2]) * SCALE_HU[1] < -step / 3
    assert -step / 4 < float(lesion[3]) * SCALE_HU[2] < 0


@settings(max_examples=15, deadline=None)
@given(shift=st.floats(-20, 60), step=st.floats(15, 60))
def test_what_the_organ_measures_does_not_matter(shift: float, step: float) -> None:
    a = organ_contrast(*scene(100, 100 - step))[0, :4, 12, 12, 12]
    b = organ_contrast(*scene(100 + shift, 100 + shift - step))[0, :4, 12, 12, 12]
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_fluid_lies_below_zero_and_tissue_above() -> None:
    fluid, tissue = (organ_contrast(*scene(100, hu))[0, FLUID, 12, 12, 12] for hu in (5.0, 60.0))
    assert float(fluid) < -1 < 1 < float(tissue)


def test_air_in_an_organ_is_counted_and_does_not_darken_its_neighbours() -> None:
    contrast = organ_contrast(*scene(100, -900))[0]
    assert float(contrast[WIDE, 12, 12, 12]) == -LIMIT
    assert float(contrast[GAS, 12, 12, 12]) == pytest.approx(3), "all of the smallest neighbourhood is gas"
    assert abs(float(contrast[2, 8, 12, 12])) < 0.2, "beside it the mean is that of the organ"


def test_beside_an_organ_nothing_is_expected() -> None:
    x, probability = scene(100, 40)
    none = torch.zeros_like(probability)
    none[:, 0] = 1
    assert float(organ_contrast(x, none)[:, 0].abs().max()) == 0


def test_an_organ_head_that_knows_nothing_gives_finite_channels() -> None:
    x, probability = scene(100, 40)
    assert bool(organ_contrast(x, torch.full_like(probability, 1 / probability.shape[1])).isfinite().all())
