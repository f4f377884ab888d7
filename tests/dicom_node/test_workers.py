"""Who counts as dead, without comparing the clocks of two hosts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.index import Index
from dicom_node.workers import MISSED_BEATS, Heartbeat, NameTakenError, worker_name


@pytest.fixture
def index(tmp_path: Path, database: str | None) -> Index:
    return Archive.open(Config(archive=tmp_path / "archive", database=database)).index


def started(index: Index, name: str) -> Heartbeat:
    heartbeat = Heartbeat(index, name, seconds=0.01)
    heartbeat.start()
    return heartbeat


def test_a_worker_whose_beats_stop_is_dead(index: Index) -> None:
    here, there = started(index, "a:reader:0"), started(index, "b:reader:0")
    for _ in range(2 * MISSED_BEATS):
        there.beat()
        here.beat()
    assert here.dead(["a:reader:0", "b:reader:0"]) == []
    for _ in range(MISSED_BEATS):
        assert here.dead(["b:reader:0"]) == []
        here.beat()
    assert here.dead(["a:reader:0", "b:reader:0"]) == ["b:reader:0"]
    there.beat()  # it was only slow
    here.beat()
    assert here.dead(["b:reader:0"]) == []


def test_a_worker_that_ended_in_good_order_or_is_unknown_is_dead_at_once(index: Index) -> None:
    here, there = started(index, "a:reader:0"), started(index, "b:reader:0")
    there.stop()
    assert here.dead(["b:reader:0", "c:reader:0"]) == ["b:reader:0", "c:reader:0"]
    started(index, "b:reader:0")
    assert here.dead(["b:reader:0"]) == []


def test_time_in_which_nobody_can_beat_makes_nobody_dead(index: Index) -> None:
    here, there = started(index, "a:reader:0"), started(index, "b:reader:0")
    here.beat()
    there.beat()  # then the database is away for an hour, and this one is back first
    for _ in range(MISSED_BEATS - 1):
        here.beat()
    assert here.dead(["b:reader:0"]) == []


def test_a_name_belongs_to_the_process_that_started_last(index: Index) -> None:
    first, second = started(index, "a:reader:0"), started(index, "a:reader:0")
    second.beat()
    with pytest.raises(NameTakenError):
        first.beat()
    stop = threading.Event()
    first.run(stop)  # returns by itself
    assert stop.is_set()


def test_names_of_one_host_differ_by_role_and_slot() -> None:
    names = {worker_name(role, slot) for role in ("reader", "receiver") for slot in (0, 1)}
    assert len(names) == 4
    assert worker_name("reader", 1) == worker_name("reader", 1)
