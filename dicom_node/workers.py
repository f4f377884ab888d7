"""Which reading processes live, so that the work of a dead one is taken over by another.

A heartbeat in the index, nothing else: not the taking over (`dicom_node.workflow`). No clock of
one host is compared with another's, and time in which the database is away counts for nobody:
a worker is dead when this one has beaten several times in a row and the other not once.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterable

import sqlalchemy as sa

from dicom_node.index import Index, Worker
from dicom_node.outages import is_outage
from dicom_node.words import in_words

logger = logging.getLogger(__name__)

MISSED_BEATS = 6


def worker_name(role: str, slot: int) -> str:
    """The name of a process that it keeps over restarts: ``host:role:slot``."""
    return f"{socket.gethostname()}:{role}:{slot}"


class NameTakenError(Exception):
    """Another process has started under the name of this one and does its work now."""


class Heartbeat:
    """The sign of life of one worker, and its view of the others.

    Parameters
    ----------
    index: shared by all workers.
    name: of this worker, see `worker_name`.
    seconds: between two beats.
    """

    def __init__(self, index: Index, name: str, seconds: float) -> None:
        self.name = name
        self._index = index
        self._seconds = seconds
        self._launch = uuid.uuid4().hex
        self._lock = threading.Lock()
        # Other worker -> its launch and beats when they last changed, and own beats since then.
        self._seen: dict[str, tuple[tuple[str, int] | None, int]] = {}

    def start(self) -> None:
        """Take the name, also from a process of this name that has died."""
        with self._index.writing() as session:
            session.merge(
                Worker(name=self.name, launch=self._launch, started_at=time.time(), beats=0, alive=True)
            )

    def run(self, stop: threading.Event) -> None:
        """Beat until `stop` is set; sets it when another process has taken the name."""
        while not stop.wait(self._seconds):
            try:
                self.beat()
            except NameTakenError:
                logger.error("another process has started as %s; give each its own --slot", self.name)
                stop.set()
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.warning("no heartbeat error=%s", in_words(error))

    def beat(self) -> None:
        """One beat, and a look at the others.

        Raises
        ------
        NameTakenError: a process of this name started later.
        """
        with self._index.writing() as session:
            own = session.execute(
                sa.update(Worker)
                .where(Worker.name == self.name, Worker.launch == self._launch)
                .values(beats=Worker.beats + 1)
                .returning(Worker.beats)
            )
            if own.one_or_none() is None:
                raise NameTakenError(self.name)
            others = session.scalars(sa.select(Worker).where(Worker.name != self.name, Worker.alive)).all()
        with self._lock:
            signs = {other.name: (other.launch, other.beats) for other in others}
            for name in signs.keys() | self._seen.keys():
                last, missed = self._seen.get(name, (None, 0))
                sign = signs.get(name)
                self._seen[name] = (sign, missed + 1 if sign == last else 0)

    def dead(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that do not live: beat no more, ended in good order, or are unknown."""
        others = set(names) - {self.name}
        with self._index.reading() as session:
            alive = set(session.scalars(sa.select(Worker.name).where(Worker.alive)).all())
        with self._lock:
            return sorted(
                name
                for name in others
                if name not in alive or self._seen.get(name, (None, 0))[1] >= MISSED_BEATS
            )

    def stop(self) -> None:
        """Say that this worker ends, so that nobody waits for its next beat."""
        with self._index.writing() as session:
            session.execute(
                sa.update(Worker)
                .where(Worker.name == self.name, Worker.launch == self._launch)
                .values(alive=False)
            )
