"""Metal and breathing: where they are allowed to change the image, and reproducible."""

from __future__ import annotations

import numpy as np
import torch

from tests.training.small_anatomy import SPACING_MM, small_anatomy
from training.phantoms.artefacts import METAL_HU, add_metal, breathing
from training.phantoms.tissues import AIR


def painted(seed: int) -> tuple[bool, torch.Tensor]:
    tissues = small_anatomy().tissues
    hu = torch.where(tissues == AIR, -1000.0, 40.0)
    return add_metal(hu, tissues, np.random.default_rng(seed), SPACING_MM), hu


def test_metal_is_bright_and_streaks_stay_in_the_body() -> None:
    air = small_anatomy().tissues == AIR
    done = 0
    for seed in range(8):
        added, hu = painted(seed)
        if not added:  # no femur in this anatomy
            assert set(hu.unique().tolist()) == {-1000.0, 40.0}
            continue
        done += 1
        metal = hu == METAL_HU
        assert bool(metal.any())
        assert set(hu[air & ~metal].unique().tolist()) == {-1000.0}
        near = metal.flatten(1).any(1)
        assert float((hu[near] - 40)[~air[near] & ~metal[near]].abs().max()) > 5
        assert bool(((hu[~near] == 40) | air[~near]).all())
    assert done >= 2


def test_the_same_generator_gives_the_same_metal() -> None:
    assert torch.equal(painted(1)[1], painted(1)[1])


def test_breathing_mixes_slices_and_keeps_what_is_alike() -> None:
    ramp = torch.arange(40.0)[:, None, None].expand(40, 3, 3).clone()
    mixed = breathing(ramp, np.random.default_rng(0), 4.0)
    assert float((mixed - ramp).abs().max()) > 0.05
    assert float((mixed - ramp).abs().max()) < 0.5 * 12 / 4.0
    still = torch.full((40, 3, 3), 7.0)
    assert torch.allclose(breathing(still, np.random.default_rng(0), 4.0), still)
