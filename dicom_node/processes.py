"""The node's processes, each of which can also run alone: the receiver, the reader and the service.

They share nothing but the archive. Run one alone with
``python -m dicom_node.processes receiver --config FILE`` (or ``reader``, ``service``), under any
process manager; `dicom_node.serve` runs all of them. Here are also the things a process needs once: log
lines and a clean end.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dicom_node.archive import Archive
from dicom_node.config import Config, load_config
from dicom_node.errors import SightlineError

# By name, because this module also runs as __main__.
logger = logging.getLogger("dicom_node.processes")

SayReady = Callable[[], None]
READY = "ready"  # what a child reports when it is


def configure_logging(level: str, log: Path | None = None) -> None:
    """Structured lines: UTC time, level, logger, message of key=value pairs.

    Parameters
    ----------
    log: file that the lines are appended to; standard error by default.
    """
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr) if log is None else logging.FileHandler(log, encoding="utf-8")
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # other libraries may put data set values into their info lines
    logging.getLogger("dicom_node").setLevel(level)


def log_file() -> Path | None:
    """Where `configure_logging` has this process's lines go, for its own children."""
    handlers = logging.getLogger().handlers
    return next((Path(h.baseFilename) for h in handlers if isinstance(h, logging.FileHandler)), None)


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
    SightlineError: the archive cannot be opened or the checkpoint not loaded.
    """
    # The receiver process must not pay for torch: half a gigabyte and some seconds.
    from core_model.reader import Reader  # noqa: PLC0415
    from dicom_node.reading_process import read_and_deliver  # noqa: PLC0415

    archive = Archive.open(config)
    try:
        reader = Reader.load(config.checkpoint, config.device)
    except (OSError, ValueError, RuntimeError) as error:
        raise SightlineError(f"checkpoint or device: {error}") from error
    read_and_deliver(config, archive, reader, stop, say_ready=say_ready, slot=slot)


def run_query_service(config: Config, stop: threading.Event, say_ready: SayReady) -> None:
    """Answer queries over HTTP until `stop` is set; raises as `dicom_node.service.run.run_service`."""
    from dicom_node.service.run import run_service  # noqa: PLC0415  the receiver must not pay for torch

    run_service(config, stop, say_ready)


ROLES: dict[str, Callable[..., None]] = {
    "receiver": run_receiver,
    "reader": run_reader,
    "service": run_query_service,
}
RECEIVER_MEMBER = "receiver member"  # a role that only the receiver gives, with what its members share


def run_role(role: str, config: Config, say_ready: SayReady, *, slot: int = 0, shared: Any = None) -> None:
    """Run one role as this process's whole work; returns when a signal asked it to end.

    As a child it also ends when its parent dies, so that no half of a node is left behind.

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
    try:
        if role == "reader":
            run_reader(config, stop, say_ready, slot=slot)
        elif role == RECEIVER_MEMBER:
            run_receiver_member(config, stop, say_ready, shared)
        else:
            ROLES[role](config, stop, say_ready)
    except SightlineError as error:
        logger.error("%s cannot run: %s", role, error)
        raise


def _stop_with(sentinel: int, stop: threading.Event) -> None:
    """Set `stop` when the process behind `sentinel` is gone."""
    wait([sentinel])
    stop.set()


def child_main(role: str, config: Config, log: Path | None, report: Connection, shared: Any = None) -> None:
    """Target of a spawned process; sends `READY`, or why it cannot run, through `report`.

    Leaves without joining threads: a reading under way may take a minute, is in no state
    worth waiting for, and is repeated at the next start.
    """
    configure_logging(config.log_level, log)
    status = 0
    try:
        run_role(role, config, lambda: report.send(READY), shared=shared)
    except SightlineError as error:
        report.send(str(error))
        status = 2
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
        configure_logging(config.log_level)
        run_role(given.role, config, lambda: None, slot=given.slot)
    except SightlineError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    exit_status = main()
    logging.shutdown()
    os._exit(exit_status)
