"""The campaigns of docs/reliability.md in their short form: nothing acknowledged is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import kill_campaign, outage_campaign, two_hosts_campaign
from tests.dicom_node.postgres import fresh_database, programs
from tests.peers import missing


def needs_postgresql() -> None:
    if programs() is None:
        missing("PostgreSQL is not installed (see .ci/run for the packages that the tests need)")


@pytest.mark.slow
def test_nothing_is_lost_when_processes_are_killed(tmp_path: Path) -> None:
    figures, kills = kill_campaign.run(tmp_path, kills=8, seconds=120, backlog=3)
    assert figures.problems == ()
    assert figures.studies > 0
    assert figures.acknowledged >= 12 * figures.studies
    assert sum(kills.values()) == 8


@pytest.mark.slow
@pytest.mark.parametrize("what", ["database", "disk"])
def test_nothing_is_lost_in_an_outage(what: str) -> None:
    if what == "database":
        needs_postgresql()
    if what == "disk" and os.getuid() != 0:
        pytest.skip("only root may mount a small tmpfs")
    figures, _ = outage_campaign.run_named(what, seconds=4, studies=1)
    assert figures.problems == ()
    assert figures.studies == 3
    assert figures.refusals  # the sender was told, and sent again


@pytest.mark.slow
def test_two_readers_share_the_work_and_one_inherits_that_of_the_other(tmp_path: Path) -> None:
    needs_postgresql()
    with fresh_database() as database:
        figures, _ = two_hosts_campaign.run(tmp_path, database, studies=5, heartbeat_seconds=0.3)
    assert figures.problems == ()
    assert figures.studies == 5
    assert figures.superseded == 0
