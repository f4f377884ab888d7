"""``qt`` as a module sees it in Slicer, on PySide6: one namespace of four Qt libraries.

Not PythonQt: overloads, conversions and threads are PySide6's. Only what the modules under test
rely on is alike: one namespace, Qt properties as attributes (`tests.slicer.harness.pythonqt`) and
a form loader that knows Slicer's own widget classes.
"""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

# The classes are made when they are asked for; vars() would miss them.
for _library in (QtCore, QtGui, QtNetwork, QtWidgets):
    globals().update({_name: getattr(_library, _name) for _name in dir(_library) if _name[0] != "_"})

# Slicer's and CTK's widget classes by name; the harness fills it before a form is loaded.
WIDGET_CLASSES: dict[str, type] = {}


class QUiLoader(QtUiTools.QUiLoader):
    """Loads a .ui file with the widget classes of `WIDGET_CLASSES`."""

    def __init__(self) -> None:
        super().__init__()
        for widget_class in WIDGET_CLASSES.values():
            self.registerCustomWidget(widget_class)
