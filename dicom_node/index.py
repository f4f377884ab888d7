"""The index: the tables that say what was received, read and delivered (SQLAlchemy 2.0).

Not the files (`dicom_node.archive`) and no decisions: the modules that own an idea query
these tables through `Index`. SQLite in WAL mode by default; nothing here is SQLite's own
except the pragmas. Times are seconds since the epoch (UTC).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dicom_node.errors import SightlineError

SCHEMA_VERSION = 1
UID = sa.String(64)  # PS3.5 table 6.2-1, VR UI
# `Result.rank` of a report; lower are segments, which a receiver that opens it at once must find, higher are
# corrections.
REPORT_RANK = 1


class Base(DeclarativeBase):
    """Declarative base of all tables."""


class Schema(Base):
    """One row: the version of these tables that made the database."""

    __tablename__ = "schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class Instance(Base):
    """One received SOP instance whose file is safe on disk.

    `id` grows with time, so that "everything up to id n" is a state of a study that later
    arrivals cannot change. `sha256` is of the data set without the file meta information.
    """

    __tablename__ = "instance"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sop_instance_uid: Mapped[str] = mapped_column(UID, unique=True)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    study_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    series_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    transfer_syntax_uid: Mapped[str] = mapped_column(UID)
    is_ct: Mapped[bool]
    sha256: Mapped[str] = mapped_column(sa.String(64))
    size: Mapped[int]
    received_at: Mapped[float]
    __table_args__ = ({"sqlite_autoincrement": True},)


class Study(Base):
    """A study with CT images: when the last one came, and whether it waits to become complete."""

    __tablename__ = "study"
    study_instance_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    first_ct_at: Mapped[float]
    last_ct_at: Mapped[float]
    last_ct_id: Mapped[int]
    waiting: Mapped[bool] = mapped_column(index=True)


class Association(Base):
    """One association with a peer, open as long as `closed_at` is null."""

    __tablename__ = "association"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    receiver: Mapped[str] = mapped_column(sa.String(64))
    opened_at: Mapped[float]
    closed_at: Mapped[float | None]


class Touch(Base):
    """An association brought new CT images of a study."""

    __tablename__ = "touch"
    association_id: Mapped[int] = mapped_column(sa.ForeignKey("association.id"), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(UID, primary_key=True, index=True)


class Generation(Base):
    """A study's n-th complete state: all its CT instances with id <= `watermark`.

    `state` goes ``complete`` -> ``queued`` -> ``read``, or ends in ``refused`` (no series can be
    read), ``unchanged`` (this very input was read before) or ``failed``; `reason` says why.
    `sop_instance_uids` are the slices of the chosen series in slice order.
    """

    __tablename__ = "generation"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    study_instance_uid: Mapped[str] = mapped_column(UID)
    number: Mapped[int]
    watermark: Mapped[int]
    last_ct_at: Mapped[float]
    complete_at: Mapped[float]
    state: Mapped[str] = mapped_column(sa.String(16), index=True)
    reason: Mapped[str | None] = mapped_column(sa.Text)
    series_instance_uid: Mapped[str | None] = mapped_column(UID)
    sop_instance_uids: Mapped[list[str] | None] = mapped_column(sa.JSON)
    reading_key: Mapped[str | None] = mapped_column(sa.String(64), index=True)
    __table_args__ = (sa.UniqueConstraint("study_instance_uid", "number"),)


class ReadingRow(Base):
    """A finished reading, by its idempotency key. `seconds` is per stage; memory in bytes."""

    __tablename__ = "reading"
    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    series_instance_uid: Mapped[str] = mapped_column(UID)
    started_at: Mapped[float]
    finished_at: Mapped[float]
    seconds: Mapped[dict[str, float]] = mapped_column(sa.JSON)
    peak_rss_bytes: Mapped[int]
    device: Mapped[str] = mapped_column(sa.String(128))


class Result(Base):
    """One DICOM object made of a reading. `rank` orders sending: SEG before the SR that refers to it."""

    __tablename__ = "result"
    sop_instance_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    reading_key: Mapped[str] = mapped_column(sa.ForeignKey("reading.key"), index=True)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    file_name: Mapped[str] = mapped_column(sa.String(64))
    rank: Mapped[int]


class Delivery(Base):
    """One result to one destination. `state`: ``pending``, ``delivered`` or ``dead``."""

    __tablename__ = "delivery"
    sop_instance_uid: Mapped[str] = mapped_column(sa.ForeignKey("result.sop_instance_uid"), primary_key=True)
    destination: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    state: Mapped[str] = mapped_column(sa.String(16), index=True)
    attempts: Mapped[int]
    created_at: Mapped[float]
    due_at: Mapped[float]
    status: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(sa.Text)
    delivered_at: Mapped[float | None]


class Upload(Base):
    """A volume that was sent to the query service and read; it has no DICOM headers.

    `study_instance_uid` is made up from its content and the model, so that the same volume is
    the same study; `key` names its folder; `series_instance_uid` is what the sender calls it.
    """

    __tablename__ = "upload"
    study_instance_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(64))
    series_instance_uid: Mapped[str | None] = mapped_column(UID, index=True)
    images: Mapped[int]
    uploaded_at: Mapped[float]
    finished_at: Mapped[float]


class CorrectionRow(Base):
    """A radiologist's correction of a reading; its SEG (if any) and SR are results of that reading.

    `marks` are finding index and verdict as they came; who corrected is only in the SR.
    """

    __tablename__ = "correction"
    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    reading_key: Mapped[str] = mapped_column(sa.ForeignKey("reading.key"), index=True)
    study_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    received_at: Mapped[float]
    marks: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON)
    segmentation_sop_instance_uid: Mapped[str | None] = mapped_column(UID)
    report_sop_instance_uid: Mapped[str] = mapped_column(UID)


class Index:
    """The database behind the tables. Safe to share between threads; one per process.

    Raises
    ------
    SightlineError: the URL cannot be opened, or another version of Sightline made the database.
    """

    def __init__(self, url: str) -> None:
        try:
            self._engine = sa.create_engine(url)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise SightlineError(f"database = {url!r}: {_first_line(error)}") from None
        if self._engine.dialect.name == "sqlite":
            _use_sqlite_safely(self._engine)
        self._writer = self._engine.execution_options(writes=True)
        try:
            with self._writer.begin() as connection:
                Base.metadata.create_all(connection)
                for table in Base.metadata.sorted_tables:
                    for index in table.indexes:  # create_all adds none to tables that were there before
                        index.create(connection, checkfirst=True)
                versions = connection.scalars(sa.select(Schema.version)).all()
                if not versions:
                    connection.execute(sa.insert(Schema).values(version=SCHEMA_VERSION))
        except sa.exc.DBAPIError as error:
            raise SightlineError(f"database = {url!r}: cannot be opened: {_first_line(error)}") from None
        if versions and versions[0] != SCHEMA_VERSION:
            raise SightlineError(
                f"database = {url!r}: has tables of version {versions[0]}, this program needs "
                f"{SCHEMA_VERSION}; use an empty archive or the matching version of Sightline"
            )

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads; its objects stay usable afterwards."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in one write transaction: committed (and on disk) at the end, or rolled back."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _first_line(error: Exception) -> str:
    """The first line of an error's own text, without SQLAlchemy's background links."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _use_sqlite_safely(engine: sa.Engine) -> None:
    """WAL so that readers never block the receiver; FULL so that a commit survives a power cut.

    A transaction that will write takes the lock at its start: a read that turns into a write
    would otherwise fail at once when another process wrote in between, whatever the timeout.
    """

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
