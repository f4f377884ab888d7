"""The outbox: which results wait for which destination, and what became of each attempt.

Only the index; nothing is sent here (`dicom_node.delivery`). Two things are kept apart: a
*result* that a destination does not take, which waits by itself (`dicom_node.index.Delivery`),
and a *destination* that takes nothing, for which all its results wait together (`Peer`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from dicom_node import commitment
from dicom_node.archive import Archive
from dicom_node.config import DeliverySettings
from dicom_node.delivery_parcels import Outcome, Parcel
from dicom_node.index import Base, Delivery, Result

# A report waits for its segmentations, but a destination that fails on a segmentation so often
# gets the report all the same: it may take no SEG at all (our choice).
PATIENCE = 3
_AT_ONCE = 100  # results over one association
_COMMENT = 64  # characters of a peer's comment, VR LO (PS3.7 table E.1-1)


class Peer(Base):
    """A destination as a whole.

    `held_by` and `held_until`: which courier sends to it; one at a time over all hosts.
    `failures` counts the attempts in a row that found it unreachable, `unreachable_since` is the
    first of them, `retry_at` when the next is due.
    """

    __tablename__ = "peer"
    name: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    held_by: Mapped[str | None] = mapped_column(sa.String(128))
    held_until: Mapped[float]
    failures: Mapped[int]
    unreachable_since: Mapped[float | None]
    retry_at: Mapped[float]
    reason: Mapped[str | None] = mapped_column(sa.Text)


@dataclass(frozen=True)
class Noted:
    """What an attempt led to: the delivery's new state and how many attempts that took."""

    state: str
    attempts: int


class Outbox:
    """What waits for one destination.

    Parameters
    ----------
    archive: with index and results.
    destination: its name in the configuration.
    settings: pauses and the last day.
    courier: who sends; must differ between processes that share an index, and stay the same
        over restarts, so that what it held is its own again at once.
    """

    def __init__(self, archive: Archive, destination: str, settings: DeliverySettings, courier: str) -> None:
        self._archive = archive
        self._index = archive.index
        self._destination = destination
        self._settings = settings
        self._courier = courier

    def is_open(self, now: float) -> bool:
        """Whether an attempt may be made: the destination is not known to be unreachable."""
        with self._index.reading() as session:
            peer = session.get(Peer, self._destination)
            return peer is None or peer.retry_at <= now

    def hold(self, now: float, seconds: float) -> bool:
        """Be the only courier to the destination for so long; False where another one is."""
        with self._index.writing() as session:
            peer = self._peer(session)
            if peer.held_by not in (None, self._courier) and peer.held_until > now:
                return False
            peer.held_by, peer.held_until = self._courier, now + seconds
            return True

    def let_go(self) -> None:
        """Let another courier have the destination."""
        with self._index.writing() as session:
            peer = self._peer(session)
            if peer.held_by == self._courier:
                peer.held_by, peer.held_until = None, 0.0

    def _peer(self, session: Session) -> Peer:
        """The destination's row, locked until the end of the transaction where the database has row locks."""
        peer = session.get(Peer, self._destination, with_for_update=True)
        if peer is None:
            peer = Peer(name=self._destination, held_until=0.0, failures=0, retry_at=0.0)
            session.add(peer)
            session.flush()
        return peer

    def due(self, now: float) -> list[Parcel]:
        """Results to send now, oldest first, none before those that it refers to."""
        other, earlier = aliased(Delivery), aliased(Result)
        waits = (
            sa.select(other.sop_instance_uid)
            .join(earlier, earlier.sop_instance_uid == other.sop_instance_uid)
            .where(
                other.destination == self._destination,
                other.state == "pending",
                other.attempts < PATIENCE,
                earlier.reading_key == Result.reading_key,
                earlier.rank < Result.rank,
            )
            .exists()
        )
        query = (
            sa.select(Result)
            .join(Delivery, Delivery.sop_instance_uid == Result.sop_instance_uid)
            .where(
                Delivery.destination == self._destination,
                Delivery.state == "pending",
                Delivery.due_at <= now,
                ~waits,
            )
            .order_by(Delivery.created_at, Result.rank)
            .limit(_AT_ONCE)
        )
        with self._index.reading() as session:
            return [
                Parcel(row.sop_instance_uid, row.sop_class_uid, self._folder(row.reading_key) / row.file_name)
                for row in session.scalars(query)
            ]

    def _folder(self, reading_key: str) -> Path:
        return self._archive.root / "results" / reading_key

    def note(self, outcome: Outcome, now: float) -> Noted:
        """Keep what became of one result; the destination was reached."""
        with self._index.writing() as session:
            self._clear(session)
            row = session.get_one(Delivery, (outcome.parcel.sop_instance_uid, self._destination))
            row.attempts += 1
            row.status, row.reason = outcome.status, _reason(outcome)
            if outcome.stored:
                row.state, row.delivered_at = "delivered", now
                if outcome.committable:
                    commitment.note_stored(session, row.sop_instance_uid, self._destination, now)
            elif self._is_late(row, now):
                row.state = "dead"
            else:
                row.due_at = now + self._pause(row.attempts)
            return Noted(row.state, row.attempts)

    def note_reached(self) -> None:
        """The destination was reached, if with nothing to deliver."""
        with self._index.writing() as session:
            self._clear(session)

    def _clear(self, session: Session) -> None:
        peer = session.get(Peer, self._destination)
        if peer is not None and peer.failures:
            peer.failures, peer.unreachable_since, peer.retry_at, peer.reason = 0, None, 0.0, None

    def note_unreachable(self, reason: str, now: float) -> tuple[float, int]:
        """The destination takes nothing: all its results wait together.

        Returns
        -------
        Seconds until the next attempt, and how many results were given up because they have
        waited for all the days that they had.
        """
        with self._index.writing() as session:
            peer = self._peer(session)
            peer.failures += 1
            peer.unreachable_since = peer.unreachable_since or now
            pause = self._pause(peer.failures)
            peer.retry_at, peer.reason = now + pause, reason
            late = session.scalars(
                sa.select(Delivery).where(
                    Delivery.destination == self._destination,
                    Delivery.state == "pending",
                    Delivery.created_at < now - self._settings.give_up_days * 86400,
                )
            ).all()
            for row in late:
                row.state, row.reason = "dead", row.reason or reason
        return pause, len(late)

    def _is_late(self, row: Delivery, now: float) -> bool:
        return now - row.created_at > self._settings.give_up_days * 86400

    def _pause(self, attempts: int) -> float:
        """With jitter, so that many nodes do not return to a restarted PACS in step."""
        return self._settings.delay(attempts) * random.uniform(0.8, 1.2)


def _reason(outcome: Outcome) -> str | None:
    """For the index, which may hold the peer's own words."""
    comment = "".join(character for character in outcome.comment if character.isprintable())[:_COMMENT]
    return f"{outcome.reason}: {comment}" if comment and outcome.reason else outcome.reason
