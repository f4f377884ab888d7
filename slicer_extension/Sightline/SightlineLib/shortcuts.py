"""Keys of the panel, each only where its widget has the focus: other modules keep theirs."""

from __future__ import annotations

from collections.abc import Callable

import qt


def addShortcut(widget, keys: str, onPressed: Callable[[], None], insideToo: bool = False):
    """Call `onPressed` for `keys` in a widget, with `insideToo` also in the widgets inside it."""
    shortcut = qt.QShortcut(widget)
    shortcut.setKey(qt.QKeySequence(keys))
    shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut if insideToo else qt.Qt.WidgetShortcut)
    shortcut.activated.connect(onPressed)
    return shortcut
