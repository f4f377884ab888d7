"""The benchmarks of training's data and cost, in small: they measure what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.training_cost import hours, kept_bytes, measure
from benchmarks.training_feed import feeding, prepare_some, table, write_set
from tests.training.tiny_run import shrink, small_config
from training.cache import make_shards
from training.datasets.ct_rate import CtRate
from training.volume_shards import Shards


def test_a_set_is_written_prepared_and_fed(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 3, (60, 60, 40))
    dataset = CtRate(tmp_path / "set")
    assert len(dataset.records()) == 3
    assert {p.kind for p in dataset.problems()} == {"table is missing"}  # of labels, which are not read here
    clock, processor = prepare_some(tmp_path / "set", [1, 2])
    assert clock > 0 < processor
    make_shards(dataset, dataset.records(), tmp_path / "shards", spacing_mm=6.0)
    shards = Shards(tmp_path / "shards")
    assert shards.real_images == 3
    assert {w.organ for w in shards.load(shards.places[0]).words.organs} >= {"lung", "liver", "aorta"}
    assert feeding(shards, small_config("grounded.toml", 1), 0, 4) > 0


def test_the_table_says_what_was_aimed_at() -> None:
    found = {
        "machine": "x86_64, 2 cores",
        "device": "cpu",
        "volume": [512, 512, 300],
        "seconds_per_volume_and_core": 1.5,
        "processor_seconds_per_volume": 1.25,
        "loader_crops_per_second": {"1": 5.0, "2": 8.0},
        "step_crops_per_second": 0.5,
        "loader_over_step": 16.0,
    }
    assert "1.50 s on one core (2 s aimed at)" in table(found)
    assert "loader over step: 16.0 (2 aimed at)" in table(found)


def test_costs_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    settings = small_config("grounded.toml", 1)
    one = measure(replace(settings, data={**settings.data, "seed": 3}), 1)
    two = measure(replace(settings, data={**settings.data, "seed": 3}), 2)
    assert two["flops_per_crop"] == pytest.approx(one["flops_per_crop"], rel=0.2)
    assert two["kept_bytes_per_crop"] == pytest.approx(one["kept_bytes_per_crop"], rel=0.3)
    assert two["gathered_bytes_per_crop"] < two["kept_bytes_per_crop"]
    assert two["trained_parameters"] < two["parameters"]


def test_bytes_that_are_kept_count_each_storage_once() -> None:
    x = torch.ones(1000, requires_grad=True)
    _, kept = kept_bytes(lambda: torch.sum(x * x))
    assert kept == 4000


def test_hours_add_up() -> None:
    assert hours(3600, 10, 1.0, 1) == 10
    assert hours(3600, 10, 2.0, 5) == 1
