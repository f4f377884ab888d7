"""Storing results to the configured destinations, again and again until each is there.

One row per result and destination in the index says how it stands and when it is due; nothing
sleeps in a worker and a restart forgets nothing. Not the making of results
(`dicom_node.readings`). SEG goes before the SR that refers to it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
import sqlalchemy as sa
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.association import Association

from dicom_node.archive import Archive, results_folder
from dicom_node.config import Config, DeliverySettings, Destination
from dicom_node.delivery_audit import DeliveryAudit
from dicom_node.index import REPORT_RANK, Delivery, ReadingRow, Result

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 annex A
# Stored, or stored with a coercion (PS3.4 table B.2-1); 0111 because result UIDs are
# deterministic: what is already there under this UID is this result.
STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007, 0x0111})


@dataclass(frozen=True)
class Parcel:
    """One result that is due at one destination."""

    sop_instance_uid: str
    sop_class_uid: str
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt: the C-STORE status, or None with the reason there is none."""

    parcel: Parcel
    status: int | None
    reason: str | None

    @property
    def stored(self) -> bool:
        """Whether the destination has the result now."""
        return self.status in STORED


def retry_delay(attempts: int, settings: DeliverySettings) -> float:
    """Seconds to wait after the n-th failed attempt, without jitter.

    >>> [retry_delay(n, DeliverySettings()) for n in (1, 2, 3, 20)]
    [30.0, 60.0, 120.0, 3600.0]
    """
    return float(min(settings.retry_cap_seconds, settings.retry_seconds * 2.0 ** min(attempts - 1, 30)))


def associate(destination: Destination, config: Config, contexts: Sequence[str]) -> Association:
    """An association as SCU; check `is_established` of what comes back.

    Parameters
    ----------
    contexts: SOP classes to propose, each in Explicit and Implicit VR Little Endian.
    """
    _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own handlers log data set values
    ae = AE(config.ae_title)
    ae.connection_timeout = config.delivery.timeout_seconds
    ae.acse_timeout = config.delivery.timeout_seconds
    ae.dimse_timeout = config.delivery.timeout_seconds
    for sop_class in contexts:
        ae.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    return ae.associate(destination.address, destination.port, ae_title=destination.ae_title)


def echo(destination: Destination, config: Config) -> str | None:
    """Ask a peer for life (C-ECHO); None if it answers, else the reason why it does not."""
    association = associate(destination, config, [VERIFICATION])
    if not association.is_established:
        return _why_not(association)
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    if "Status" not in status:
        return "no answer to C-ECHO in time"
    return None if status.Status == 0 else f"C-ECHO answered 0x{status.Status:04X}"


def send(destination: Destination, config: Config, parcels: Sequence[Parcel]) -> list[Outcome]:
    """Store results over one association, in order; an outcome for each."""
    classes = sorted({parcel.sop_class_uid for parcel in parcels})
    association = associate(destination, config, classes)
    if not association.is_established:
        reason = _why_not(association)
        return [Outcome(parcel, None, reason) for parcel in parcels]
    try:
        return [_send_one(association, parcel) for parcel in parcels]
    finally:
        if association.is_established:
            association.release()


def _send_one(association: Association, parcel: Parcel) -> Outcome:
    try:
        answer = association.send_c_store(pydicom.dcmread(parcel.path))
    except (ValueError, RuntimeError, OSError, AttributeError) as error:
        # ValueError: the peer accepts no context for this class; RuntimeError: it hung up.
        return Outcome(parcel, None, str(error).splitlines()[0])
    if "Status" not in answer:
        return Outcome(parcel, None, "no answer to C-STORE in time")
    return Outcome(parcel, int(answer.Status), None)


def _why_not(association: Association) -> str:
    if association.is_rejected:
        return "association rejected; check AE titles on both sides"
    return "no connection; check address, port and that the peer runs"


class Courier:
    """Sends what is due, and notes what became of it."""

    def __init__(self, config: Config, archive: Archive) -> None:
        self._config = config
        self._archive = archive
        self._audit = DeliveryAudit(config, archive)

    def run(self, stop: threading.Event) -> None:
        """Send what is due until `stop` is set."""
        self._warn_of_unknown_destinations()
        while not stop.wait(POLL_SECONDS):
            self.send_due()

    def send_due(self, now: float | None = None) -> int:
        """One round over all destinations; returns how many results were stored.

        Parameters
        ----------
        now: seconds since the epoch; the clock by default.
        """
        now = time.time() if now is None else now
        stored = 0
        for destination in self._config.destinations:
            # One rank after the other: a report is not due before its segmentations are there.
            while parcels := self._due(destination, now):
                peer = (destination.ae_title, destination.address)
                self._audit.begin(destination.name, *peer, [parcel.sop_instance_uid for parcel in parcels])
                outcomes = send(destination, self._config, parcels)
                for outcome in outcomes:
                    self._note(destination, outcome, now)
                done = {o.parcel.sop_instance_uid: o.stored for o in outcomes}
                self._audit.end(*peer, [u for u in done if done[u]], [u for u in done if not done[u]])
                stored += sum(outcome.stored for outcome in outcomes)
        return stored

    def _due(self, destination: Destination, now: float) -> list[Parcel]:
        """Results to send now, without those that wait for a pending one of lower rank."""
        other, earlier = sa.orm.aliased(Delivery), sa.orm.aliased(Result)
        waits = (
            sa.select(other.sop_instance_uid)
            .join(earlier, earlier.sop_instance_uid == other.sop_instance_uid)
            .where(
                other.destination == destination.name,
                other.state == "pending",
                earlier.reading_key == Result.reading_key,
                earlier.rank < Result.rank,
            )
            .exists()
        )
        query = (
            sa.select(Result)
            .join(Delivery, Delivery.sop_instance_uid == Result.sop_instance_uid)
            .where(
                Delivery.destination == destination.name,
                Delivery.state == "pending",
                Delivery.due_at <= now,
                ~waits,
            )
            .order_by(Delivery.created_at, Result.rank)
        )
        with self._archive.index.reading() as session:
            return [
                Parcel(
                    row.sop_instance_uid,
                    row.sop_class_uid,
                    results_folder(self._archive, row.reading_key) / row.file_name,
                )
                for row in session.scalars(query)
            ]

    def _note(self, destination: Destination, outcome: Outcome, now: float) -> None:
        settings = self._config.delivery
        with self._archive.index.writing() as session:
            row = session.get_one(Delivery, (outcome.parcel.sop_instance_uid, destination.name))
            row.attempts += 1
            row.status, row.reason = outcome.status, outcome.reason
            if outcome.stored:
                row.state, row.delivered_at = "delivered", time.time()
            elif now - row.created_at > settings.give_up_days * 86400:
                row.state = "dead"
            else:
                # Jitter, so that many nodes do not return to a restarted PACS in step.
                row.due_at = now + retry_delay(row.attempts, settings) * random.uniform(0.8, 1.2)
        level = {"delivered": logging.INFO, "pending": logging.WARNING, "dead": logging.ERROR}[row.state]
        logger.log(
            level,
            "result %s destination=%s file=%s attempts=%d status=%s reason=%s",
            row.state,
            destination.name,
            outcome.parcel.path.name,
            row.attempts,
            "none" if outcome.status is None else f"0x{outcome.status:04X}",
            outcome.reason,
        )

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
