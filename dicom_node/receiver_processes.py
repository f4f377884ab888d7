"""Several receiver processes on one port: the socket is bound once, and each process accepts on it.

Not the receiving (`dicom_node.receiver`): this process only starts the others, starts again what dies,
and ends all. The port answers once the first of them is ready to serve. What one of them has in memory
dies with it alone, and none shares a GIL with another.
"""

from __future__ import annotations

import logging
import multiprocessing
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.log_lines import log_file
from dicom_node.open_associations import OpenAssociations, Slots, make_slots
from dicom_node.processes import RECEIVER_MEMBER
from dicom_node.receiver import Receiver, bind
from dicom_node.serve import Child, keep_running

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Shared:
    """What the processes of one port have in common, and the number of one of them, from 0.

    Attributes
    ----------
    listener: the socket that all accept on.
    slots: where all count their associations.
    """

    number: int
    listener: socket.socket
    slots: Slots


def receive(config: Config, stop: threading.Event, say_ready: Callable[[], None]) -> None:
    """Receive with `ReceiverSettings.processes` processes until `stop` is set.

    Raises
    ------
    SightlineError: the archive cannot be opened, the port not listened on, or TLS not set up.
    """
    archive = Archive.open(config)
    if config.receiver.processes == 1:
        _serve(Receiver(config, archive), stop, say_ready)
        return
    context = multiprocessing.get_context("spawn")
    slots = make_slots(config, context)
    with bind(config) as listener:
        members = [
            Child(RECEIVER_MEMBER, config, log_file(), context, Shared(n, listener, slots))
            for n in range(config.receiver.processes)
        ]

        def all_up() -> None:
            logger.info("all receivers up processes=%d port=%d", len(members), config.port)
            say_ready()

        keep_running(members, stop, all_up, _STOP_SECONDS)


def receive_as_member(
    config: Config, stop: threading.Event, say_ready: Callable[[], None], shared: Shared
) -> None:
    """Be one of the processes until `stop` is set."""
    open_associations = OpenAssociations(config, shared.slots, shared.number)
    receiver = Receiver(config, Archive.open(config), shared.listener, open_associations, shared.number)
    _serve(receiver, stop, say_ready)


def _serve(receiver: Receiver, stop: threading.Event, say_ready: Callable[[], None]) -> None:
    receiver.start()
    say_ready()
    stop.wait()
    receiver.stop()
    logger.info("receiver stopped")
