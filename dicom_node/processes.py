"""The node's two processes, each of which can also run alone: the receiver and the reader.

They share nothing but the archive. Run one alone with
``python -m dicom_node.processes receiver --config FILE`` (or ``reader``), under any process
manager; `dicom_node.serve` runs both. Here are also the things a process needs once: log
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
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event as ProcessEvent
from pathlib import Path

from dicom_node.archive import Archive
from dicom_node.config import Config, load_config
from dicom_node.errors import SightlineError

# By name, because this module also runs as __main__.
logger = logging.getLogger("dicom_node.processes")

SayReady = Callable[[], None]


def configure_logging(level: str) -> None:
    """Structured lines on standard error: UTC time, level, logger, message of key=value pairs."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # other libraries may put data set values into their info lines
    logging.getLogger("dicom_node").setLevel(level)


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
    from dicom_node.receiver import Receiver  # noqa: PLC0415  the reader process never needs it

    receiver = Receiver(config, Archive.open(config))
    receiver.start()
    say_ready()
    stop.wait()
    receiver.stop()
    logger.info("receiver stopped")


def run_reader(config: Config, stop: threading.Event, say_ready: SayReady) -> None:
    """Read complete studies and deliver results until `stop` is set.

    Raises
    ------
    SightlineError: the archive cannot be opened or the checkpoint not loaded.
    """
    # The receiver process must not pay for torch: half a gigabyte and some seconds.
    from core_model.reader import Reader  # noqa: PLC0415
    from dicom_node.delivery import Courier  # noqa: PLC0415
    from dicom_node.workflow import Workflow  # noqa: PLC0415

    archive = Archive.open(config)
    try:
        reader = Reader.load(config.checkpoint, config.device)
    except (OSError, ValueError, RuntimeError) as error:
        raise SightlineError(f"checkpoint or device: {error}") from error
    workflow = Workflow(config, archive, reader)
    workflow.start()
    courier = threading.Thread(target=Courier(config, archive).run, args=(stop,), name="courier")
    courier.start()
    logger.info("reader ready model=%s version=%s", reader.identity.name, reader.identity.version)
    if not config.destinations:
        logger.warning("no destination is configured: results stay in the archive")
    say_ready()
    workflow.watch(stop)
    courier.join(timeout=10.0)
    workflow.stop()
    logger.info("reader stopped")


ROLES = {"receiver": run_receiver, "reader": run_reader}


def run_role(role: str, config: Config, ready: ProcessEvent | None = None) -> int:
    """Run one role as this process's whole work; returns the exit status.

    As a child it also ends when its parent dies, so that no half of a node is left behind.
    """
    configure_logging(config.log_level)
    warnings.simplefilter("ignore")  # pydicom's and highdicom's quote names and other values of data sets
    stop = stop_on_signals()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_stop_with, args=(parent.sentinel, stop), daemon=True).start()
    try:
        ROLES[role](config, stop, ready.set if ready is not None else lambda: None)
    except SightlineError as error:
        logger.error("%s cannot run: %s", role, error)
        return 2
    return 0


def _stop_with(sentinel: int, stop: threading.Event) -> None:
    """Set `stop` when the process behind `sentinel` is gone."""
    wait([sentinel])
    stop.set()


def child_main(role: str, config: Config, ready: ProcessEvent) -> None:
    """Target of a spawned process.

    Leaves without joining threads: a reading under way may take a minute, is in no state
    worth waiting for, and is repeated at the next start.
    """
    status = run_role(role, config, ready)
    logging.shutdown()
    os._exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Command line of one process alone."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.processes", description=__doc__)
    parser.add_argument("role", choices=sorted(ROLES))
    parser.add_argument("--config", type=Path)
    given = parser.parse_args(arguments)
    try:
        config = load_config(given.config)
    except SightlineError as error:
        print(error, file=sys.stderr)
        return 2
    return run_role(given.role, config)


if __name__ == "__main__":
    exit_status = main()
    logging.shutdown()
    os._exit(exit_status)
