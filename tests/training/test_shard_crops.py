"""Crops of stored samples: who reads them does not matter, and they say what they show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from core_model.anatomy import organ
from tests.training.small_shards import SPACING_MM, small_sample, small_shards
from training.own_words import NORMAL, NOTHING, OrganWords, OwnWords, meaning_of
from training.samples import Crop, collate
from training.shard_crops import ShardCrops, crop_of, shown_organs
from training.volume_shards import Shards

WINDOW = (16, 32, 32)
BATCH = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return Shards(small_shards(tmp_path_factory.mktemp("shards") / "s"))


def stream(
    shards: Shards, *, start: int = 0, part: tuple[int, int] = (0, 1), workers: int = 0
) -> Iterator[Crop]:
    crops = ShardCrops(shards, WINDOW, SPACING_MM, seed=3, start=start, batch=BATCH, part=part)
    return iter(DataLoader(crops, batch_size=BATCH // part[1], num_workers=workers, collate_fn=collate))


def test_batches_do_not_depend_on_processes_workers_or_where_it_began(shards: Shards) -> None:
    whole = list(islice(stream(shards), 4))
    halves = [list(islice(stream(shards, part=(rank, 2)), 4)) for rank in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(batch.hu, torch.cat([p.hu for p in parts]))
        assert batch.words == tuple(w for p in parts for w in p.words)
    with_workers = list(islice(stream(shards, workers=2), 4))
    later = list(islice(stream(shards, start=2), 2))
    for a, b in zip(whole, with_workers, strict=True):
        assert torch.equal(a.hu, b.hu)
    for a, b in zip(whole[2:], later, strict=True):
        assert torch.equal(a.hu, b.hu)
        assert torch.equal(a.findings, b.findings)


def test_a_crop_shows_what_it_says() -> None:
    sample = small_sample(1)
    seen = [crop_of(sample, np.random.default_rng(n), WINDOW, SPACING_MM) for n in range(12)]
    for crop in seen:
        assert crop.hu.shape == (1, *WINDOW)
        lesion = bool((crop.lesions == 1).sum() >= 3)
        if lesion and bool((crop.organs == organ("liver").label).sum() >= 30):
            assert crop.findings[0] == 1
        assert crop.findings[0] != 1 or bool((crop.lesions == 1).any())
        assert crop.findings[1:].eq(-1).all(), "nothing is said of anything else"
        for snippet in crop.snippets[0]:
            assert 0 <= snippet.slice_index < WINDOW[0]
    assert any(c.findings[0] == 1 for c in seen)
    assert any(c.words[0].organs for c in seen)


def test_words_of_an_organ_that_is_not_in_view_are_left_out() -> None:
    sample = small_sample(1)
    without = replace(sample, organs=torch.zeros_like(sample.organs))
    crop = crop_of(without, np.random.default_rng(0), (8, 32, 32), SPACING_MM)
    assert crop.words == (OwnWords(),)


def test_an_organ_counts_as_shown_from_half_of_it_on() -> None:
    label = organ("liver").label
    whole = torch.zeros(10, 10, 10, dtype=torch.uint8)
    whole[:8] = label
    most, some = torch.zeros_like(whole), torch.zeros_like(whole)
    most[:5], some[:3] = label, label
    assert shown_organs(whole, most) == {"liver"}
    assert shown_organs(whole, some) == frozenset()


def test_shards_that_do_not_fit(shards: Shards) -> None:
    with pytest.raises(ValueError, match=r"have 6 mm, the config 4 mm"):
        ShardCrops(shards, WINDOW, 4.0, seed=0)
    with pytest.raises(ValueError, match="holds 8 samples, a batch has 9"):
        ShardCrops(shards, WINDOW, SPACING_MM, seed=0, batch=9)


def test_meanings_of_words() -> None:
    normal = OrganWords("liver", "The liver is normal.", True)
    other = OrganWords("liver", "Unremarkable liver.", True)
    lesion = OrganWords("liver", "A lesion.", False)
    same = OrganWords("liver", "a lesion. ", False)
    assert meaning_of(normal) == meaning_of(other) == NORMAL
    assert meaning_of(lesion) == meaning_of(same) not in (NORMAL, NOTHING)
    assert meaning_of(lesion) != meaning_of(OrganWords("liver", "Two lesions.", False))
