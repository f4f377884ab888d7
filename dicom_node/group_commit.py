"""Many instances, one transaction: how what was received becomes true in the archive.

Not the receiving (`dicom_node.incoming` has written and fsynced each file when it comes here) and
no decision whether an instance is wanted. A commit to disk costs the same for one row as for
twenty, so threads that arrive while another one commits are taken along by the next who does.
No thread of its own, no timer: an instance that comes alone is committed at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from dicom_node.index import Index, Instance, Study, Touch


class Stored(Enum):
    """What became of an instance: it is new, or the archive holds it already, or another of its name."""

    NEW = "new"
    SAME = "same"
    CONFLICT = "conflict"


@dataclass(frozen=True)
class Arrival:
    """One instance whose file is whole and on disk under a name that nobody knows yet.

    Attributes
    ----------
    sop_instance_uid, sop_class_uid, study_instance_uid, series_instance_uid: valid UIDs; the last
        two may be empty where `is_ct` is false.
    transfer_syntax_uid: of the presentation context it came in.
    is_ct: whether it is a CT image, which a reading can be made of.
    sha256: hexadecimal SHA-256 of the data set alone.
    size: bytes of the whole file.
    part: the file.
    association: number in the index, so that its study waits for the end of it.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    is_ct: bool
    sha256: str
    size: int
    part: Path
    association: int | None


@dataclass
class _Ticket:
    """An arrival that waits for the outcome of the transaction it is part of."""

    arrival: Arrival
    outcome: Stored | None = None
    error: Exception | None = None


@dataclass
class GroupCommit:
    """Puts files in their place and rows into the index. Safe to share between threads.

    Parameters
    ----------
    index: of the archive.
    path: where the file of a SOP Instance UID belongs.
    """

    index: Index
    path: Callable[[str], Path]
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _waiting: list[_Ticket] = field(default_factory=list)

    def commit(self, arrival: Arrival) -> Stored:
        """Rename, fsync the folder, commit the row; when this returns it survives a power cut.

        The file `arrival.part` is gone afterwards, whatever the outcome.

        Raises
        ------
        OSError: a file could not be renamed.
        sqlalchemy.exc.SQLAlchemyError: the index could not be written.
        """
        ticket = _Ticket(arrival)
        self._waiting.append(ticket)  # atomic
        try:
            with self._turn:
                if ticket.outcome is None and ticket.error is None:
                    self._commit_all()
        finally:
            arrival.part.unlink(missing_ok=True)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outcome is not None
        return ticket.outcome

    def _commit_all(self) -> None:
        """One transaction for everything that waits; every ticket gets its outcome or the error."""
        tickets, self._waiting = self._waiting, []
        try:
            outcomes = self._write([ticket.arrival for ticket in tickets])
        except (OSError, sa.exc.SQLAlchemyError) as error:
            for ticket in tickets:
                ticket.error = error
            return
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            ticket.outcome = outcome

    def _write(self, arrivals: Sequence[Arrival]) -> list[Stored]:
        """Rows first, so that of two who bring one UID only one gets to rename; then the files."""
        first: dict[str, Arrival] = {}
        for arrival in arrivals:
            first.setdefault(arrival.sop_instance_uid, arrival)
        with self.index.writing() as session:
            numbers = _insert(session, list(first.values()))
            new = [arrival for uid, arrival in first.items() if uid in numbers]
            for arrival in new:
                arrival.part.rename(self.path(arrival.sop_instance_uid))
            for folder in {self.path(arrival.sop_instance_uid).parent for arrival in new}:
                sync_folder(folder)
            _note_studies(session, [(arrival, numbers[arrival.sop_instance_uid]) for arrival in new])
            known = _digests(session, [uid for uid in first if uid not in numbers])
        known |= {arrival.sop_instance_uid: arrival.sha256 for arrival in new}
        return [_outcome(arrival, known, any(arrival is one for one in new)) for arrival in arrivals]


def _outcome(arrival: Arrival, known: dict[str, str], is_new: bool) -> Stored:
    if is_new:
        return Stored.NEW
    return Stored.SAME if known[arrival.sop_instance_uid] == arrival.sha256 else Stored.CONFLICT


def _upsert(session: Session, table: Any) -> Any:
    """INSERT that can say ON CONFLICT, in the words of the session's database."""
    postgres = session.get_bind().dialect.name == "postgresql"
    return postgresql.insert(table) if postgres else sqlite.insert(table)


def _insert(session: Session, arrivals: Sequence[Arrival]) -> dict[str, int]:
    """Rows for those that the index does not know; their numbers by SOP Instance UID."""
    now = time.time()
    rows = [
        {
            "sop_instance_uid": arrival.sop_instance_uid,
            "sop_class_uid": arrival.sop_class_uid,
            "study_instance_uid": arrival.study_instance_uid,
            "series_instance_uid": arrival.series_instance_uid,
            "transfer_syntax_uid": arrival.transfer_syntax_uid,
            "is_ct": arrival.is_ct,
            "sha256": arrival.sha256,
            "size": arrival.size,
            "received_at": now,
        }
        for arrival in arrivals
    ]
    table = Instance.__table__
    statement = (
        _upsert(session, table)
        .on_conflict_do_nothing(index_elements=["sop_instance_uid"])
        .returning(table.c.sop_instance_uid, table.c.id)
    )
    return {uid: number for uid, number in session.connection().execute(statement, rows)}


def _note_studies(session: Session, numbered: Sequence[tuple[Arrival, int]]) -> None:
    """Every study with a new CT image waits (again), and knows which association brought it."""
    newest = {a.study_instance_uid: number for a, number in numbered if a.is_ct}
    touches = {(a.association, a.study_instance_uid) for a, _number in numbered if a.is_ct}
    now, studies, touch = time.time(), Study.__table__, Touch.__table__
    connection = session.connection()
    for uid, number in newest.items():
        insert = _upsert(session, studies).values(
            study_instance_uid=uid, first_ct_at=now, last_ct_at=now, last_ct_id=number, waiting=True
        )
        # Numbers of two processes may be committed in the other order (PostgreSQL).
        latest = sa.case(
            (studies.c.last_ct_id > insert.excluded.last_ct_id, studies.c.last_ct_id),
            else_=insert.excluded.last_ct_id,
        )
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["study_instance_uid"],
                set_={"last_ct_at": insert.excluded.last_ct_at, "last_ct_id": latest, "waiting": True},
            )
        )
    rows = [
        {"association_id": number, "study_instance_uid": uid} for number, uid in touches if number is not None
    ]
    if rows:
        connection.execute(_upsert(session, touch).on_conflict_do_nothing(), rows)


def _digests(session: Session, uids: Sequence[str]) -> dict[str, str]:
    if not uids:
        return {}
    table = Instance.__table__
    query = sa.select(table.c.sop_instance_uid, table.c.sha256).where(table.c.sop_instance_uid.in_(uids))
    return {uid: digest for uid, digest in session.connection().execute(query)}


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
