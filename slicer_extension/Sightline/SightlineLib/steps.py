"""Long work in small steps, between which the window lives: a generator that a timer drives.

Not a thread: Slicer's event loop keeps Python's lock while it waits, so that a thread of Python would
hardly run, and nodes and Qt objects may only be touched by the main thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import qt

# Of one turn of the event loop; a step that is begun ends.
BUDGET_S = 0.01
# So that what the user did and what is to be drawn comes first.
PAUSE_MS = 2


class Steps:
    """Runs a generator to its end, some steps at a time.

    Parameters
    ----------
    work: each ``yield`` is a place where it may be left for a while; what it returns is its result.
    onDone: gets the result.
    onFailed: gets what it raised.
    """

    def __init__(self, work: Generator[None, None, Any], onDone: Callable, onFailed: Callable) -> None:
        self._work = work
        self._onDone = onDone
        self._onFailed = onFailed
        self._timer = qt.QTimer()
        self._timer.setInterval(PAUSE_MS)
        self._timer.timeout.connect(self._turn)
        self._timer.start()

    def cancel(self) -> None:
        """Give it up; neither function is called afterwards."""
        self._timer.stop()
        self._work.close()

    def _turn(self) -> None:
        end = time.perf_counter() + BUDGET_S
        try:
            while time.perf_counter() < end:
                next(self._work)
        except StopIteration as over:
            self._timer.stop()
            self._onDone(over.value)
        except Exception as error:  # whoever started it tells the user
            self._timer.stop()
            self._onFailed(error)


def runNow(work: Generator[None, None, Any]) -> Any:
    """Run a generator to its end without a pause; its result."""
    while True:
        try:
            next(work)
        except StopIteration as over:
            return over.value
