"""Storage commitment: which stored results a destination has promised to keep (PS3.4 annex J).

The table and its changes, one function for each thing that can happen. Not the asking
(`dicom_node.commitment_requests`) and not the hearing (`dicom_node.commitment_reports`), which
may happen in two processes: the row is written before the question is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from dicom_node.config import DeliverySettings
from dicom_node.index import UID, Base, Delivery, Index, Result

# How long a peer may take for its report before it is asked again; doubles each time. The
# standard sets no limit, and an archive on tape takes its time (our choice).
REPORT_SECONDS = 3600.0
REPORT_CAP_SECONDS = 86400.0


class Commitment(Base):
    """One stored result at one destination that offers storage commitment.

    `state`: ``due`` to be asked for, ``asked``, ``committed``, or ``unanswered`` where no report
    came in all the days that a delivery has. What a destination reports as not kept has no row
    any more: its delivery is pending again. `attempts` counts the questions.
    """

    __tablename__ = "commitment"
    sop_instance_uid: Mapped[str] = mapped_column(
        sa.ForeignKey("result.sop_instance_uid", ondelete="CASCADE"), primary_key=True
    )
    destination: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    state: Mapped[str] = mapped_column(sa.String(16), index=True)
    transaction_uid: Mapped[str | None] = mapped_column(UID, index=True)
    attempts: Mapped[int]
    created_at: Mapped[float]
    due_at: Mapped[float]
    reason: Mapped[str | None] = mapped_column(sa.Text)
    committed_at: Mapped[float | None]


@dataclass(frozen=True)
class Promise:
    """An instance to be committed: its UIDs as storage commitment names it."""

    sop_class_uid: str
    sop_instance_uid: str


def note_stored(session: Session, sop_instance_uid: str, destination: str, now: float) -> None:
    """A result was stored at a destination that offers commitment: it is due to be asked for."""
    row = session.get(Commitment, (sop_instance_uid, destination))
    if row is None:
        row = Commitment(sop_instance_uid=sop_instance_uid, destination=destination)
        session.add(row)
    row.state, row.transaction_uid, row.reason, row.committed_at = "due", None, None, None
    row.attempts, row.created_at, row.due_at = 0, now, now


def begin(index: Index, destination: str, transaction_uid: str, now: float, limit: int) -> list[Promise]:
    """Put what is due to be asked for under a new transaction UID; the instances, oldest first."""
    with index.writing() as session:
        rows = session.execute(
            sa.select(Commitment, Result.sop_class_uid)
            .join(Result, Result.sop_instance_uid == Commitment.sop_instance_uid)
            .where(
                Commitment.destination == destination,
                Commitment.state.in_(("due", "asked")),
                Commitment.due_at <= now,
            )
            .order_by(Commitment.created_at)
            .limit(limit)
        ).all()
        for row, _ in rows:
            row.state, row.transaction_uid, row.attempts = "asked", transaction_uid, row.attempts + 1
            wait = min(REPORT_CAP_SECONDS, REPORT_SECONDS * 2.0 ** (row.attempts - 1))
            row.due_at = now + wait
    return [Promise(sop_class, row.sop_instance_uid) for row, sop_class in rows]


def is_due(index: Index, destination: str, now: float) -> bool:
    """Whether a destination is to be asked for anything."""
    query = sa.select(Commitment.sop_instance_uid).where(
        Commitment.destination == destination,
        Commitment.state.in_(("due", "asked")),
        Commitment.due_at <= now,
    )
    with index.reading() as session:
        return session.scalar(query.limit(1)) is not None


def postpone(index: Index, transaction_uid: str, reason: str, now: float, settings: DeliverySettings) -> None:
    """The question was not accepted: it is due anew, after the pauses of a delivery."""
    with index.writing() as session:
        for row in session.scalars(
            sa.select(Commitment).where(
                Commitment.transaction_uid == transaction_uid, Commitment.state == "asked"
            )
        ):
            row.state, row.reason, row.due_at = "due", reason, now + settings.delay(row.attempts)


def give_up_old(index: Index, destination: str, settings: DeliverySettings, now: float) -> int:
    """Stop asking for what got no report in all the days that a delivery has; how many."""
    with index.writing() as session:
        rows = session.scalars(
            sa.select(Commitment).where(
                Commitment.destination == destination,
                Commitment.state.in_(("due", "asked")),
                Commitment.due_at <= now,
                Commitment.created_at < now - settings.give_up_days * 86400,
            )
        ).all()
        for row in rows:
            row.state, row.reason = "unanswered", row.reason or "no report came"
    return len(rows)


def is_open(index: Index, transaction_uid: str) -> bool:
    """Whether a transaction still waits for its report."""
    query = sa.select(Commitment.sop_instance_uid).where(
        Commitment.transaction_uid == transaction_uid, Commitment.state == "asked"
    )
    with index.reading() as session:
        return session.scalar(query.limit(1)) is not None


def settle(
    index: Index,
    transaction_uid: str,
    *,
    committed: Sequence[str],
    failed: Mapping[str, str],
    now: float,
    settings: DeliverySettings,
) -> bool:
    """Take a report to the books: what is committed stays, what failed is sent again.

    Parameters
    ----------
    committed: SOP Instance UIDs that the destination keeps.
    failed: SOP Instance UID -> reason, for those that it does not.
    now: seconds since the epoch.

    Returns
    -------
    Whether the transaction is one of ours. A report that comes twice changes nothing.
    """
    with index.writing() as session:
        rows = session.scalars(
            sa.select(Commitment).where(Commitment.transaction_uid == transaction_uid)
        ).all()
        for row in rows:
            if row.sop_instance_uid in failed:
                _send_again(session, row, failed[row.sop_instance_uid], now, settings)
            elif row.sop_instance_uid in committed and row.state != "committed":
                row.state, row.committed_at, row.reason = "committed", now, None
    return bool(rows)


def _send_again(
    session: Session, row: Commitment, reason: str, now: float, settings: DeliverySettings
) -> None:
    delivery = session.get_one(Delivery, (row.sop_instance_uid, row.destination))
    late = now - delivery.created_at > settings.give_up_days * 86400
    delivery.state = "dead" if late else "pending"
    delivery.reason, delivery.delivered_at = f"storage commitment failed: {reason}", None
    delivery.due_at = now + settings.delay(delivery.attempts)
    session.delete(row)
