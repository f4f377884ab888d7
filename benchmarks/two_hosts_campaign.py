"""Two readers share studies over PostgreSQL; one is killed for good; all studies are delivered.

``python -m benchmarks.two_hosts_campaign --studies 20``. Both run on this machine, but share nothing
that two hosts would not: the database, and the archive's folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import sqlalchemy as sa

from benchmarks.campaign_audit import Figures, audit, settle
from benchmarks.campaign_node import Role, node
from benchmarks.campaign_peers import Journal, Pacs, Sender
from benchmarks.kill_campaign import SETTLE_SECONDS, campaign_config
from dicom_node.archive import Archive
from dicom_node.index import Generation
from tests.dicom_node.postgres import fresh_database

RECEIVER, FIRST, SECOND = Role("receiver"), Role("reader", 0), Role("reader", 1)


def run(folder: Path, database: str, *, studies: int, heartbeat_seconds: float) -> tuple[Figures, float]:
    """Kill the first reader when a fifth of the studies is read.

    Returns
    -------
    What came of it; seconds from the kill until the last report was at the PACS.
    """
    config = dataclasses.replace(campaign_config(folder, database), heartbeat_seconds=heartbeat_seconds)
    journal = Journal(folder / "journal.jsonl")
    archive = Archive.open(config)
    with (
        Pacs(config.destinations[0].port, journal),
        node(config, [RECEIVER, FIRST, SECOND], folder / "node.log") as (_, first, second),
    ):
        Sender(config, journal, backlog=1000).run(threading.Event(), studies)
        _wait_for_read(archive, studies // 5)
        killed_at = time.monotonic()
        first.kill()
        _, again = settle(archive, journal, SETTLE_SECONDS)
        seconds = time.monotonic() - killed_at
        lives = second.is_ready() and second.deaths == 0
    figures = audit(archive, journal, seconds, again)
    archive.index.close()
    if not lives:
        figures = dataclasses.replace(figures, problems=(*figures.problems, "the second reader ended too"))
    return figures, seconds


def _wait_for_read(archive: Archive, count: int) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        with archive.index.reading() as session:
            read = session.scalar(
                sa.select(sa.func.count()).select_from(Generation).where(Generation.state == "read")
            )
        if (read or 0) >= count:
            return
        time.sleep(0.05)
    raise TimeoutError(f"no {count} studies were read within {SETTLE_SECONDS:g} s")


def main(arguments: list[str] | None = None) -> int:
    """Command line; exits with 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_hosts_campaign", description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--heartbeat-seconds", type=float, default=5.0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, fresh_database() as database:
        figures, seconds = run(
            Path(folder),
            database,
            studies=given.studies,
            heartbeat_seconds=given.heartbeat_seconds,
        )
    print(json.dumps({"seconds_after_kill": seconds, **dataclasses.asdict(figures)}, indent=2))
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
