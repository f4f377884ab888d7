"""A reading, a localization and the state of a node as tables for a terminal.

Only builds them; `dicom_node.cli` prints. The machine-readable forms are ``reading.json``
and ``sightline query --json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from core_model.abnormality import abnormality
from core_model.anatomy import organ
from core_model.reading import Localization, Reading

if TYPE_CHECKING:
    from dicom_node.status import Line


def reading_tables(reading: Reading) -> list[Table]:
    """Organs in view, findings, and lesions if there are any."""
    tables = [_organs(reading), _findings(reading)]
    return [*tables, _lesions(reading)] if reading.lesions else tables


def titled_table(title: str, *columns: str) -> Table:
    """First column to the left, the others to the right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _organs(reading: Reading) -> Table:
    present = [o for o in reading.organs if o.present]
    table = titled_table(f"{len(present)} of {len(reading.organs)} organs in view", "organ", "ml", "cut off")
    for entry in present:
        table.add_row(organ(entry.name).display, f"{entry.volume_ml:.0f}", "yes" if entry.truncated else "")
    return table


def _findings(reading: Reading) -> Table:
    table = titled_table("findings", "abnormality", "organ", "status", "probability")
    for finding in reading.findings:
        probability = "" if finding.probability is None else f"{finding.probability:.2f}"
        style = "bold red" if finding.status == "present" else ""
        table.add_row(
            abnormality(finding.abnormality).display,
            organ(finding.organ).display,
            finding.status,
            probability,
            style=style,
        )
    return table


def _lesions(reading: Reading) -> Table:
    table = titled_table(
        "lesions", "lesion", "organ", "probability", "axes mm", "ml", "mean HU", "centre LPS mm"
    )
    for lesion in reading.lesions:
        table.add_row(
            f"{lesion.label} {abnormality(lesion.type).display}",
            organ(lesion.organ).display,
            f"{lesion.probability:.2f}",
            f"{lesion.long_axis_mm:.0f} x {lesion.short_axis_mm:.0f}",
            f"{lesion.volume_ml:.1f}",
            f"{lesion.mean_hu:.0f}",
            " ".join(f"{value:.0f}" for value in lesion.centroid_lps_mm),
        )
    return table


def localization_table(found: Localization, n_slices: int) -> Table:
    """Where a text was found."""
    table = Table(title=repr(found.text), title_justify="left", show_header=False)
    table.add_row("position (LPS mm)", " ".join(f"{value:.1f}" for value in found.position_lps_mm))
    table.add_row("slice", f"{found.slice_index + 1} of {n_slices}")
    table.add_row("SOP Instance UID", found.slice.sop_instance_uid or "none (not DICOM)")
    table.add_row("score", f"{found.score:.3f}")
    table.add_row("organ", organ(found.organ).display if found.organ else "none")
    return table


def localization_document(found: Localization) -> dict[str, Any]:
    """The same as JSON types; positions in LPS mm, `slice_index` from 0."""
    return {
        "text": found.text,
        "position_lps_mm": [round(float(value), 3) for value in found.position_lps_mm],
        "slice_index": int(found.slice_index),
        "sop_instance_uid": found.slice.sop_instance_uid,
        "score": round(float(found.score), 6),
        "organ": found.organ,
    }


def status_table(lines: Sequence[Line], now: float) -> Table:
    """Studies of a node, one a line; `now` in seconds since the epoch."""
    table = titled_table(
        f"{len(lines)} studies", "study", "last image", "state", "results", "corrections", "delivered"
    )
    for line in lines:
        sent = f"{line.delivered} of {line.delivered + line.pending + line.dead}"
        table.add_row(
            line.study_instance_uid,
            f"{age(now - line.last_image_at)} ago",
            line.state if line.reason is None else f"{line.state}: {escape(line.reason)}",
            str(line.results),
            str(line.corrections),
            f"{sent}, {line.dead} given up" if line.dead else sent,
        )
    return table


def age(seconds: float) -> str:
    """A duration in its largest unit.

    >>> age(90), age(7300), age(200000)
    ('1 min', '2 h', '2 d')
    """
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
