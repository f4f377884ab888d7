"""The few CTK widgets that the extension's form uses, on PySide6.

Not CTK: a class that is not here is an AttributeError, so that a form cannot use one unnoticed.
"""

from __future__ import annotations

import qt

HEADER_HEIGHT = 24


class ctkCollapsibleButton(qt.QFrame):
    """A header that folds and unfolds the body below it."""

    contentsCollapsed = qt.Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._text = ""
        self._collapsed = False
        self.setContentsMargins(2, HEADER_HEIGHT, 2, 2)

    def _getText(self):
        return self._text

    def _setText(self, text):
        self._text = text
        self.update()

    def _getCollapsed(self):
        return self._collapsed

    def _setCollapsed(self, collapsed):
        self._collapsed = collapsed
        # Children stay explicitly shown or hidden as the module left them, as in CTK.
        self.setMaximumHeight(HEADER_HEIGHT if collapsed else 16777215)
        self.contentsCollapsed.emit(collapsed)

    text = qt.Property(str, _getText, _setText)
    collapsed = qt.Property(bool, _getCollapsed, _setCollapsed)

    def mousePressEvent(self, event):
        if event.position().y() < HEADER_HEIGHT:
            self._setCollapsed(not self._collapsed)

    def paintEvent(self, event):
        super().paintEvent(event)
        painter = qt.QPainter(self)
        header = qt.QRect(0, 0, self.width(), HEADER_HEIGHT - 2)
        painter.fillRect(header, self.palette().button())
        arrow = "\u25b8" if self._collapsed else "\u25be"
        painter.drawText(header.adjusted(8, 0, 0, 0), qt.Qt.AlignVCenter, f"{arrow} {self._text}")
