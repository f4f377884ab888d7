"""Take away what a node needs, give it back after a while, then ask for everything it acknowledged.

``python -m benchmarks.outage_campaign pacs|database|disk --seconds 60`` sends studies before, during and
after the outage. The PACS: nobody listens. The database: PostgreSQL is ended as by a crash and started
again. The disk: the archive, with its SQLite files, lies on a small tmpfs that is filled up (root only).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.campaign_audit import Figures, audit, settle
from benchmarks.campaign_node import Member, Role, node
from benchmarks.campaign_peers import Journal, Pacs, Sender
from benchmarks.kill_campaign import SETTLE_SECONDS, campaign_config
from dicom_node.archive import Archive
from dicom_node.config import Config
from tests.dicom_node.postgres import Postgres, postgres, programs

ROLES = [Role("receiver"), Role("reader")]
TMPFS_MIB = 96


Outage = Callable[[Config, Pacs], AbstractContextManager[None]]


def run(
    folder: Path, outage: Outage, *, seconds: float, studies: int, database: str | None = None
) -> tuple[Figures, int]:
    """Send `studies` studies before an outage of `seconds`, as many during it, and as many after it.

    Parameters
    ----------
    outage: a context in which something that the node needs is away.

    Returns
    -------
    What came of it; how many processes ended by themselves and were started again.
    """
    config = campaign_config(folder, database)
    journal = Journal(folder.parent / f"{folder.name}.jsonl")  # beside: the disk may get full
    archive = Archive.open(config)
    sender = Sender(config, journal, backlog=1000)
    with (
        Pacs(config.destinations[0].port, journal) as pacs,
        node(config, ROLES, folder.parent / f"{folder.name}.log") as members,
    ):
        sender.run(threading.Event(), studies)
        during = threading.Thread(target=sender.run, args=(threading.Event(), studies))
        with outage(config, pacs):
            during.start()
            _wait(seconds, members)
        while during.is_alive():
            _wait(0.2, members)
        sender.run(threading.Event(), studies)
        waited, again = settle(archive, journal, SETTLE_SECONDS, lambda: _wait(0, members))
        deaths = sum(member.deaths for member in members)
    figures = audit(archive, journal, waited, again)
    archive.index.close()
    return figures, deaths


def _wait(seconds: float, members: list[Member]) -> None:
    """Do the supervisor's work for so long: start again what ended."""
    deadline = time.monotonic() + seconds
    while True:
        for member in members:
            member.is_ready()
        if time.monotonic() >= deadline:
            return
        time.sleep(0.1)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A tmpfs of `TMPFS_MIB` on `folder`; only root may."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@contextlib.contextmanager
def no_space(config: Config, _pacs: Pacs) -> Iterator[None]:
    """The disk under the archive is full to the last block."""
    ballast = config.archive.parent / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    yield
    ballast.unlink()


@contextlib.contextmanager
def no_pacs(_config: Config, pacs: Pacs) -> Iterator[None]:
    """Nobody listens where results go."""
    pacs.stop()
    yield
    pacs.start()


def no_database(server: Postgres) -> Outage:
    """The server is gone, without a farewell to its clients."""

    @contextlib.contextmanager
    def outage(_config: Config, _pacs: Pacs) -> Iterator[None]:
        server.stop()
        yield
        server.start()

    return outage


def run_named(name: str, *, seconds: float, studies: int) -> tuple[Figures, int]:
    """Run the campaign ``"pacs"``, ``"database"`` or ``"disk"`` in a folder of its own."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "node"
        folder.mkdir()
        if name == "pacs":
            return run(folder, no_pacs, seconds=seconds, studies=studies)
        if name == "disk":
            stack.enter_context(small_disk(folder))
            return run(folder, no_space, seconds=seconds, studies=studies)
        binaries = programs()
        if binaries is None:
            raise FileNotFoundError("PostgreSQL is not installed")
        server = stack.enter_context(postgres(binaries))
        database = server.new_database()
        return run(folder, no_database(server), seconds=seconds, studies=studies, database=database)


def main(arguments: list[str] | None = None) -> int:
    """Command line; exits with 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage_campaign", description=__doc__)
    parser.add_argument("outage", choices=["pacs", "database", "disk"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--studies", type=int, default=4, help="before, during and after")
    given = parser.parse_args(arguments)
    figures, deaths = run_named(given.outage, seconds=given.seconds, studies=given.studies)
    print(json.dumps({"ended_by_themselves": deaths, **dataclasses.asdict(figures)}, indent=2))
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
