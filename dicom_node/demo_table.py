"""The demo's outcome as tables for a terminal. Only builds them; `dicom_node.cli` prints."""

from __future__ import annotations

from rich.table import Table

from core_model.abnormality import abnormality
from core_model.anatomy import organ
from dicom_node.demo import DemoOutcome
from dicom_node.demo_truth import PlantedResult


def demo_tables(outcome: DemoOutcome) -> list[Table]:
    """What came back, planted against found, all findings, the query, and the times."""
    return [_objects(outcome), _planted(outcome), _findings(outcome), _query(outcome), _times(outcome)]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", show_header=bool(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _objects(outcome: DemoOutcome) -> Table:
    table = _table(f"sent {outcome.title}; back in the PACS came")
    table.min_width = 76  # or the title is broken to the width of the rows
    for line in outcome.objects:
        table.add_row(line)
    return table


def _planted(outcome: DemoOutcome) -> Table:
    title = f"planted and found; {outcome.false_lesions} false lesions"
    table = _table(title, "planted", "mm", "found", "Dice", "distance mm")
    for result in outcome.planted:
        entry = result.planted
        table.add_row(
            f"{entry.side} {abnormality(entry.abnormality).display}".strip(),
            f"{entry.diameter_mm:.0f}" if entry.diameter_mm else "diffuse",
            _found(result),
            "" if result.dice is None else f"{result.dice:.2f}",
            "" if result.distance_mm is None else f"{result.distance_mm:.1f}",
            style="green" if result.found else "red",
        )
    return table


def _found(result: PlantedResult) -> str:
    if not result.found:
        return "no"
    return "yes, drawn" if result.segmented else "yes, reported"


def _findings(outcome: DemoOutcome) -> Table:
    table = _table("report", "abnormality", "node says", "probability", "planted")
    for finding in outcome.findings:
        probability = "" if finding.probability is None else f"{finding.probability:.2f}"
        table.add_row(
            abnormality(finding.abnormality).display,
            finding.status,
            probability,
            "yes" if finding.planted else "",
        )
    return table


def _query(outcome: DemoOutcome) -> Table:
    answer = outcome.answer
    table = _table(
        f"asked: {answer.text!r}", "organ", "position (LPS mm)", "score", "from nearest mm", "slices mm"
    )
    table.add_row(
        organ(answer.organ).display if answer.organ else "none",
        " ".join(f"{value:.0f}" for value in answer.position_lps_mm),
        f"{answer.score:.2f}",
        "" if answer.distance_mm is None else f"{answer.distance_mm:.0f}",
        "" if answer.slice_distance_mm is None else f"{answer.slice_distance_mm:.0f}",
    )
    return table


def _times(outcome: DemoOutcome) -> Table:
    table = _table(f"on {outcome.device}", "stage", "seconds")
    for stage, seconds in outcome.seconds.items():
        table.add_row(stage, f"{seconds:.1f}")
    table.add_row("peak memory of the reader", f"{outcome.peak_rss_bytes / 2**30:.1f} GiB")
    return table
