"""Seconds per stage of a reading, and calls that tell how far it is. No profiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float], None]


class Clock:
    """Measures stages.

    Attributes
    ----------
    seconds: duration of each finished stage by name.

    Parameters
    ----------
    progress: called with a stage's name and the share done, 0..1, when the stage begins.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def stage(self, name: str, share: float) -> Iterator[None]:
        if self._progress is not None:
            self._progress(name, share)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
