"""How a training run looks on a terminal: its steps, the time that is left, a note. Draws nothing itself."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn


def step_columns() -> tuple[ProgressColumn, ...]:
    """Columns for `rich.progress.Progress`; its tasks need the field ``note``."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
