"""The two tables of the panel: ranked places, and findings organ by organ with the user's marks.

Fills `QTableWidget`s of the form; says which row is which place or finding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from SightlineLib.settings import words
from slicer.i18n import tr as _

ACCEPT, REJECT = "accept", "reject"
STATUS_ORDER = ("present", "undetermined", "absent")


class HitTable:
    """The places of a text, best first.

    `onChosen` gets the index of the place that the user goes to.
    """

    def __init__(self, table, onChosen: Callable[[int], None]) -> None:
        self._table = table
        self._onChosen = onChosen
        self._filling = False
        _prepare(table, [_("Rank"), _("Organ"), _("Score"), _("Slice")])
        table.currentCellChanged.connect(lambda row, *_rest: self._choose(row))
        # A click on the current row does not change it, and yet wants to go there.
        table.cellClicked.connect(lambda row, *_rest: self._choose(row))

    def fill(self, hits: list[dict[str, Any]]) -> None:
        """Show these places and go to the first."""
        self._filling = True
        self._table.clearContents()
        self._table.rowCount = len(hits)
        for row, hit in enumerate(hits):
            texts = (
                str(hit["rank"]),
                words(hit["organ"]),
                f"{hit['score']:.2f}",
                str(hit["slice_index"] + 1),
            )
            _putRow(self._table, row, texts)
        _fitColumns(self._table)
        # The first row may be the current one already, and would not be told then.
        self._table.setCurrentCell(0 if hits else -1, 0)
        self._filling = False
        if hits:
            self._choose(0)

    def walk(self, step: int) -> None:
        """Go `step` places down; stops at both ends."""
        if self._table.rowCount > 0:
            row = min(max(self._table.currentRow() + step, 0), self._table.rowCount - 1)
            self._table.setCurrentCell(row, 0)

    def _choose(self, row: int) -> None:
        if not self._filling and row >= 0:
            self._onChosen(row)


class FindingTable:
    """Findings, the organs with something present first, and whether the user agrees.

    `onChosen` gets the finding that the user goes to, `onMarked` is called after each mark.
    """

    def __init__(self, table, onChosen: Callable[[dict], None], onMarked: Callable[[], None]) -> None:
        self._table = table
        self._onChosen = onChosen
        self._onMarked = onMarked
        self._findings: list[dict[str, Any]] = []
        self._shown: list[int] = []
        self._verdicts: dict[int, str] = {}
        self._filling = False
        _prepare(table, [_("Organ"), _("Finding"), _("Status"), _("Probability"), _("Your mark")])
        table.currentCellChanged.connect(lambda row, *_rest: self._choose(row))
        table.cellClicked.connect(lambda row, *_rest: self._choose(row))

    def fill(self, findings: list[dict[str, Any]], presentOnly: bool) -> None:
        """Show the findings of a reading; marks on others are forgotten."""
        self._findings = findings
        self._verdicts = {}
        self._put(self._rows(presentOnly))

    def show(self, presentOnly: bool) -> None:
        """Show all, or only what is present; the current row stays where that changes nothing."""
        rows = self._rows(presentOnly)
        if rows != self._shown:
            self._put(rows)

    def _rows(self, presentOnly: bool) -> list[int]:
        return [
            index
            for index in readingOrder(self._findings)
            if not presentOnly or self._findings[index]["status"] == "present"
        ]

    def _put(self, rows: list[int]) -> None:
        self._shown = rows
        self._filling = True
        self._table.clearContents()
        self._table.rowCount = len(self._shown)
        organ = None
        for row, index in enumerate(self._shown):
            finding = self._findings[index]
            probability = finding["probability"]
            texts = (
                words(finding["organ"]) if finding["organ"] != organ else "",
                words(finding["abnormality"]),
                _status(finding["status"]),
                "" if probability is None else f"{100 * probability:.0f} %",
                _mark(self._verdicts.get(index)),
            )
            _putRow(self._table, row, texts)
            organ = finding["organ"]
        _fitColumns(self._table)
        self._table.setCurrentCell(-1, -1)
        self._filling = False

    def mark(self, verdict: str | None) -> None:
        """Accept or reject the current finding, or take the mark away."""
        row = self._table.currentRow()
        if not 0 <= row < len(self._shown):
            return
        index = self._shown[row]
        if verdict is None:
            self._verdicts.pop(index, None)
        else:
            self._verdicts[index] = verdict
        self._table.item(row, 4).setText(_mark(verdict))
        self._onMarked()

    @property
    def marks(self) -> list[dict[str, Any]]:
        """The marks as the contract has them: `finding_index` counts in the reading's own order."""
        return [
            {"finding_index": index, "verdict": verdict} for index, verdict in sorted(self._verdicts.items())
        ]

    def _choose(self, row: int) -> None:
        if not self._filling and 0 <= row < len(self._shown):
            self._onChosen(self._findings[self._shown[row]])


def readingOrder(findings: list[dict[str, Any]]) -> list[int]:
    """Indices of findings as a radiologist reads them: organs with something present first.

    >>> readingOrder([
    ...     {"organ": "liver", "status": "absent", "probability": 0.1},
    ...     {"organ": "lung", "status": "absent", "probability": 0.2},
    ...     {"organ": "lung", "status": "present", "probability": 0.9},
    ... ])
    [2, 1, 0]
    """

    def urgency(finding: dict[str, Any]) -> tuple[int, float]:
        return STATUS_ORDER.index(finding["status"]), -(finding["probability"] or 0.0)

    organs = {finding["organ"]: (len(STATUS_ORDER), 0.0) for finding in findings}
    for finding in findings:
        organs[finding["organ"]] = min(organs[finding["organ"]], urgency(finding))

    def key(index: int) -> tuple:
        finding = findings[index]
        return organs[finding["organ"]], finding["organ"], urgency(finding), index

    return sorted(range(len(findings)), key=key)


def _status(status: str) -> str:
    return {"present": _("present"), "absent": _("absent"), "undetermined": _("undetermined")}[status]


def _mark(verdict: str | None) -> str:
    return {ACCEPT: _("accepted"), REJECT: _("rejected"), None: ""}[verdict]


def _prepare(table, headers: list[str]) -> None:
    table.columnCount = len(headers)
    table.setHorizontalHeaderLabels(headers)
    table.verticalHeader().setVisible(False)
    table.horizontalHeader().setStretchLastSection(True)
    _fitColumns(table)


def _fitColumns(table) -> None:
    """Once after filling: a header that fits itself to its contents measures the table at every cell."""
    table.resizeColumnsToContents()


def _putRow(table, row: int, texts: tuple[str, ...]) -> None:
    for column, text in enumerate(texts):
        item = qt.QTableWidgetItem(text)
        item.setToolTip(text)
        table.setItem(row, column, item)
