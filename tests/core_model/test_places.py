"""Several places of one text: the first is the reader's own, none is near another, scores fall."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from core_model.localization import Searchable, agreement
from core_model.question import Question
from core_model.ranking import APART_MM, localize, ranked_places
from tests.core_model.test_encoding import WIDTH, encoding_of

SHAPE = (9, 12, 12)


def unit(seed: int) -> npt.NDArray[np.float32]:
    vector = np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def planted(*spots: tuple[tuple[int, int, int], float]) -> tuple[Searchable, npt.NDArray[np.float32]]:
    """A body of one feature with blocks of 3x3x3 cells that have the given cosine with the query."""
    encoding = encoding_of((12, 14, 14))
    query = np.zeros(WIDTH, dtype=np.float32)
    query[0] = 1
    features = np.zeros_like(encoding.grid_features)
    features[:, 1:-1, 1:-1, 1] = 1
    for (z, y, x), cosine in spots:
        block = features[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]
        block[...] = 0
        block[..., 0], block[..., 1] = cosine, np.sqrt(1 - cosine**2)
    return Searchable(replace(encoding, grid_features=features)), query


@pytest.mark.parametrize("by_slab", [False, True])
@given(seed=st.integers(0, 10**6))
def test_the_first_place_is_the_readers_own(by_slab: bool, seed: int) -> None:
    encoding, query = encoding_of(SHAPE, seed), unit(seed)
    first = ranked_places(Searchable(encoding), Question("x", query), 5, by_slab=by_slab)[0].found
    alone = localize(Searchable(encoding), Question("x", query), by_slab=by_slab)
    assert (first.position_lps_mm, first.score, first.organ) == (
        alone.position_lps_mm,
        alone.score,
        alone.organ,
    )
    # Worked out once more, on the whole grid, as the paper's sentence has it.
    features = encoding.grid_features.astype(np.float32)
    body = np.abs(features).max(-1) > 0
    weight = ndimage.uniform_filter(body.astype(np.float32), 3)
    mean = ndimage.uniform_filter((features @ query) * body, 3) / weight.clip(1e-3)
    mean[~body] = -2
    if by_slab:
        mean[np.arange(len(mean)) != (encoding.slab_features @ query).argmax()] = -2
    best = np.unravel_index(int(mean.argmax()), mean.shape)
    cell = encoding.grid.map_reference_to_indices(np.array([first.position_lps_mm]))[0]
    np.testing.assert_allclose(cell[1:], best[1:], atol=1e-3)
    assert abs(cell[0] - best[0]) < (1 if by_slab else 1e-3)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 40))
def test_places_lie_apart_and_fill_the_body(seed: int, k: int) -> None:
    encoding = encoding_of(SHAPE, seed)
    places = ranked_places(Searchable(encoding), Question("x", unit(seed)), k)
    assert [p.rank for p in places] == list(range(1, len(places) + 1))
    points = np.array([p.found.position_lps_mm for p in places])
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[~np.eye(len(points), dtype=bool)]
    assert (gaps >= APART_MM - 1e-3).all()
    if len(places) < k:  # no room for more: every cell of the body is near a place
        body = np.argwhere(np.abs(encoding.grid_features).max(-1) > 0)
        cells = encoding.grid.map_indices_to_reference(body.astype(float))
        assert np.linalg.norm(cells[:, None] - points[None], axis=-1).min(1).max() < APART_MM


def test_what_was_planted_comes_in_the_order_of_its_agreement() -> None:
    study, query = planted(((2, 4, 4), 0.6), ((9, 10, 10), 0.9), ((6, 4, 10), 0.75))
    places = ranked_places(study, Question("x", query), 3)
    cells = study.encoding.grid.map_reference_to_indices(np.array([p.found.position_lps_mm for p in places]))
    np.testing.assert_allclose(cells, [[9, 10, 10], [6, 4, 10], [2, 4, 4]], atol=1e-4)
    assert [round(p.found.score, 2) for p in places] == [0.9, 0.75, 0.6]


def test_the_slab_runs_along_the_normal_through_the_place() -> None:
    study, query = planted(((6, 5, 5), 0.9))
    (place,) = ranked_places(study, Question("x", query), 1)
    low, high = (np.array(end) for end in place.slab_lps_mm)
    np.testing.assert_allclose((low + high) / 2, place.found.position_lps_mm, atol=1e-4)
    np.testing.assert_allclose(high - low, [0, 0, 8.0], atol=1e-4)


@given(seed=st.integers(0, 10**6))
def test_slabs_are_taken_best_first_and_apart(seed: int) -> None:
    encoding = encoding_of((16, 6, 6), seed)
    places = ranked_places(Searchable(encoding), Question("x", unit(seed)), 5, by_slab=True)
    scores = [p.found.score for p in places]
    assert scores == sorted(scores, reverse=True)
    # Drawn to a neighbour by less than a slab each, taken slabs lie at least two cells apart.
    layers = sorted(
        encoding.grid.map_reference_to_indices(np.array([p.found.position_lps_mm]))[0][0] for p in places
    )
    assert all(b - a > 1.5 for a, b in pairwise(layers))


def test_the_heat_map_is_one_at_the_first_place_and_zero_outside() -> None:
    study, query = planted(((2, 4, 4), 0.6), ((9, 10, 10), 0.9))
    heat = agreement(study, query)
    assert (heat.dtype, heat.shape) == (np.dtype(np.float32), study.inside.shape)
    assert (float(heat.min()), float(heat.max())) == (0.0, 1.0)
    assert np.unravel_index(int(heat.argmax()), heat.shape) == (9, 10, 10)
    assert not heat[~study.inside].any()
    assert 0.3 < heat[2, 4, 4] < 0.9


def test_no_place_is_an_error() -> None:
    study, query = planted(((6, 5, 5), 0.9))
    with pytest.raises(ValueError, match="k = 0"):
        ranked_places(study, Question("x", query), 0)
    empty = Searchable(replace(study.encoding, grid_features=np.zeros_like(study.encoding.grid_features)))
    with pytest.raises(ValueError, match="shows no body"):
        ranked_places(empty, Question("x", query), 1)


@given(st.integers(0, 2**20), st.integers(1, 7))
def test_one_layer_is_smoothed_as_in_the_whole(seed: int, layers: int) -> None:
    rng = np.random.default_rng(seed)
    encoding = encoding_of((layers, 6, 5))
    body = rng.random(encoding.grid_features.shape[:3])[..., None] < 0.7
    study = Searchable(replace(encoding, grid_features=(encoding.grid_features * body).astype(np.float16)))
    query = unit(seed)
    whole = study.smoothed(study.cosine(query))
    for layer in range(layers):
        np.testing.assert_allclose(study.smoothed_layer(query, layer), whole[layer], atol=2e-6)
