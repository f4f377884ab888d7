"""The node's checkpoints, as lines and a table for a terminal. Only builds them; `dicom_node.cli` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from dicom_node.model_store import Refusal
from dicom_node.promotion import ModelLine
from dicom_node.reading_tables import age, titled_table


def model_sentence(line: ModelLine, now: float) -> str:
    """Which model is in use, in one line; `now` in seconds since the epoch."""
    if line.judged is None:
        return f"model: the card of {line.folder} cannot be read; copy the checkpoint again"
    one = line.judged
    how = "as configured" if line.is_configured else "promoted"
    since = "" if line.since is None else f", since {age(now - line.since)}"
    return f"model: {one.name} {one.version}, digest {one.digest[:12]} ({how}{since})"


def refusal_sentence(refusal: Refusal, now: float) -> str:
    """That a promoted checkpoint was not taken, in one line."""
    return f"refused {age(now - refusal.at)} ago: {refusal.digest[:12]}, {refusal.reason}"


def model_document(line: ModelLine, refused: Sequence[Refusal]) -> dict[str, Any]:
    """The same as JSON types."""
    return {
        "judged": None if line.judged is None else dataclasses.asdict(line.judged),
        "is_configured": line.is_configured,
        "since": line.since,
        "refused": [dataclasses.asdict(one) for one in refused],
    }


def models_table(lines: Sequence[ModelLine], now: float) -> Table:
    """All checkpoints of the node, one a line."""
    table = titled_table("models", "digest", "name", "version", "state", "from")
    for line in lines:
        one = line.judged
        state = line.state if line.reason is None else f"{line.state}: {line.reason}"
        if line.since is not None:
            state = f"{state} since {age(now - line.since)}"
        table.add_row(
            "unreadable" if one is None else one.digest[:12],
            "" if one is None else escape(one.name),
            "" if one is None else escape(one.version),
            escape(state),
            "configuration" if line.is_configured else "promotion",
            style="bold" if line.state == "in use" else "",
        )
    return table
