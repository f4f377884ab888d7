"""A run's log: ``log.jsonl``, and TensorBoard's event files where that package is installed.

Not the resumable state. After an interruption the log goes on at the step of the state: what was
logged beyond it is dropped, because those steps are made again.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LOG = "log.jsonl"
EVENTS = "tensorboard"


def has_tensorboard() -> bool:
    """Whether event files can be written here (extra ``train``)."""
    return find_spec("tensorboard") is not None


class LogBook:
    """Writes scalars by step; use as a context manager.

    Parameters
    ----------
    folder: exists; receives ``log.jsonl`` and ``tensorboard/``.
    step: steps that were done before.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._file = folder / LOG
        if self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= step]
            self._file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        # Some torch versions annotate the writer and some do not: both must pass the type check.
        self._events: Any = None
        if has_tensorboard():
            from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415 - slow, optional

            writer: Any = SummaryWriter
            self._events = writer(str(folder / EVENTS), purge_step=step + 1)

    def __enter__(self) -> LogBook:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()

    def write(self, step: int, losses: dict[str, float], **figures: float) -> None:
        """Log one step: losses, and further figures as seconds or learning_rate."""
        entry = {"step": float(step), **losses, **figures}
        with self._file.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        if self._events is not None:
            for name, value in losses.items():
                self._events.add_scalar(f"loss/{name}", value, step)
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)


class NoLog:
    """Takes what is logged and keeps nothing, for all processes but the first."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def write(self, step: int, losses: dict[str, float], **figures: float) -> None:
        """Nothing is written."""


def _step(line: str) -> float:
    """The step of a log line; one that was cut off while it was written is of no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
