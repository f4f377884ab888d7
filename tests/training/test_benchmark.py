"""The phantom benchmark's patients."""

from __future__ import annotations

import numpy as np

from core_model.anatomy import organ
from training.benchmark import DEVELOPMENT_SEED, TEST_SEED, cases

SEED = 77


def test_cases_are_reproducible_scans_with_their_truth() -> None:
    [a], [b] = (list(cases(SEED, 1, spacing_mm=8.0)) for _ in range(2))
    np.testing.assert_array_equal(a.volume.array, b.volume.array)
    assert a.seed == SEED
    assert a.organs.shape == a.lesions.shape == a.volume.spatial_shape
    assert {p.mask_value for p in a.phantom.planted} - {0} >= set(np.unique(a.lesions)) - {0}
    lungs = a.volume.array[a.organs == organ("lung").label]
    livers = a.volume.array[a.organs == organ("liver").label]
    assert np.median(lungs) < -400
    assert 0 < np.median(livers) < 250


def test_seeds_for_tests_and_development_are_apart() -> None:
    assert abs(TEST_SEED - DEVELOPMENT_SEED) > 100_000
