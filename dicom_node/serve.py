"""The supervisor: runs receiver, reader, query service and monitor as child processes and keeps them running.

Neither receives nor reads; it only starts, watches, restarts with growing pauses, and ends
all cleanly on SIGTERM or SIGINT. Children are spawned, not forked: a fork of a process with
threads can deadlock, and CUDA does not survive one.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.log_lines import configure_logging
from dicom_node.processes import READY, ROLES, child_main, stop_on_signals

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.2
STOP_SECONDS = 15.0
# A child that lived this long had started well: the next restart is immediate again.
HEALTHY_SECONDS = 60.0
RESTART_CAP_SECONDS = 60.0


class Child:
    """One role and the process that has it at the moment.

    Parameters
    ----------
    role, config, log, shared: for `dicom_node.processes.child_main`.
    context: what starts processes.
    """

    def __init__(
        self,
        role: str,
        config: Config,
        log: Path | None,
        context: SpawnContext,
        shared: Any = None,
    ) -> None:
        self.role = role
        self.is_ready = False
        self._config = config
        self._log = log
        self._context = context
        self._shared = shared
        self._failures = 0
        self._restart_at = 0.0
        self._started_at = 0.0
        self._process: SpawnProcess | None = None
        self._report: Connection | None = None

    def start(self) -> None:
        """Start a process for the role."""
        self._report, sender = self._context.Pipe(duplex=False)
        self._process = self._context.Process(
            target=child_main,
            args=(self.role, self._config, self._log, sender, self._shared),
            name=f"sightline {self.role}",
        )
        self._started_at = time.monotonic()
        self._process.start()
        sender.close()  # the child has its own end; when that closes too, no report can come
        logger.info("started role=%s pid=%s", self.role, self._process.pid)

    def watch(self) -> None:
        """Take reports, note a death, and start anew when its pause is over.

        Raises
        ------
        SightlineError: the role cannot run, and never could since the supervisor started.
        """
        reason = self._read_report()
        if reason is not None and not self.is_ready:
            raise SightlineError(reason)
        now = time.monotonic()
        if self._process is not None and not self._process.is_alive():
            healthy = now - self._started_at > HEALTHY_SECONDS
            self._failures = 0 if healthy else self._failures + 1
            pause = 0.0 if healthy else min(RESTART_CAP_SECONDS, 0.5 * 2.0**self._failures)
            logger.error("died role=%s exit=%s restart_in=%.0fs", self.role, self._process.exitcode, pause)
            self._process, self._restart_at = None, now + pause
        if self._process is None and now >= self._restart_at:
            self.start()

    def _read_report(self) -> str | None:
        """The reason why the process cannot run, if it sent one."""
        try:
            if self._report is None or not self._report.poll():
                return None
            message = str(self._report.recv())
        except (EOFError, OSError):  # it died without a word
            self._report = None
            return None
        self.is_ready = self.is_ready or message == READY
        return None if message == READY else message

    def stop(self) -> None:
        """Ask the process to end."""
        if self._process is not None:
            self._process.terminate()

    def join(self, deadline: float) -> None:
        """Wait until `deadline` (monotonic seconds) for the end, then enforce it."""
        if self._process is None:
            return
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            logger.error("did not stop in time and is killed role=%s", self.role)
            self._process.kill()
            self._process.join()


def run(
    config: Config,
    *,
    roles: Sequence[str] = tuple(ROLES),
    stop: threading.Event | None = None,
    ready: threading.Event | None = None,
    log: Path | None = None,
) -> None:
    """Run the node until SIGTERM, SIGINT or `stop`.

    Parameters
    ----------
    config: of the node.
    roles: which processes, of ``"receiver"``, ``"reader"``, ``"service"`` and ``"monitor"``.
    stop: ends the node when set; signals and logging are left alone then, so that a program
        with a main thread of its own can run a node in another thread.
    ready: set once every role is up.
    log: file that the processes' log lines are appended to; standard error by default.

    Raises
    ------
    SightlineError: the archive cannot be opened, or a role cannot start (port taken,
        checkpoint damaged). What dies after it was ready is started again.

    Notes
    -----
    The log line ``node ready`` says that every role is up; C-ECHO answers as soon as the
    receiver is.
    """
    if stop is None:
        configure_logging(config, log)
        stop = stop_on_signals()
    Archive.open(config).index.close()  # errors here and now, and no two children that make tables
    context = multiprocessing.get_context("spawn")
    children = [Child(role, config, log, context) for role in roles]

    def say_ready() -> None:
        _announce(config)
        if ready is not None:
            ready.set()

    try:
        keep_running(children, stop, say_ready, STOP_SECONDS)
    finally:
        logger.info("node stopped")


def keep_running(
    children: Sequence[Child], stop: threading.Event, say_ready: Callable[[], None], stop_seconds: float
) -> None:
    """Start child processes, start again what dies, and end all when `stop` is set.

    Parameters
    ----------
    say_ready: called once, when every child is ready.
    stop_seconds: how long they may take to end.

    Raises
    ------
    SightlineError: one of them cannot run.
    """
    announced = False
    try:
        for child in children:
            child.start()
        while not stop.wait(WATCH_SECONDS):
            for child in children:
                child.watch()
            if not announced and all(child.is_ready for child in children):
                announced = True
                say_ready()
    finally:
        for child in children:
            child.stop()
        deadline = time.monotonic() + stop_seconds
        for child in children:
            child.join(deadline)


def _announce(config: Config) -> None:
    logger.info(
        "node ready ae_title=%s address=%s port=%d archive=%s",
        config.ae_title,
        config.address,
        config.port,
        config.archive,
    )
