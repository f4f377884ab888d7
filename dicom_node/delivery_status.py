"""How deliveries stand, for the person on call, and another try for what was given up.

Looks into the index and changes, at most, when something is due; the sending is the running
node's (`dicom_node.delivery`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.archive import Archive
from dicom_node.commitment import Commitment
from dicom_node.config import Config
from dicom_node.delivery_outbox import Peer
from dicom_node.errors import SightlineError
from dicom_node.index import Delivery, ReadingRow, Result, Study


@dataclass(frozen=True)
class DestinationLine:
    """A destination in one line. Times are seconds since the epoch.

    Attributes
    ----------
    name, place: as configured; `place` is empty for one that is configured no more.
    delivered, pending, dead: results there, waiting, given up.
    committed: of those delivered, how many the destination has promised to keep.
    uncommitted: how many it was asked for and has not promised (yet).
    unreachable_since, retry_at, reason: of a destination that takes nothing; None otherwise.
    """

    name: str
    place: str
    delivered: int
    pending: int
    dead: int
    committed: int
    uncommitted: int
    unreachable_since: float | None
    retry_at: float | None
    reason: str | None


@dataclass(frozen=True)
class Undelivered:
    """A result that a destination did not take, or that was given up.

    Attributes
    ----------
    study_instance_uid, destination: which and where.
    file_name: of the result, such as ``findings.sr.dcm``.
    state: ``pending`` or ``dead``.
    attempts: how often it was sent.
    since: when it was first due, seconds since the epoch.
    status: last C-STORE status or STOW-RS failure reason; None where there was none.
    reason: in words; None where it was never tried, because the destination is unreachable.
    """

    study_instance_uid: str
    destination: str
    file_name: str
    state: str
    attempts: int
    since: float
    status: int | None
    reason: str | None


def destinations(archive: Archive, config: Config) -> tuple[DestinationLine, ...]:
    """Every destination that is configured, or that something still waits for."""
    places = {destination.name: destination.place for destination in config.destinations}
    with archive.index.reading() as session:
        waiting = sa.select(Delivery.destination).where(Delivery.state != "delivered").distinct()
        names = list(dict.fromkeys([*places, *sorted(session.scalars(waiting))]))
        return tuple(_line(session, name, places.get(name, "")) for name in names)


def _line(session: Session, name: str, place: str) -> DestinationLine:
    deliveries = _counts(session, Delivery, name)
    commitments = _counts(session, Commitment, name)
    peer = session.get(Peer, name)
    down = peer if peer is not None and peer.failures else None
    return DestinationLine(
        name=name,
        place=place,
        delivered=deliveries.get("delivered", 0),
        pending=deliveries.get("pending", 0),
        dead=deliveries.get("dead", 0),
        committed=commitments.pop("committed", 0),
        uncommitted=sum(commitments.values()),
        unreachable_since=None if down is None else down.unreachable_since,
        retry_at=None if down is None else down.retry_at,
        reason=None if down is None else down.reason,
    )


def _counts(session: Session, table: type[Delivery] | type[Commitment], destination: str) -> dict[str, int]:
    """State -> rows of a destination."""
    rows = session.execute(
        sa.select(table.state, sa.func.count()).where(table.destination == destination).group_by(table.state)
    )
    return {name: int(count) for name, count in rows}


def undelivered(archive: Archive, limit: int) -> tuple[Undelivered, ...]:
    """Results that were given up, then those that failed and wait for their next attempt; oldest first."""
    query = (
        sa.select(Delivery, Result.file_name, ReadingRow.study_instance_uid)
        .join(Result, Result.sop_instance_uid == Delivery.sop_instance_uid)
        .join(ReadingRow, ReadingRow.key == Result.reading_key)
        .where((Delivery.state == "dead") | ((Delivery.state == "pending") & (Delivery.attempts > 0)))
        .order_by(Delivery.state, Delivery.created_at, Result.rank)
        .limit(limit)
    )
    with archive.index.reading() as session:
        return tuple(
            Undelivered(
                study_instance_uid=study,
                destination=row.destination,
                file_name=file_name,
                state=row.state,
                attempts=row.attempts,
                since=row.created_at,
                status=row.status,
                reason=row.reason,
            )
            for row, file_name, study in session.execute(query)
        )


def retry(
    archive: Archive,
    config: Config,
    *,
    studies: Sequence[str] = (),
    destination: str | None = None,
    now: float | None = None,
) -> dict[str, int]:
    """Have everything that is not delivered sent now, also what was given up.

    Days and pauses count anew. A destination that is unreachable is tried at once, and asked
    again for the storage commitments that it never answered.

    Parameters
    ----------
    studies: Study Instance UIDs; all by default.
    destination: its name; all that are configured by default.
    now: seconds since the epoch; the clock by default.

    Returns
    -------
    Destination -> how many results are due there.

    Raises
    ------
    SightlineError: no such destination is configured, or the archive knows no such study.
    """
    now = time.time() if now is None else now
    names = [d.name for d in config.destinations]
    if destination is not None and destination not in names:
        known = ", ".join(names) or "none"
        raise SightlineError(f"destination {destination!r} is not configured; configured: {known}")
    with archive.index.writing() as session:
        _refuse_unknown(session, studies)
        return {
            name: _retry_at(session, name, studies, now)
            for name in names
            if destination is None or name == destination
        }


def _refuse_unknown(session: Session, studies: Sequence[str]) -> None:
    for study in studies:
        if session.get(Study, study) is None:
            raise SightlineError(
                f"study {study!r} is not in the archive; give a Study Instance UID of `sightline status`"
            )


def _retry_at(session: Session, name: str, studies: Sequence[str], now: float) -> int:
    of_studies = (
        sa.select(Result.sop_instance_uid)
        .join(ReadingRow, ReadingRow.key == Result.reading_key)
        .where(ReadingRow.study_instance_uid.in_(studies))
    )
    waiting = sa.select(Delivery).where(Delivery.destination == name, Delivery.state != "delivered")
    silent = sa.select(Commitment).where(Commitment.destination == name, Commitment.state == "unanswered")
    if studies:
        waiting = waiting.where(Delivery.sop_instance_uid.in_(of_studies))
        silent = silent.where(Commitment.sop_instance_uid.in_(of_studies))
    rows = session.scalars(waiting).all()
    for row in rows:
        row.state, row.attempts, row.created_at, row.due_at = "pending", 0, now, now
    for asked in session.scalars(silent):
        asked.state, asked.attempts, asked.created_at, asked.due_at = "due", 0, now, now
    peer = session.get(Peer, name)
    if peer is not None:
        peer.retry_at = 0.0
    return len(rows)
