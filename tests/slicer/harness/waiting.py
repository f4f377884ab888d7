"""Waiting in the Qt event loop, as the application does, and measuring how it ticks.

Not a sleep: timers, sockets and slots run while a test waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from PySide6 import QtCore


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Run the event loop until `condition` holds.

    Raises
    ------
    TimeoutError: if it does not within `seconds`.
    """
    loop = QtCore.QEventLoop()
    check = QtCore.QTimer()
    check.setInterval(2)
    end = time.monotonic() + seconds
    check.timeout.connect(lambda: loop.quit() if condition() or time.monotonic() > end else None)
    check.start()
    if not condition():
        loop.exec()
    check.stop()
    if not condition():
        raise TimeoutError(f"waited {seconds} s in the event loop and the condition did not come true")


def run_for(seconds: float) -> None:
    """Run the event loop for a while."""
    loop = QtCore.QEventLoop()
    QtCore.QTimer.singleShot(int(seconds * 1000), loop.quit)
    loop.exec()


class Ticks:
    """A 10 ms timer in the event loop: how long the window did not react, at worst."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.busy: list[float] = []
        self._timer = QtCore.QTimer()
        self._timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        self._timer.setInterval(10)
        self._timer.timeout.connect(self._tick)

    def _tick(self) -> None:
        self.times.append(time.perf_counter())
        self.busy.append(time.thread_time())

    def __enter__(self) -> Ticks:
        self.times, self.busy = [], []
        self._tick()
        self._timer.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._timer.stop()
        self._tick()

    @property
    def worst_gap_s(self) -> float:
        """The longest time between two ticks, seconds."""
        return max(after - before for before, after in zip(self.times, self.times[1:], strict=False))

    @property
    def most_work_s(self) -> float:
        """The most processor time of this thread between two ticks: the gap that a free core would see."""
        return max(after - before for before, after in zip(self.busy, self.busy[1:], strict=False))
