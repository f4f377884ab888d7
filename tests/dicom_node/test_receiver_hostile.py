"""The short form of ``python -m benchmarks.hostile_peers``: a receiver under siege keeps answering."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from benchmarks.hostile_peers import (
    Siege,
    besieged,
    fill_an_association,
    giant_pdus,
    malformed_files,
    silent_sockets,
    visits,
)
from tests.peers import shared_data

# C-ECHO has to be answered within a second; a machine that runs other tests beside needs some patience.
PATIENCE_SECONDS = 5.0


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with besieged(tmp_path_factory.mktemp("siege")) as siege:
        visits(siege, 20, seed=1)
        yield siege
        assert siege.check_archive() > 10
        assert max(siege.echo_seconds) < PATIENCE_SECONDS


def test_three_hundred_hostile_visits(siege: Siege) -> None:
    visits(siege, 300, seed=20261126)
    assert siege.counts["before an association"] > 10
    assert siege.counts["within an association"] > 10
    assert siege.counts["a good instance: 0x0000"] > 10


def test_many_silent_sockets(siege: Siege) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1400:
        pytest.skip("a thousand sockets need a limit of more than 1400 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    silent_sockets(siege, 1000)


def test_pdus_that_announce_four_gigabytes(siege: Siege) -> None:
    giant_pdus(siege, 8)


def test_a_large_instance_is_not_held_in_memory(siege: Siege) -> None:
    fill_an_association(siege, 96)


def test_malformed_files(siege: Siege) -> None:
    malformed_files(siege, shared_data("malformed"))
