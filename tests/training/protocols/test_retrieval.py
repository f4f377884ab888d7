"""Ranks, pools and three definitions of MAP@K, against slow loops and figures made by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.protocols.retrieval import (
    as_accumulated,
    map_exact,
    map_overlap,
    map_shared,
    own_ranks,
    pool_recall,
)

Vectors = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def unit(rng: np.random.Generator, count: int, width: int = 5) -> Vectors:
    vectors = rng.normal(size=(count, width)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Vectors, Bools]:
    """Vectors, and labels of which some are equal, some shared and some items have none."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count = draw(st.integers(3, 14))
    return unit(rng, count), rng.random((count, 4)) < draw(st.sampled_from([0.1, 0.3, 0.6]))


def test_ranks_by_hand() -> None:
    similarity = [[0.9, 0.1, 0.3], [0.8, 0.5, 0.6], [0.2, 0.4, 0.4]]
    assert own_ranks(similarity).tolist() == [1, 3, 2]  # the last is as near to another: that counts against


@given(st.integers(0, 10**6), st.integers(2, 12))
def test_ranks_are_places_in_the_sorted_list(seed: int, count: int) -> None:
    similarity = np.random.default_rng(seed).normal(size=(count, count))
    places = [int(np.where(np.argsort(-row) == i)[0][0]) + 1 for i, row in enumerate(similarity)]
    assert own_ranks(similarity).tolist() == places


def slow_pools(texts: Vectors, volumes: Vectors, pool: int, repeats: int, seed: int) -> list[float]:
    """The protocol in words: shuffle, cut, count how often the own volume is nearest."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        order = np.arange(len(texts))
        rng.shuffle(order)
        hits = asked = 0
        for start in range(0, len(order) - pool + 1, pool):
            own = order[start : start + pool]
            for i in own:
                asked += 1
                hits += int(max(own, key=lambda j: float(texts[i] @ volumes[j])) == i)
        found.append(hits / asked)
    return found


def test_pools_are_as_the_protocol_says() -> None:
    rng = np.random.default_rng(3)
    volumes = unit(rng, 23, 12)
    texts = volumes + 2.0 * unit(rng, 23, 12)
    found = pool_recall(texts, volumes, 5, repeats=7, seed=42)
    assert found.tolist() == pytest.approx(slow_pools(texts, volumes, 5, 7, 42))
    assert 0 < found.mean() < 1


def test_pools_of_perfect_and_of_no_knowledge() -> None:
    rng = np.random.default_rng(0)
    volumes = unit(rng, 256, 32)
    assert pool_recall(volumes, volumes, 32, repeats=3).tolist() == [1.0, 1.0, 1.0]
    chance = pool_recall(unit(rng, 256, 32), volumes, 32, repeats=50)
    assert chance.mean() == pytest.approx(1 / 32, abs=0.02)


def test_a_pool_that_cannot_be_filled_has_no_figure() -> None:
    assert len(pool_recall(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 4)) == 0


def slow_exact(vectors: Vectors, labels: Bools, k: int) -> list[float]:
    found = []
    for i in range(len(vectors)):
        right = {j for j in range(len(vectors)) if j != i and tuple(labels[j]) == tuple(labels[i])}
        order = sorted(
            (j for j in range(len(vectors)) if j != i), key=lambda j: -float(vectors[i] @ vectors[j])
        )
        if not right:
            found.append(float("nan"))
            continue
        hits, total = 0, 0.0
        for rank, j in enumerate(order[:k], start=1):
            if j in right:
                hits += 1
                total += hits / rank
        found.append(total / min(len(right), k))
    return found


def slow_shared(vectors: Vectors, labels: Bools, k: int) -> list[float]:
    abnormal = [i for i in range(len(vectors)) if labels[i].any()]
    found = [float("nan")] * len(vectors)
    if len(abnormal) < 2:
        return found
    for i in abnormal:
        order = sorted((j for j in abnormal if j != i), key=lambda j: -float(vectors[i] @ vectors[j]))
        hits, total = 0, 0.0
        for rank, j in enumerate(order[:k], start=1):
            if (labels[i] & labels[j]).any():
                hits += 1
                total += hits / rank
        found[i] = total / k
    return found


def slow_overlap(vectors: Vectors, labels: Bools, k: int, itself: bool) -> list[float]:
    abnormal = [i for i in range(len(vectors)) if labels[i].any()]
    found = []
    for i in range(len(vectors)):
        others = [j for j in abnormal if itself or j != i]
        order = sorted(others, key=lambda j: -float(vectors[i] @ vectors[j]))[:k]
        values = [(labels[i] & labels[j]).sum() / (labels[i] | labels[j]).sum() for j in order]
        found.append(float(np.mean(values)) if values else float("nan"))
    return found


@given(labelled(), st.integers(1, 6))
def test_three_definitions_are_their_slow_ones(items: tuple[Vectors, Bools], k: int) -> None:
    vectors, labels = items
    for fast, slow in (
        (map_exact(vectors, labels, [k]), slow_exact(vectors, labels, k)),
        (map_shared(vectors, labels, [k]), slow_shared(vectors, labels, k)),
        (map_overlap(vectors, labels, [k]), slow_overlap(vectors, labels, k, True)),
        (map_overlap(vectors, labels, [k], itself=False), slow_overlap(vectors, labels, k, False)),
    ):
        assert fast[k].tolist() == pytest.approx(slow, nan_ok=True)


def test_the_definitions_differ_on_one_example() -> None:
    """Four volumes on a line: 0 and 1 share a label, 2 has both labels of 3, the last is healthy."""
    angle = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 1], [0, 0]], dtype=bool)
    assert map_exact(vectors, labels, [2])[2].tolist() == pytest.approx(
        [np.nan, np.nan, 0.5, 1.0, np.nan], nan_ok=True
    )  # 2: 1, then 3 (half); 3: 2 first
    assert map_shared(vectors, labels, [2])[2].tolist() == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, np.nan], nan_ok=True
    )
    assert map_overlap(vectors, labels, [1])[1].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert map_overlap(vectors, labels, [1], itself=False)[1].tolist() == [0.5, 0.5, 0.5, 1.0, 0.0]


def test_the_script_averages_each_k_with_those_before() -> None:
    values = {1: np.array([1.0, 0.0]), 5: np.array([0.5, 0.1])}
    assert as_accumulated(values) == pytest.approx({1: 0.5, 5: 0.4})
