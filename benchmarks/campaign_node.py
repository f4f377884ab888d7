"""A node whose processes can be killed and come back, for the campaigns of ``docs/reliability.md``.

Not a mock: each process runs the code of `dicom_node.processes` as it is, with a checkpoint that is
small and untrained, so that a reading takes a second. Processes are forked from a server that has
imported everything, which spares each restart the seconds that importing torch takes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from dicom_node.config import Config
from dicom_node.processes import READY, child_main

PRELOADED = ["core_model.reader", "dicom_node.reading_process", "dicom_node.receiver", "tests.tiny"]
START_SECONDS = 120.0


def context() -> ForkServerContext:
    """Where `Member` processes come from; make one for a campaign."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made


@dataclass(frozen=True)
class Role:
    """What a process is: ``"receiver"`` or ``"reader"``, and its slot."""

    name: str
    slot: int = 0


class Member:
    """One process of the node, and its successors after it was killed."""

    def __init__(self, role: Role, config: Config, log: Path, source: ForkServerContext) -> None:
        self.role = role
        self.kills = 0
        self.deaths = 0  # without our doing
        self._config = config
        self._log = log
        self._source = source
        self._process: ForkServerProcess | None = None
        self._report: Connection | None = None
        self._started_at = 0.0
        self._ready_at: float | None = None
        self.start_seconds = 0.0  # how long it last took to get ready: how busy the machine is

    def start(self) -> None:
        """Start the process; it is ready some time later."""
        self._report, sender = self._source.Pipe(duplex=False)
        self._process = self._source.Process(
            target=child_main,
            args=(self.role.name, self._config, self._log, sender),
            kwargs={"slot": self.role.slot},
        )
        self._ready_at = None
        self._started_at = time.monotonic()
        self._process.start()
        sender.close()

    def is_ready(self) -> bool:
        """Whether it is ready; one that died by itself is started again."""
        if self._process is not None and not self._process.is_alive():
            self.deaths += 1
            self.start()
        if self._ready_at is None and self._report is not None and self._report.poll():
            try:
                message = self._report.recv()
            except EOFError:
                return False
            if message == READY:
                self._ready_at = time.monotonic()
                self.start_seconds = self._ready_at - self._started_at
        return self._ready_at is not None

    @property
    def age_seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._started_at

    def kill(self) -> None:
        """SIGKILL to it and to every process that it has started; it does not come back by itself."""
        if self._process is None or self._process.pid is None:
            return
        for pid in [self._process.pid, *descendants(self._process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.join()
        self._process = None
        self._ready_at = None
        self.kills += 1


def make_checkpoint(folder: Path) -> None:
    """The small untrained checkpoint of the tests, made where torch is imported already."""
    process = context().Process(target=_write_checkpoint, args=(folder,))
    process.start()
    process.join()


def _write_checkpoint(folder: Path) -> None:
    from tests.tiny import tiny_checkpoint  # noqa: PLC0415  the campaign itself does without torch

    tiny_checkpoint(folder)


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, by ``/proc`` (Linux)."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = [int(child) for child in children.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in below:
            found += [child, *descendants(child)]
    return found


@contextmanager
def node(config: Config, roles: list[Role], log: Path) -> Iterator[list[Member]]:
    """The processes, ready; killed at the end."""
    source = context()
    members = [Member(role, config, log, source) for role in roles]
    try:
        for member in members:
            member.start()
        deadline = time.monotonic() + START_SECONDS
        while not all([member.is_ready() for member in members]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the node did not start within {START_SECONDS:g} s; see {log}")
            time.sleep(0.05)
        for member in members:
            member.deaths = 0
        yield members
    finally:
        for member in members:
            member.kill()
