"""What passes without anybody changing the study: the database is away, the disk is full.

Such trouble is waited out, however long; it is no reason to give up a study. Everything else is
an error and raised at once.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from dicom_node.words import in_words

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 5.0  # under the heartbeat's patience, and short beside any outage
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_outage(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, is of the kind that passes.

    >>> is_outage(OSError(errno.ENOSPC, "No space left on device")), is_outage(ValueError("bad header"))
    (True, False)
    """
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    # Operational: connection lost, server going down, no space, lock not granted in time; SQLite also
    # calls a wrong statement so.
    if isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)):
        return getattr(getattr(error, "orig", None), "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
    return isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated


def outlast(work: Callable[[], T], what: str, stop: threading.Event | None = None) -> T:
    """The outcome of `work`, called again after each outage until there is one.

    Parameters
    ----------
    work: safe to repeat.
    what: it is, for the log.
    stop: when set, the outage is raised after all.
    """
    stop = stop or threading.Event()
    wait = FIRST_WAIT_SECONDS
    while True:
        try:
            return work()
        except Exception as error:
            if not is_outage(error) or stop.is_set():
                raise
            logger.warning("%s waits for database or disk error=%s", what, in_words(error))
        stop.wait(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)
