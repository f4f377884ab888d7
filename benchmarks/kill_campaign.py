"""Kill every process of a node with SIGKILL at random moments, then ask for everything it acknowledged.

``python -m benchmarks.kill_campaign --kills 200 --folder DIR`` sends studies to a receiver, has two
readers read and deliver them, and kills one of the three again and again. With a folder that was used
before, it goes on where it ended. Needs nothing but loopback; with ``--postgresql`` Debian's server.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.campaign_audit import Figures, audit, settle, try_again
from benchmarks.campaign_node import Member, Role, make_checkpoint, node
from benchmarks.campaign_peers import Journal, Pacs, Sender
from dicom_node.archive import Archive
from dicom_node.config import Config, DeliverySettings, Destination
from tests.dicom_node.network import ANY_DISK, free_port
from tests.dicom_node.postgres import fresh_database

ROLES = [Role("receiver"), Role("reader", 0), Role("reader", 1)]
# How long a process works at most before it is killed: so many times what it needed to start, because a
# busy machine both starts and works slowly, and no longer than so many seconds.
WORK_STARTS = 6.0
WORK_SECONDS = {"receiver": 8.0, "reader": 20.0}
SETTLE_SECONDS = 240.0


def campaign_config(folder: Path, database: str | None = None) -> Config:
    """A node of its own in `folder`, with the small checkpoint, that is quick about everything."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        make_checkpoint(checkpoint)
    return Config(
        port=free_port(),
        archive=folder / "archive",
        database=database,
        quiet_seconds=5.0,
        association_idle_seconds=5.0,
        heartbeat_seconds=0.5,
        reserve_gib=0.01,
        receiver=ANY_DISK,
        checkpoint=checkpoint,
        device="cpu",
        delivery=DeliverySettings(retry_seconds=0.5, retry_cap_seconds=2.0, timeout_seconds=10.0),
        destinations=(Destination("pacs", "127.0.0.1", free_port(), "PACS"),),
    )


class Reaper:
    """Kills processes of a node at random moments, also while they start, and starts each again at once."""

    def __init__(self, members: list[Member], archive: Archive, journal: Journal, seed: int) -> None:
        self.tried_again = 0  # studies that were set aside meanwhile
        self._members = members
        self._archive = archive
        self._journal = journal
        self._chance = random.Random(seed)
        self._share = {member.role: self._chance.random() for member in members}

    def run(self, kills: int, deadline: float) -> None:
        """Kill until the journal has `kills` kills, or until `deadline` (monotonic seconds)."""
        while sum(self._journal.kills.values()) < kills and time.monotonic() < deadline:
            for member in self._members:
                if sum(self._journal.kills.values()) < kills:
                    self._look(member)
            self.tried_again += try_again(self._archive)
            time.sleep(0.05)

    def _look(self, member: Member) -> None:
        """Kill a process whose time has come."""
        ready = member.is_ready()
        work = min(WORK_STARTS * member.start_seconds, WORK_SECONDS[member.role.name])
        if member.age_seconds > self._share[member.role] * (member.start_seconds + work):
            member.kill()
            self._journal.note("killed", member.role.name if ready else f"{member.role.name}, starting")
            member.start()
            self._share[member.role] = self._chance.random()


def run(
    folder: Path,
    *,
    kills: int,
    seconds: float,
    backlog: int = 20,
    database: str | None = None,
    seed: int = 0,
) -> tuple[Figures, dict[str, int]]:
    """Run a campaign in `folder`.

    Parameters
    ----------
    kills: in all, with those of an earlier run in the same folder.
    seconds: after so long no more is killed, whatever `kills`.
    backlog: how many studies may be sent ahead of their results.
    database: as `Config.database`.

    Returns
    -------
    What came of it; kills by role.
    """
    config = campaign_config(folder, database)
    archive = Archive.open(config)
    journal = Journal(folder / "journal.jsonl")
    stop = threading.Event()
    with Pacs(config.destinations[0].port, journal), node(config, ROLES, folder / "node.log") as members:
        sender = threading.Thread(target=Sender(config, journal, backlog=backlog).run, args=(stop,))
        sender.start()
        reaper = Reaper(members, archive, journal, seed + len(journal.acknowledged))
        reaper.run(kills, time.monotonic() + seconds)
        stop.set()
        while sender.is_alive():
            _keep_alive(members)
            sender.join(0.1)
        waited, again = settle(archive, journal, SETTLE_SECONDS, lambda: _keep_alive(members))
        deaths = sum(member.deaths for member in members)
    figures = audit(archive, journal, waited, reaper.tried_again + again)
    if deaths:
        problem = f"{deaths} processes ended that nobody killed; see {folder / 'node.log'}"
        figures = dataclasses.replace(figures, problems=(*figures.problems, problem))
    return figures, journal.kills


def _keep_alive(members: list[Member]) -> None:
    for member in members:
        member.is_ready()


def main(arguments: list[str] | None = None) -> int:
    """Command line; exits with 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0, help="kill no longer than this")
    parser.add_argument("--folder", type=Path, help="kept, and continued if it was used before")
    parser.add_argument("--postgresql", action="store_true", help="on Debian's PostgreSQL, not SQLite")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        database = stack.enter_context(fresh_database()) if given.postgresql else None
        figures, kills = run(
            folder, kills=given.kills, seconds=given.seconds, database=database, seed=given.seed
        )
    print(json.dumps({"kills": kills, **dataclasses.asdict(figures)}, indent=2))
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
