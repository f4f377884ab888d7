"""Slicer's own widget classes that the extension's form uses, on PySide6.

Not qMRML: only what the form and the module call is here, with real nodes of a real scene.
"""

from __future__ import annotations

import ctk
import qt
import slicer


class qMRMLWidget(qt.QWidget):
    """A widget that hands the scene to the widgets inside it."""

    def setMRMLScene(self, scene):
        for widget in self.findChildren(qt.QWidget):
            if hasattr(widget, "setMRMLScene"):
                widget.setMRMLScene(scene)


class qMRMLNodeComboBox(qt.QComboBox):
    """Lists the nodes of some classes; follows the scene."""

    currentNodeChanged = qt.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._classes = []
        self._none = True
        self._scene = None
        self.currentIndexChanged.connect(lambda _index: self.currentNodeChanged.emit(self.currentNode()))

    def _getNodeTypes(self):
        return self._classes

    def _setNodeTypes(self, names):
        self._classes = list(names)

    def _getNoneEnabled(self):
        return self._none

    def _setNoneEnabled(self, enabled):
        self._none = enabled

    def _flag(self):
        return False

    def _ignored(self, value):
        """A flag of the real widget that changes its menus only."""

    nodeTypes = qt.Property("QStringList", _getNodeTypes, _setNodeTypes)
    noneEnabled = qt.Property(bool, _getNoneEnabled, _setNoneEnabled)
    addEnabled = qt.Property(bool, _flag, _ignored)
    removeEnabled = qt.Property(bool, _flag, _ignored)
    showChildNodeTypes = qt.Property(bool, _flag, _ignored)

    def setMRMLScene(self, scene):
        if self._scene is scene:
            return
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent)
        tags = [scene.AddObserver(event, lambda *_: self._fill()) for event in events]
        # The scene outlives the widget.
        self.destroyed.connect(lambda: [scene.RemoveObserver(tag) for tag in tags])
        self._fill()

    def _fill(self):
        before = self.currentNode()
        self.blockSignals(True)
        self.clear()
        self.addItem("None", "")
        for kind in self._classes:
            for node in slicer.util.getNodesByClass(kind):
                # As with showChildNodeTypes off: label maps are no volumes here.
                if node.GetClassName() == kind and not node.GetHideFromEditors():
                    self.addItem(node.GetName(), node.GetID())
        self.setCurrentNode(before)
        self.blockSignals(False)
        if self.currentNode() is not before:
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self):
        identifier = self.itemData(self.currentIndex())
        return self._scene.GetNodeByID(identifier) if identifier and self._scene else None

    def setCurrentNode(self, node):
        index = self.findData(node.GetID()) if node is not None else 0
        self.setCurrentIndex(max(index, 0))


WIDGETS = (qMRMLWidget, qMRMLNodeComboBox)


def register_widgets() -> None:
    """Let the form loader and ``slicer.`` find these classes."""
    for widget_class in WIDGETS:
        qt.WIDGET_CLASSES[widget_class.__name__] = widget_class
        setattr(slicer, widget_class.__name__, widget_class)
    qt.WIDGET_CLASSES["ctkCollapsibleButton"] = ctk.ctkCollapsibleButton
