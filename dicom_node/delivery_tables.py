"""How deliveries stand, as tables for a terminal. Only builds them; `dicom_node.cli` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from dicom_node.delivery_status import DestinationLine, Undelivered
from dicom_node.reading_tables import age, titled_table


def delivery_tables(
    destinations: Sequence[DestinationLine], undelivered: Sequence[Undelivered], now: float
) -> list[Table]:
    """Destinations, and what they do not take; `now` in seconds since the epoch."""
    tables = [_destinations(destinations, now)] if destinations else []
    return [*tables, _undelivered(undelivered, now)] if undelivered else tables


def _destinations(lines: Sequence[DestinationLine], now: float) -> Table:
    peers = titled_table(
        "destinations", "destination", "where", "delivered", "committed", "wait", "given up", "state"
    )
    for line in lines:
        asked = line.committed + line.uncommitted
        peers.add_row(
            escape(line.name),
            escape(line.place) or "not configured",
            str(line.delivered),
            f"{line.committed} of {asked}" if asked else "",
            str(line.pending),
            str(line.dead) if line.dead else "",
            _state(line, now),
            style="bold red" if line.dead or line.reason else "",
        )
    return peers


def _state(line: DestinationLine, now: float) -> str:
    if line.unreachable_since is None or line.retry_at is None:
        return "" if line.place else "results wait for it to be configured"
    wait = f"next try in {age(line.retry_at - now)}" if line.retry_at > now else "next try now"
    return f"unreachable for {age(now - line.unreachable_since)}, {wait}: {escape(line.reason or '')}"


def _undelivered(lines: Sequence[Undelivered], now: float) -> Table:
    results = titled_table(
        "results that were not taken", "study", "destination", "result", "state", "tried", "since", "reason"
    )
    for line in lines:
        results.add_row(
            line.study_instance_uid,
            escape(line.destination),
            escape(line.file_name),
            "given up" if line.state == "dead" else "waits",
            str(line.attempts),
            f"{age(now - line.since)} ago",
            escape(line.reason or ""),
        )
    return results
