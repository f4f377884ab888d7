"""A user at the panel: types, clicks, presses keys, and reads what stands there.

Not a test: it says what a person would see. Widgets are read as PySide6 has them.
"""

from __future__ import annotations

from PySide6 import QtCore, QtTest

from tests.slicer.harness.waiting import wait_until

Qt = QtCore.Qt


class Operator:
    """Works the panel of one opened module against one server."""

    def __init__(self, widget, url: str, token: str = "") -> None:
        self.widget = widget
        self.panel = widget.panel
        self.ui = widget.panel.ui
        # Keys and focus need a window, also off screen.
        widget.parent.resize(480, 900)
        widget.parent.show()
        widget.parent.activateWindow()
        self.ui.addressLine.setText(url)
        self.ui.tokenLine.setText(token)

    def choose(self, volume) -> None:
        """Choose a CT."""
        self.ui.volumeSelector.setCurrentNode(volume)

    def type(self, text: str) -> None:
        """Type a question without asking it."""
        self.ui.queryLine.setText(text)
        self.ui.queryLine.setFocus()

    def press(self, key, widget=None) -> None:
        """Press a key, in the query line or another widget."""
        target = self.ui.queryLine if widget is None else widget
        target.setFocus()
        QtTest.QTest.keyClick(target, key)

    def ask(self, text: str) -> None:
        """Type a question and press Enter."""
        self.type(text)
        self.press(Qt.Key.Key_Return)

    def click(self, name: str) -> None:
        """Click a button of the form."""
        button = getattr(self.ui, name)
        QtTest.QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def click_row(self, table: str, row: int, column: int = 0) -> None:
        """Click a cell of a table."""
        view = getattr(self.ui, table)
        place = view.visualItemRect(view.item(row, column)).center()
        QtTest.QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)

    def wait(self) -> None:
        """Wait until nothing is under way."""
        try:
            wait_until(lambda: not self.busy)
        except TimeoutError as error:
            raise TimeoutError(
                f"still under way: {self.ui.activityLabel.text()!r}; says {self.says!r}"
            ) from error

    @property
    def busy(self) -> bool:
        """Whether something is under way, as the Cancel button tells."""
        return self.ui.cancelButton.isEnabled()

    @property
    def says(self) -> str:
        """The sentence below the query line."""
        return self.ui.statusLabel.text()

    def rows(self, table: str) -> list[list[str]]:
        """What stands in a table."""
        view = getattr(self.ui, table)
        return [
            [view.item(row, column).text() for column in range(view.columnCount())]
            for row in range(view.rowCount())
        ]
