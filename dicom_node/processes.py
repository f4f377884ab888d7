"""The node's processes, each of which can also run alone: receiver, reader, service and monitor.

They share nothing but the archive. Run one alone with
``python -m dicom_node.processes receiver --config FILE`` (or another role), under any process
manager; `dicom_node.serve` runs all of them. Here is also what each needs once: signs of life, lines in
the audit trail when it starts and stops, and a clean end.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dicom_node import commitment, delivery_outbox, heartbeat, removed, traffic  # noqa: F401  for their tables
from dicom_node.archive import Archive
from dicom_node.audit import AuditTrail
from dicom_node.config import Config, load_config
from dicom_node.errors import SightlineError
from dicom_node.heartbeat import beating
from dicom_node.index import Index
from dicom_node.log_lines import configure_logging
from dicom_node.words import in_words

# By name, because this module also runs as __main__.
logger = logging.getLogger("dicom_node.processes")

SayReady = Callable[[], None]
READY = "ready"  # what a child reports when it is


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set. Call in the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def run_receiver(config: Config, stop: threading.Event, say_ready: SayReady) -> None:
    """Receive until `stop` is set.

    Raises
    ------
    SightlineError: the archive cannot be opened or the port not listened on.
    """
    from dicom_node.receiver_processes import receive  # noqa: PLC0415  the reader process never needs it

    receive(config, stop, say_ready)


def run_receiver_member(
    config: Config, stop: threading.Event, say_ready: SayReady, shared: Any = None
) -> None:
    """Be one of several processes of a receiver; see `receiver_processes.receive_as_member`."""
    from dicom_node.receiver_processes import receive_as_member  # noqa: PLC0415

    receive_as_member(config, stop, say_ready, shared)


def run_reader(config: Config, stop: threading.Event, say_ready: SayReady, slot: int = 0) -> None:
    """Read complete studies and deliver results until `stop` is set.

    Parameters
    ----------
    slot: tells readers on one host apart.

    Raises
    ------
    SightlineError: the archive cannot be opened, or the checkpoint or what draws the organs not loaded.
    """
    # The receiver process must not pay for torch: half a gigabyte and some seconds.
    from core_model.memory import keep_memory  # noqa: PLC0415
    from dicom_node.model_in_use import ModelInUse  # noqa: PLC0415
    from dicom_node.reading_process import read_and_deliver  # noqa: PLC0415

    keep_memory()
    archive = Archive.open(config)
    models = ModelInUse(config, config.device)
    read_and_deliver(config, archive, models, stop, say_ready=say_ready, slot=slot)


def run_query_service(config: Config, stop: threading.Event, say_ready: SayReady) -> None:
    """Answer queries over HTTP until `stop` is set; raises as `dicom_node.service.run.run_service`."""
    from dicom_node.service.run import run_service  # noqa: PLC0415  the receiver must not pay for torch

    run_service(config, stop, say_ready)


def run_node_monitor(config: Config, stop: threading.Event, say_ready: SayReady) -> None:
    """Serve metrics and health, and remove what is done with; raises as `dicom_node.monitor.run_monitor`."""
    from dicom_node.monitor import run_monitor  # noqa: PLC0415  the receiver needs no HTTP server

    run_monitor(config, stop, say_ready)


ROLES: dict[str, Callable[..., None]] = {
    "receiver": run_receiver,
    "reader": run_reader,
    "service": run_query_service,
    "monitor": run_node_monitor,
}
RECEIVER_MEMBER = "receiver member"  # a role that only the receiver gives, with what its members share


def run_role(role: str, config: Config, say_ready: SayReady, *, slot: int = 0, shared: Any = None) -> None:
    """Run one role as this process's whole work; returns when a signal asked it to end.

    As a child it also ends when its parent dies, so that no half of a node is left behind. From
    the moment it is ready the index has its heartbeat.

    Parameters
    ----------
    slot: of a reader, see `run_reader`.
    shared: what a receiver's member has in common with the others.

    Raises
    ------
    SightlineError: it cannot run; also logged.
    """
    warnings.simplefilter("ignore")  # pydicom's and highdicom's quote names and other values of data sets
    stop = stop_on_signals()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_stop_with, args=(parent.sentinel, stop), daemon=True).start()
    trail = AuditTrail(config)
    with contextlib.ExitStack() as alive:

        def ready() -> None:
            index = alive.enter_context(contextlib.closing(Index(config.database_url)))
            alive.enter_context(beating(index, role))
            if role != RECEIVER_MEMBER:  # its receiver has said so
                trail.started(role)
            say_ready()

        try:
            if role == "reader":
                run_reader(config, stop, ready, slot=slot)
            elif role == RECEIVER_MEMBER:
                run_receiver_member(config, stop, ready, shared)
            else:
                ROLES[role](config, stop, ready)
        except SightlineError as error:
            logger.error("%s cannot run: %s", role, error)
            raise
    if role != RECEIVER_MEMBER:
        trail.stopped(role)


def _stop_with(sentinel: int, stop: threading.Event) -> None:
    """Set `stop` when the process behind `sentinel` is gone."""
    wait([sentinel])
    stop.set()


def child_main(
    role: str, config: Config, log: Path | None, report: Connection, shared: Any = None, *, slot: int = 0
) -> None:
    """Target of a spawned process; sends `READY`, or why it cannot run, through `report`.

    Leaves without joining threads: a reading under way may take a minute, is in no state
    worth waiting for, and is repeated at the next start.
    """
    status = 0
    try:
        configure_logging(config, log)
        run_role(role, config, lambda: report.send(READY), slot=slot, shared=shared)
    except SightlineError as error:
        report.send(str(error))
        status = 2
    except Exception as error:  # multiprocessing would print its text, which may quote a data set
        logger.critical("defect role=%s error=%s", role, in_words(error))
        status = 1
    logging.shutdown()
    os._exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Command line of one process alone."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.processes", description=__doc__)
    parser.add_argument("role", choices=sorted(ROLES))
    parser.add_argument("--config", type=Path)
    parser.add_argument("--slot", type=int, default=0, help="number of this reader on this host (default: 0)")
    given = parser.parse_args(arguments)
    try:
        config = load_config(given.config)
        configure_logging(config)
        run_role(given.role, config, lambda: None, slot=given.slot)
    except SightlineError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    exit_status = main()
    logging.shutdown()
    os._exit(exit_status)
