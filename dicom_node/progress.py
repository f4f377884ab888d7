"""A progress bar on standard error for work that reports (stage, fraction).

Only for the command line: libraries take a callback and know nothing of this one. Where
standard error is no terminal, nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from dicom_node.series import Progress as Report


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Show one line for each stage that reports, with its elapsed time.

    Yields
    ------
    A callback ``report(stage, fraction)``, fraction 0..1.
    """
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, fraction: float) -> None:
            if stage not in tasks:
                for earlier in tasks.values():  # stages follow each other
                    bar.update(earlier, completed=1.0)
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=min(1.0, max(0.0, fraction)))

        yield report
