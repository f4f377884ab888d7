"""Storing results to the configured destinations, again and again until each is there.

One courier for each destination, in a thread of its own, so that none waits for another; what
is due is in the index (`dicom_node.delivery_outbox`), so that nothing sleeps in a worker for
days and a restart forgets nothing. Not the making of results (`dicom_node.readings`).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing

import sqlalchemy as sa

from dicom_node import delivery_dimse, delivery_web
from dicom_node.archive import Archive
from dicom_node.commitment import is_due as commitment_is_due
from dicom_node.commitment_requests import request_commitment
from dicom_node.config import Config, Destination
from dicom_node.delivery_audit import DeliveryAudit
from dicom_node.delivery_outbox import Outbox
from dicom_node.delivery_parcels import Outcome, Parcel, UnreachableError, unreadable
from dicom_node.index import REPORT_RANK, Delivery, ReadingRow, Result
from dicom_node.words import in_words

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
_AFTER_DEFECT_SECONDS = 5.0  # pause of a courier whose round ended in an unexpected error
_STOP_SECONDS = 5.0
# Two hosts that send the same result do no harm, it has one UID; so the hold need not outlast
# every possible wait, only the usual one.
_HOLD_SECONDS = 60.0


class Courier:
    """Sends what is due, and notes what became of it.

    Parameters
    ----------
    config: with the destinations.
    archive: with index and results.
    name: of this courier; must differ between processes that share an index, and stay the same
        over restarts. The host's name by default.
    """

    def __init__(self, config: Config, archive: Archive, name: str | None = None) -> None:
        self._config = config
        self._archive = archive
        courier = name or socket.gethostname()
        self._outboxes = [
            (destination, Outbox(archive, destination.name, config.delivery, courier))
            for destination in config.destinations
        ]
        self._audits = {
            destination.name: DeliveryAudit(config, archive) for destination in config.destinations
        }

    def run(self, stop: threading.Event) -> None:
        """Send what is due until `stop` is set. Returns then, if need be in the midst of an answer."""
        self._warn_of_unknown_destinations()
        threads = [
            threading.Thread(
                target=self._serve, args=(destination, outbox, stop), name=f"courier {destination.name}",
                daemon=True,
            )
            for destination, outbox in self._outboxes
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        stop.wait()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def send_due(self, now: float | None = None) -> int:
        """One round over all destinations, one after the other; how many results were stored.

        Parameters
        ----------
        now: seconds since the epoch; the clock by default.
        """
        now = time.time() if now is None else now
        return sum(self._round(destination, outbox, now) for destination, outbox in self._outboxes)

    def _serve(self, destination: Destination, outbox: Outbox, stop: threading.Event) -> None:
        """Rounds for one destination until `stop` is set."""
        while not stop.wait(POLL_SECONDS):
            try:
                self._round(destination, outbox, time.time())
            except Exception as error:  # the database away, a damaged result: the next round goes on
                logger.error("courier failed destination=%s error=%s", destination.name, in_words(error))
                stop.wait(_AFTER_DEFECT_SECONDS)

    def _round(self, destination: Destination, outbox: Outbox, now: float) -> int:
        """Send everything that is due at one destination; how many results were stored."""
        if not outbox.is_open(now) or not self._has_work(destination, outbox, now):
            return 0
        if not outbox.hold(now, _HOLD_SECONDS):
            return 0
        stored = 0
        try:
            # One rank after the other: a report is not due before its segmentations are there.
            while parcels := outbox.due(now):
                stored += self._send(destination, outbox, parcels, now)
                if not outbox.hold(max(now, time.time()), _HOLD_SECONDS):
                    return stored  # this took so long that another courier is at it
            asked_at = max(now, time.time())
            if request_commitment(self._archive.index, self._config, destination, asked_at):
                outbox.note_reached()
        except UnreachableError as error:
            pause, dead = outbox.note_unreachable(str(error), max(now, time.time()))
            logger.warning(
                "destination unreachable destination=%s retry_in=%.0fs reason=%s",
                destination.name,
                pause,
                error,
            )
            if dead:
                logger.error("results given up destination=%s n=%d", destination.name, dead)
        finally:
            outbox.let_go()
        return stored

    def _has_work(self, destination: Destination, outbox: Outbox, now: float) -> bool:
        return bool(outbox.due(now)) or commitment_is_due(self._archive.index, destination.name, now)

    def _send(self, destination: Destination, outbox: Outbox, parcels: Sequence[Parcel], now: float) -> int:
        audit, peer = self._audits[destination.name], destination.peer
        there: dict[str, bool] = {}
        audit.begin(destination.name, *peer, [parcel.sop_instance_uid for parcel in parcels])
        try:
            with closing(self._outcomes(destination, parcels)) as outcomes:
                for outcome in outcomes:
                    noted = outbox.note(outcome, max(now, time.time()))
                    _log(destination, outcome, noted.state, noted.attempts)
                    there[outcome.parcel.sop_instance_uid] = outcome.stored
        finally:
            missing = [p.sop_instance_uid for p in parcels if not there.get(p.sop_instance_uid)]
            audit.end(*peer, [uid for uid, stored in there.items() if stored], missing)
        return sum(there.values())

    def _outcomes(
        self, destination: Destination, parcels: Sequence[Parcel]
    ) -> Generator[Outcome, None, None]:
        """A result whose file is gone or damaged must not keep the others from being sent."""
        readable = []
        for parcel in parcels:
            problem = unreadable(parcel.path)
            if problem is None:
                readable.append(parcel)
            else:
                yield Outcome(parcel, None, problem)
        if readable:
            store = delivery_web.store if destination.url else delivery_dimse.store
            yield from store(destination, self._config, readable)

    def _warn_of_unknown_destinations(self) -> None:
        names = [destination.name for destination in self._config.destinations]
        with self._archive.index.reading() as session:
            orphans = session.execute(
                sa.select(Delivery.destination, sa.func.count())
                .where(Delivery.state == "pending", Delivery.destination.not_in(names))
                .group_by(Delivery.destination)
            ).all()
        for name, count in orphans:
            logger.warning("results wait for a destination that is not configured name=%s n=%d", name, count)


def _log(destination: Destination, outcome: Outcome, state: str, attempts: int) -> None:
    logger.log(
        {"delivered": logging.INFO, "pending": logging.WARNING, "dead": logging.ERROR}[state],
        "result %s destination=%s file=%s attempts=%d status=%s reason=%s",
        state,
        destination.name,
        outcome.parcel.path.name,
        attempts,
        "none" if outcome.status is None else f"0x{outcome.status:04X}",
        outcome.reason,
    )


def stored_back_at(archive: Archive, key: str) -> float | None:
    """When the last result of a reading arrived at its last destination; None if not all are there.

    Corrections, which persons send later, do not count.
    """
    with archive.index.reading() as session:
        if session.get(ReadingRow, key) is None:
            return None
        rows = session.scalars(
            sa.select(Delivery)
            .join(Result, Result.sop_instance_uid == Delivery.sop_instance_uid)
            .where(Result.reading_key == key, Result.rank <= REPORT_RANK)
        ).all()
    if not rows or any(row.delivered_at is None for row in rows):
        return None
    return max(row.delivered_at for row in rows if row.delivered_at is not None)
