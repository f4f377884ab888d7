"""Stand-in of ``slicer.parameterNodeWrapper``: str, int, float, bool and nodes, bound to a form.

Not Slicer's: other types are a TypeError, so that a module cannot rely on what was not tried here.
"""

from __future__ import annotations

import typing
from functools import partial

import slicer
import vtk

GUI_PROPERTY = "SlicerParameterName"


class WithinRange:
    """Annotation of a number: its smallest and largest value."""

    def __init__(self, minimum, maximum):
        self.minimum = minimum
        self.maximum = maximum


def parameterNodeWrapper(cls):
    """Make the annotated members of a class those of a vtkMRMLScriptedModuleNode."""
    for name, annotation in typing.get_type_hints(cls, include_extras=True).items():
        annotated = typing.get_origin(annotation) is typing.Annotated
        kind = typing.get_args(annotation)[0] if annotated else annotation
        setattr(cls, name, _member(name, kind, getattr(cls, name, None)))
        cls._members = (*getattr(cls, "_members", ()), name)
    cls.__init__ = _init
    cls.connectGui = _connectGui
    cls.disconnectGui = _disconnectGui
    for method in ("AddObserver", "RemoveObserver", "StartModify", "EndModify"):
        setattr(cls, method, _forwarded(method))
    return cls


def _member(name, kind, default):
    if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):

        def get(self):
            return self.parameterNode.GetNodeReference(name)

        def put(self, node):
            self.parameterNode.SetNodeReferenceID(name, None if node is None else node.GetID())

        return property(get, put)
    if kind not in (str, int, float, bool):
        raise TypeError(f"member {name!r} is a {kind}; this stand-in knows str, int, float, bool and nodes")

    def get(self):
        text = self.parameterNode.GetParameter(name)
        if not text:
            return kind() if default is None else default
        return text == "True" if kind is bool else kind(text)

    def put(self, value):
        self.parameterNode.SetParameter(name, str(value))

    return property(get, put)


def _init(self, parameterNode):
    self.parameterNode = parameterNode
    self._updating = False


def _forwarded(method):
    return lambda self, *arguments: getattr(self.parameterNode, method)(*arguments)


def _connectGui(self, ui):
    widgets = [w for w in vars(ui).values() if hasattr(w, "property") and w.property(GUI_PROPERTY)]
    ends = {w.property(GUI_PROPERTY): _ends(w) for w in widgets}

    def toGui(*_):
        if self._updating:
            return
        self._updating = True
        try:
            for name, (read, write, _changed) in ends.items():
                if read() != getattr(self, name):
                    write(getattr(self, name))
        finally:
            self._updating = False

    def toNode(name):
        def changed(*_):
            if not self._updating:
                setattr(self, name, ends[name][0]())

        return changed

    toGui()
    for name, (_read, _write, changed) in ends.items():
        changed.connect(toNode(name))
    return self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, toGui)


def _disconnectGui(self, tag):
    self.parameterNode.RemoveObserver(tag)


def _ends(widget):
    """How to read a widget, how to write it, and its signal of change."""
    if hasattr(widget, "currentNode"):
        return widget.currentNode, widget.setCurrentNode, widget.currentNodeChanged
    for name, signal in (("checked", "toggled"), ("value", "valueChanged"), ("text", "textChanged")):
        if hasattr(type(widget), name) and (name != "checked" or widget.checkable):
            return partial(getattr, widget, name), partial(setattr, widget, name), getattr(widget, signal)
    raise TypeError(f"a {type(widget).__name__} has no value that a parameter could be bound to")
