"""Signs of life: each process of the node writes into the index, every few seconds, that it is there.

Not a supervisor: nobody is restarted for a missing beat. Whoever asks whether the receiver lives
(`dicom_node.health`) looks here and opens no DICOM connection; with several hosts on one
database it sees them all.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index import Base, Index

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
# Four beats may be late: a disk that is busy with fsyncs, a database that restarts.
STALE_SECONDS = 25.0
# A process that ended without a word is remembered so long, to be seen as down.
FORGET_SECONDS = 3600.0


class ProcessRow(Base):
    """One process of the node. `name` is host, role and process id; memory in bytes."""

    __tablename__ = "process"
    name: Mapped[str] = mapped_column(sa.String(160), primary_key=True)
    role: Mapped[str] = mapped_column(sa.String(16))
    host: Mapped[str] = mapped_column(sa.String(128))
    started_at: Mapped[float]
    beat_at: Mapped[float]
    rss_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    gpu_free_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    gpu_total_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)


@contextmanager
def beating(index: Index, role: str) -> Iterator[None]:
    """Beat from a thread of its own while this is entered; a clean end takes the row away."""
    host = socket.gethostname()[:100]
    row = ProcessRow(name=f"{host}:{role}:{os.getpid()}", role=role, host=host, started_at=time.time())
    ended = threading.Event()
    thread = threading.Thread(target=_beat_until, args=(index, row, ended), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(BEAT_SECONDS)


def _beat_until(index: Index, row: ProcessRow, ended: threading.Event) -> None:
    failing = False
    while True:
        try:
            beat(index, row)
            failing = False
        except sa.exc.SQLAlchemyError as error:
            if not failing:
                logger.warning("heartbeat not written error=%s", type(error).__name__)
            failing = True
        if ended.wait(BEAT_SECONDS):
            break
    try:
        with index.writing() as session:
            session.execute(sa.delete(ProcessRow).where(ProcessRow.name == row.name))
    except sa.exc.SQLAlchemyError as error:
        logger.warning("heartbeat not taken away error=%s", type(error).__name__)


def beat(index: Index, row: ProcessRow, now: float | None = None) -> None:
    """Write one beat of the process that `row` names.

    Parameters
    ----------
    now: seconds since the epoch; the clock by default.
    """
    now = time.time() if now is None else now
    gpu = gpu_memory()
    values = {
        "beat_at": now,
        "rss_bytes": resident_bytes(),
        "gpu_free_bytes": None if gpu is None else gpu[0],
        "gpu_total_bytes": None if gpu is None else gpu[1],
    }
    with index.writing() as session:
        session.execute(sa.delete(ProcessRow).where(ProcessRow.beat_at < now - FORGET_SECONDS))
        session.merge(
            ProcessRow(name=row.name, role=row.role, host=row.host, started_at=row.started_at, **values)
        )


def processes(index: Index) -> list[ProcessRow]:
    """The node's processes, on all hosts, that lived within the last hour."""
    with index.reading() as session:
        return list(session.scalars(sa.select(ProcessRow).order_by(ProcessRow.name)))


def alive(row: ProcessRow, now: float) -> bool:
    """Whether a process counts as alive at `now` (seconds since the epoch)."""
    return now - row.beat_at <= STALE_SECONDS


def resident_bytes() -> int:
    """Resident memory of this process; where there is no /proc, its largest so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def gpu_memory() -> tuple[int, int] | None:
    """Free and total bytes of the CUDA device that this process uses; None where it uses none.

    Asks torch only where it is loaded and has a CUDA context, and so never makes one.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    return int(free), int(total)
