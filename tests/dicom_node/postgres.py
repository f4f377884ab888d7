"""Debian's PostgreSQL for the tests: a server of their own on loopback, gone when they end.

Not a system service. Runs as the user ``postgres`` where the tests run as root, which the server
refuses to be. Commits do not wait for the disk here (``fsync=off``): the tests kill processes,
they do not cut the power.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from tests.dicom_node.network import free_port

SUPERUSER = "sightline"
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "fsync": "off",
}


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; Debian keeps it out of the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


class Postgres:
    """A server that can be stopped and started again; see `postgres`."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._port = free_port()
        self._user = "postgres" if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)

    def initialise(self) -> None:
        """Make the data folder."""
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        options = ["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [self._binaries / "initdb", "-D", self._data, *options],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=self._folder,
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-p", str(self._port), *options],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self._folder,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self._execute("SELECT 1")
                return
            except sa.exc.OperationalError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text("utf-8")
                assert time.monotonic() < deadline, "PostgreSQL did not start within 60 s"
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as a crash would: no connection is ended in good order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # "immediate shutdown"
            self._process.wait(60)
            self._process = None

    def new_database(self) -> str:
        """An empty database; its URL, as the node's configuration wants it."""
        name = f"test_{next(self._names)}"
        self._execute(f"CREATE DATABASE {name}")
        return self._url(name)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{self._port}/{name}"

    def _execute(self, statement: str) -> None:
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()


@contextlib.contextmanager
def postgres(binaries: Path) -> Iterator[Postgres]:
    """A fresh server with programs from `binaries`, running; its data is removed at the end."""
    # Not in pytest's folders: another user cannot pass through those.
    folder = Path(tempfile.mkdtemp(prefix="sightline-postgres-"))
    server = Postgres(binaries, folder)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def fresh_database() -> Iterator[str]:
    """The URL of an empty database on a server of its own.

    Raises
    ------
    FileNotFoundError: PostgreSQL is not installed.
    """
    binaries = programs()
    if binaries is None:
        raise FileNotFoundError("PostgreSQL is not installed; install Debian's package postgresql")
    with postgres(binaries) as server:
        yield server.new_database()
