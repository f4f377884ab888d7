"""The index: the tables that say what was received, read and delivered (SQLAlchemy 2.0).

Not the files (`dicom_node.archive`) and no decisions: the modules that own an idea query
these tables through `Index`. SQLite by default, PostgreSQL by one setting; what differs between
them is in `dicom_node.database`. Times are seconds since the epoch (UTC).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dicom_node.database import bring_up_to_date, first_line, open_engine, without_password
from dicom_node.errors import SightlineError

# Raise it when a table, an index or a column that may be null is added; nothing else may change.
# 2: `Worker`. 3: `Generation.choices`.
SCHEMA_VERSION = 3
UID = sa.String(64)  # PS3.5 table 6.2-1, VR UI
# Bytes and row numbers outgrow 32 bits; SQLite numbers rows only in a column declared INTEGER.
Large = Annotated[int, mapped_column(sa.BigInteger().with_variant(sa.Integer, "sqlite"))]
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
    id: Mapped[Large] = mapped_column(primary_key=True, autoincrement=True)
    sop_instance_uid: Mapped[str] = mapped_column(UID, unique=True)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    study_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    series_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    transfer_syntax_uid: Mapped[str] = mapped_column(UID)
    is_ct: Mapped[bool]
    sha256: Mapped[str] = mapped_column(sa.String(64))
    size: Mapped[Large]
    received_at: Mapped[float]
    __table_args__ = ({"sqlite_autoincrement": True},)


class Study(Base):
    """A study with CT images: when the last one came, and whether it waits to become complete."""

    __tablename__ = "study"
    study_instance_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    first_ct_at: Mapped[float]
    last_ct_at: Mapped[float]
    last_ct_id: Mapped[Large]
    waiting: Mapped[bool] = mapped_column(index=True)


class Association(Base):
    """One association with a peer, open as long as `closed_at` is null."""

    __tablename__ = "association"
    id: Mapped[Large] = mapped_column(primary_key=True, autoincrement=True)
    receiver: Mapped[str] = mapped_column(sa.String(64))
    opened_at: Mapped[float]
    closed_at: Mapped[float | None]


class Touch(Base):
    """An association brought new CT images of a study."""

    __tablename__ = "touch"
    association_id: Mapped[Large] = mapped_column(sa.ForeignKey("association.id"), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(UID, primary_key=True, index=True)


class Generation(Base):
    """A study's n-th complete state: all its CT instances with id <= `watermark`.

    `state` goes ``complete`` -> ``queued`` -> ``read``, or ends in ``refused`` (no series can be
    read), ``unchanged`` (this very input was read before), ``failed``, or ``set aside`` until a
    person wants it tried (it never became complete, or ended its reader again and again);
    `reason` says why.
    `sop_instance_uids` are the slices of the chosen series in slice order. `choices` counts how often it was
    chosen again, because another model was promoted before it was read; null for never.
    """

    __tablename__ = "generation"
    id: Mapped[Large] = mapped_column(primary_key=True, autoincrement=True)
    study_instance_uid: Mapped[str] = mapped_column(UID)
    number: Mapped[int]
    watermark: Mapped[Large]
    last_ct_at: Mapped[float]
    complete_at: Mapped[float]
    state: Mapped[str] = mapped_column(sa.String(16), index=True)
    reason: Mapped[str | None] = mapped_column(sa.Text)
    series_instance_uid: Mapped[str | None] = mapped_column(UID)
    sop_instance_uids: Mapped[list[str] | None] = mapped_column(sa.JSON)
    reading_key: Mapped[str | None] = mapped_column(sa.String(64), index=True)
    choices: Mapped[int | None]
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
    peak_rss_bytes: Mapped[Large]
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


class Worker(Base):
    """A process that reads, under a name that it keeps over restarts (``host:role:slot``).

    `beats` grows as long as it lives; `launch` is drawn anew at each start, so that a process
    whose name another one took can tell. `alive` is false once it has ended in good order.
    """

    __tablename__ = "worker"
    name: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    launch: Mapped[str] = mapped_column(sa.String(32))
    started_at: Mapped[float]
    beats: Mapped[Large]
    alive: Mapped[bool]


class Index:
    """The database behind the tables. Safe to share between threads; one per process.

    Raises
    ------
    SightlineError: the URL cannot be opened, or a newer version of Sightline made the database.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        self._writer = self._engine.execution_options(writes=True)
        try:
            with self._writer.begin() as connection:
                found = _version(connection)
                if found <= SCHEMA_VERSION:
                    # Always: which tables there are depends on the modules that a process imports.
                    bring_up_to_date(connection, Base.metadata)
                if found < SCHEMA_VERSION:
                    connection.execute(sa.delete(Schema))
                    connection.execute(sa.insert(Schema).values(version=SCHEMA_VERSION))
        except sa.exc.DBAPIError as error:
            raise SightlineError(
                f"database = {without_password(url)!r}: cannot be opened: {first_line(error)}"
            ) from None
        if found > SCHEMA_VERSION:
            raise SightlineError(
                f"database = {without_password(url)!r}: has tables of version {found}, this program knows "
                f"them up to {SCHEMA_VERSION}; use an empty archive or a newer version of Sightline"
            )

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, one state of everything; its objects stay usable afterwards."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in the one write transaction: on disk at the end, or rolled back."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @property
    def dialect(self) -> sa.Dialect:
        """What the database speaks."""
        return self._engine.dialect

    def connect(self) -> sa.Connection:
        """A connection for writing, for one thread at a time that keeps it; close it when done."""
        return self._writer.connect()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _version(connection: sa.Connection) -> int:
    """The version of the tables that are there; 0 if there are none."""
    if not sa.inspect(connection).has_table(Schema.__tablename__):
        return 0
    return connection.scalar(sa.select(sa.func.max(Schema.version))) or 0
