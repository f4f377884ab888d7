"""How the database under the index is opened: SQLite or PostgreSQL, with the same promises.

Not the tables (`dicom_node.index`). What holds on both: a commit survives a power cut; a reading
transaction sees one state; of transactions that write there is one at a time, from its first
statement on, so that ids are committed in the order in which they were drawn and nothing that
was read before a write is stale. One writer at a time costs little: a transaction is
milliseconds, and the pixels are not in it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dicom_node.errors import SightlineError

# The same as SQLite's busy_timeout: how long a transaction waits for the one that writes.
LOCK_SECONDS = 30
# Drawn once at random; names the lock of all that write to one PostgreSQL database.
WRITE_LOCK = 0x51_67_68_74_6C_69_6E_65
# A host that loses power in a transaction must not hold the write lock until TCP notices.
IDLE_TRANSACTION_SECONDS = 60
CONNECT_SECONDS = 5


def open_engine(url: str) -> sa.Engine:
    """An engine for `url`; nothing is connected yet.

    Transactions of connections with the execution option ``writes=True`` are one at a time.

    Raises
    ------
    SightlineError: `url` is no SQLAlchemy URL, or names a database or driver that does not work here.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "postgresql":
            engine = _postgresql(parsed)
        else:
            engine = sa.create_engine(parsed)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise SightlineError(
            f"database = {without_password(url)!r}: {first_line(error)}; write "
            "postgresql+psycopg://USER@HOST/NAME, or leave it out for SQLite in the archive"
        ) from None
    if engine.dialect.name == "sqlite":
        _use_sqlite_safely(engine)
    elif engine.dialect.name != "postgresql":
        raise SightlineError(f"database = {without_password(url)!r}: must be sqlite or postgresql+psycopg")
    return engine


def begin_writing(dialect: sa.Dialect) -> str:
    """What begins a transaction that writes, for who speaks to the driver itself."""
    if dialect.name == "postgresql":
        return f"SELECT pg_advisory_xact_lock({WRITE_LOCK})"
    return "BEGIN IMMEDIATE"


def without_password(url: str) -> str:
    """`url` for people and logs."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return url.split("://", maxsplit=1)[0] + "://..."


def first_line(error: Exception) -> str:
    """The first line of an error's own text, without SQLAlchemy's background links."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _postgresql(url: sa.URL) -> sa.Engine:
    """PostgreSQL with a commit that waits for the disk, whatever the server's default."""
    settings = {
        "synchronous_commit": "on",
        "lock_timeout": f"{LOCK_SECONDS}s",
        "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_SECONDS}s",
    }
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,  # a server that was restarted costs no transaction
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql(begin_writing(engine.dialect))
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    return engine


def _use_sqlite_safely(engine: sa.Engine) -> None:
    """WAL so that readers never block the receiver; FULL so that a commit survives a power cut.

    A transaction that will write takes the lock at its start: a read that turns into a write
    would otherwise fail at once when another process wrote in between, whatever the timeout.
    """

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        wait = f"busy_timeout={LOCK_SECONDS * 1000}"
        for pragma in (wait, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql(begin_writing(engine.dialect) if writes else "BEGIN")


def bring_up_to_date(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Make the tables, columns and indexes that are missing; change and drop nothing.

    Each version of the tables only adds to the one before: tables, indexes, and columns that may
    be null. So one function serves every older version, and what is archived stays as it is.
    """
    metadata.create_all(connection)
    inspector = sa.inspect(connection)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                kind = column.type.compile(connection.dialect)
                name = connection.dialect.identifier_preparer.format_column(column)
                connection.exec_driver_sql(f'ALTER TABLE "{table.name}" ADD COLUMN {name} {kind}')
        for index in table.indexes:
            index.create(connection, checkfirst=True)
