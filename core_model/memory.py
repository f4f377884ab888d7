"""Memory that a process keeps between uses, so that a reading does not fetch every page anew.

A reading makes and drops tensors of hundreds of MiB. glibc gives each of them back to the system at once,
which has to clear other pages for the next: that took a third of a reading's time on a CPU (CHANGELOG.md).
A setting of the whole process: programs make it when they start, libraries never. No allocator of our own,
and nothing but glibc is changed.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Of <malloc.h>; mallopt(3) and malloc_trim(3) say what they do.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = -1  # as a trim threshold
_TOP_PAD_BYTES = 64 * 2**20  # by which the heap grows at least; our choice


def keep_memory() -> bool:
    """Have this process keep the memory that it frees. Call it before threads are started and tensors made.

    Returns
    -------
    Whether the process does so now: False where its C library is not glibc, whose way this is.
    """
    libc = _glibc()
    if libc is None:
        return False
    # One arena: those of threads cannot hold large blocks, and would fetch each from the system after all.
    settings = (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
    )
    return all([libc.mallopt(name, value) == 1 for name, value in settings])


def give_back_memory() -> bool:
    """Give the system what is kept and not in use, as between two readings.

    Returns
    -------
    Whether there was something to give back.
    """
    libc = _glibc()
    return libc is not None and libc.malloc_trim(0) == 1


def _glibc() -> Any:
    """The C library of this process, where it is glibc; else None."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
