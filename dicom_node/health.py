"""Whether the node can do its work now: one answer per thing, without touching its DICOM port.

Not `dicom_node.check`, which looks before a node is started. Connecting to the DICOM port to see whether
it answers costs an association each time; the receiver's heartbeat in the index says the same.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import sqlalchemy as sa

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.heartbeat import alive, processes
from dicom_node.index import Schema

OK = "ok"


def readiness(config: Config, archive: Archive) -> dict[str, str]:
    """What was looked at -> ``"ok"``, or what is wrong: the archive, its disk, the index, each role."""
    checks: dict[str, Callable[[], str]] = {
        "archive": lambda: _archive(archive),
        "disk": lambda: _disk(config, archive),
        "index": lambda: _index(archive),
    }
    found = {name: _answer(check) for name, check in checks.items()}
    try:
        living = {row.role for row in processes(archive.index) if alive(row, time.time())}
    except sa.exc.SQLAlchemyError:
        living = set()
    return found | {role: OK if role in living else "no sign of life" for role in config.monitor.roles}


def _answer(check: Callable[[], str]) -> str:
    try:
        return check()
    except OSError as error:
        return error.strerror or type(error).__name__
    except sa.exc.SQLAlchemyError as error:
        return type(error).__name__


def _archive(archive: Archive) -> str:
    probe = archive.root / f".ready-{uuid.uuid4().hex}"
    probe.touch(mode=0o600)
    probe.unlink()
    return OK


def _disk(config: Config, archive: Archive) -> str:
    free = archive.free_bytes() / 2**30
    if free < config.reserve_gib:
        return f"{free:.1f} GiB free, below reserve_gib = {config.reserve_gib:g}"
    return OK


def _index(archive: Archive) -> str:
    with archive.index.reading() as session:
        session.execute(sa.select(Schema.version)).one()
    return OK
