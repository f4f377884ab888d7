"""How fast a run goes, and what it waits for: crops per second, share of time in the step, GPU use.

Only looks at a clock and, on a GPU, at the driver's own counter; nothing is slowed down for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch

KEEP = 0.95  # of the earlier value, at each step


@dataclass
class Throughput:
    """Rates of the last steps.

    Attributes
    ----------
    crops: of one step, all processes together.
    waited: share of time that the step waits for data; smoothed.
    seconds: per step; smoothed.
    """

    crops: int
    waited: float = 0.0
    seconds: float = 0.0
    _idle: float = 0.0
    _last: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what fetches data."""
        begin = time.perf_counter()
        yield
        self._idle += time.perf_counter() - begin

    def step(self) -> None:
        """At the end of each step."""
        now = time.perf_counter()
        if self._last is not None:
            took = now - self._last
            share = min(1.0, self._idle / took) if took > 0 else 0.0
            new = self.seconds == 0
            self.waited = share if new else KEEP * self.waited + (1 - KEEP) * share
            self.seconds = took if new else KEEP * self.seconds + (1 - KEEP) * took
        self._last, self._idle = now, 0.0

    def figures(self, device: torch.device) -> dict[str, float]:
        """For the log.

        Returns
        -------
        "crops_per_second"; "busy", the share of time that is not spent waiting for data; on a GPU "gpu_gib",
        and "gpu_use" (0 to 1, by the driver's counter) where the package nvidia-ml-py is installed.
        """
        if not self.seconds:
            return {}
        found = {"crops_per_second": self.crops / self.seconds, "busy": 1 - self.waited}
        if device.type == "cuda":
            found["gpu_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            if find_spec("pynvml") is not None:
                found["gpu_use"] = torch.cuda.utilization(device) / 100
        return found

    def note(self, device: torch.device) -> str:
        """A few words for the progress bar."""
        figures = self.figures(device)
        if not figures:
            return ""
        words = [f"{figures['crops_per_second']:.2f} crops/s", f"busy {figures['busy']:.0%}"]
        if "gpu_use" in figures:
            words.append(f"GPU {figures['gpu_use']:.0%}")
        return ", ".join(words)


__all__ = ["Throughput"]
