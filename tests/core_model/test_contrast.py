"""Contrast channels: what differs from its organ stands out, whatever the organ measures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core_model.anatomy import organ, organs
from core_model.contrast import CHANNELS, LIMIT, organ_contrast
from core_model.volume import window

SIDE = 24
LESION = (..., slice(10, 14), slice(10, 14), slice(10, 14))


def scene(liver_hu: float, lesion_hu: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(windowed CT, half-resolution organ logits) of a liver with one lesion, beside spleen."""
    hu = torch.full((1, 1, SIDE, SIDE, SIDE), liver_hu)
    hu[..., 20:] = 300.0
    hu[LESION] = lesion_hu
    logits = torch.zeros(1, 1 + len(organs()), SIDE // 2, SIDE // 2, SIDE // 2)
    logits[:, organ("liver").label] = 9.0
    logits[:, organ("spleen").label, :, :, 10:] = 18.0
    return window(hu), logits


@settings(max_examples=25, deadline=None)
@given(liver=st.floats(40, 180), step=st.floats(15, 60))
def test_a_lesion_stands_out_by_its_difference(liver: float, step: float) -> None:
    contrast = organ_contrast(*scene(liver, liver - step))
    assert contrast.shape == (1, CHANNELS, SIDE, SIDE, SIDE)
    assert float(contrast.abs().max()) <= LIMIT
    lesion = float(contrast[0, 0, 12, 12, 12])
    far = float(contrast[0, 0, 4, 4, 4])
    # The lesion itself draws the mean of its organ down by some tenths of a percent.
    assert lesion == pytest.approx(max(-LIMIT, -step / 30), rel=0.05)
    assert abs(far) < 0.1
    assert float(contrast[0, 1, 12, 12, 12]) == pytest.approx(max(-LIMIT, -step / 15), rel=0.05)


def test_fluid_lies_below_zero_and_tissue_above() -> None:
    fluid, tissue = (organ_contrast(*scene(100, hu))[0, 2, 12, 12, 12] for hu in (5.0, 60.0))
    assert float(fluid) < -1 < 1 < float(tissue)


def test_air_in_an_organ_shows_in_the_wide_channel_only_up_to_the_limit() -> None:
    contrast = organ_contrast(*scene(100, -900))
    assert float(contrast[0, 3, 12, 12, 12]) == -LIMIT


def test_logits_that_know_nothing_are_finite() -> None:
    x, logits = scene(100, 40)
    assert bool(organ_contrast(x, torch.zeros_like(logits)).isfinite().all())
