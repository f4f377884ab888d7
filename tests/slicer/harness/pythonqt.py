"""PythonQt's way with Qt properties, for chosen modules: ``line.text`` reads, ``line.text = "x"`` writes.

PySide6 has this as a feature that is selected by module name. It takes the setters away; PythonQt
keeps them (``line.setText("x")``), so they are put back here. Code that calls a property, as
PySide6 and PyQt want it (``line.text()``), fails as it does in Slicer.
"""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtNetwork, QtWidgets
from shibokensupport import feature

PLAIN = 0
TRUE_PROPERTY = 2


def use_pythonqt_properties(*module_names: str) -> None:
    """Give the named modules PythonQt's properties; to be called before they are imported."""
    for name in module_names:
        feature.set_selection(TRUE_PROPERTY, name)


def use_plain_properties(*module_names: str) -> None:
    """Give the named modules PySide6's own way.

    A module without a selection sees whatever the last one with a selection saw.
    """
    for name in module_names:
        feature.set_selection(PLAIN, name)


def put_setters_back() -> None:
    """Give every Qt class its ``setX`` and ``isX`` again, seen from modules with true properties."""
    for library in (QtCore, QtGui, QtWidgets, QtNetwork):
        for class_name in dir(library):
            qt_class = getattr(library, class_name)
            if isinstance(qt_class, type) and issubclass(qt_class, QtCore.QObject):
                _give_setters(qt_class)
    # QObject::objectName is `name` in PythonQt.
    QtCore.QObject.name = property(
        lambda self: self.objectName, lambda self, value: setattr(self, "objectName", value)
    )
    # A read-only property of Qt in PySide6, a method in PythonQt.
    QtWidgets.QPlainTextEdit.toPlainText = lambda self: self.plainText


def _give_setters(qt_class: type) -> None:
    meta = qt_class.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        described = meta.property(index)
        name = described.name()
        capital = name[0].upper() + name[1:]
        if described.isWritable():
            setattr(qt_class, f"set{capital}", _setter(name))
        if described.typeName() == "bool":
            setattr(qt_class, f"is{capital}", _getter(name))


def _setter(name):
    return lambda self, value: setattr(self, name, value)


def _getter(name):
    return lambda self: getattr(self, name)


# This module itself must see the classes as the modules under test do, or it would patch others.
use_pythonqt_properties(__name__)
