"""The Slicer application round a scripted module, as far as it can be had without Slicer.

The scene, its nodes, the logics and what is drawn are Slicer's own C++ (``slicer-core``); the
window is Qt (PySide6, off screen). Not here: PythonQt, qMRML's own widgets, layouts, the DICOM
browser, packaging and start-up.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
EXTENSION = HERE.parents[2] / "slicer_extension"

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(HERE / "standins"))

import slicer
import vtk
from PySide6 import QtCore, QtNetwork, QtWidgets

from tests.slicer.harness.dicom_database import DicomDatabase
from tests.slicer.harness.pythonqt import (
    put_setters_back,
    use_plain_properties,
    use_pythonqt_properties,
)
from tests.slicer.harness.slice_view import SliceView
from tests.slicer.harness.widgets import register_widgets

VIEWS = (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal"))
LOGICS = {
    "Volumes": slicer.vtkSlicerVolumesLogic,
    "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
    "Markups": slicer.vtkSlicerMarkupsLogic,
    "SubjectHierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic,
}


class Application:
    """A scene with three slice views, set up as ``slicer.mrmlScene`` and ``slicer.app``.

    One per process: ``slicer`` and the Qt application are global by nature.
    """

    extension = EXTENSION

    def __init__(self, view_size: int = 256) -> None:
        self.qt = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
        # As in Slicer: the proxy of the system, which a client on loopback must not use.
        QtNetwork.QNetworkProxyFactory.setUseSystemConfiguration(True)
        self.folder = tempfile.TemporaryDirectory(prefix="sightline-harness-")
        self.scene = slicer.vtkMRMLScene()
        self.logic = slicer.vtkSlicerApplicationLogic()
        self.logic.SetMRMLScene(self.scene)
        self.logic.GetColorLogic().SetMRMLScene(self.scene)
        self.logic.GetColorLogic().AddDefaultColorNodes()
        self.logic.SetSliceLogics(vtk.vtkCollection())
        self.logic.SetViewLogics(vtk.vtkCollection())
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        crosshair.SetSingletonTag("default")
        self.scene.AddNode(crosshair)
        self.logic.SetModuleLogic("Colors", self.logic.GetColorLogic())
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self._list_in_hierarchy)
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._take_from_hierarchy)
        self.modules = {name.lower(): self._module_logic(name, kind) for name, kind in LOGICS.items()}
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self.dicom = DicomDatabase()
        self._stand_in()
        self.views = {
            name: SliceView(self.logic, self.scene, name, orientation, view_size)
            for name, orientation in VIEWS
        }

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _list_in_hierarchy(self, _scene, _event, node) -> None:
        """Give a data node its item in the subject hierarchy, as the application's plugins do."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        if hierarchy is not None and node.IsA("vtkMRMLDisplayableNode") and not node.GetHideFromEditors():
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _take_from_hierarchy(self, _scene, _event, node) -> None:
        """Remove the item of a node that goes, as the application's plugins do."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        if hierarchy is not None and node.IsA("vtkMRMLDisplayableNode"):
            item = hierarchy.GetItemByDataNode(node)
            if item:
                hierarchy.RemoveItem(item, False, False)

    def _module_logic(self, name: str, kind):
        logic = kind()
        logic.SetMRMLScene(self.scene)
        logic.SetMRMLApplicationLogic(self.logic)
        # Displayable managers find the logic of their module by this name.
        self.logic.SetModuleLogic(name, logic)
        return logic

    def _stand_in(self) -> None:
        """Put what slicer-core lacks into the ``slicer`` package."""
        slicer.mrmlScene = self.scene
        slicer.dicomDatabase = self.dicom
        slicer.modules = SimpleNamespace(
            **{name: SimpleNamespace(logic=lambda logic=logic: logic) for name, logic in self.modules.items()}
        )
        settings_file = str(Path(self.folder.name) / "slicer.ini")
        self.settings = QtCore.QSettings(settings_file, QtCore.QSettings.Format.IniFormat)
        layout = SimpleNamespace(
            sliceViewNames=lambda: list(self.views),
            mrmlSliceLogics=self.logic.GetSliceLogics,
            sliceWidget=lambda name: SimpleNamespace(mrmlSliceNode=lambda: self.views[name].node),
        )
        slicer.app = SimpleNamespace(
            temporaryPath=self.folder.name,
            applicationLogic=lambda: self.logic,
            mrmlScene=lambda: self.scene,
            layoutManager=lambda: layout,
            userSettings=lambda: self.settings,
            testingEnabled=lambda: True,
        )
        own = [path for path in HERE.parent.rglob("*.py") if path.stem not in ("pythonqt", "test_harness")]
        use_plain_properties(*(".".join(_module_parts(path)) for path in own), "qt", "ctk")
        slicer.__path__.append(str(HERE / "standins" / "slicer_python"))
        use_pythonqt_properties("slicer.util", "ScriptedLoadableModule", "slicer.ScriptedLoadableModule")
        use_pythonqt_properties("slicer.parameterNodeWrapper")
        put_setters_back()
        register_widgets()
        importlib.import_module("slicer.util")

    def load_module(self, name: str):
        """Import a scripted module of the extension as Slicer does; returns the Python module."""
        folder = EXTENSION / name
        path = folder / f"{name}.py"
        library = f"{name}Lib"
        use_pythonqt_properties(name, library)
        use_pythonqt_properties(*(f"{library}.{file.stem}" for file in (folder / library).glob("*.py")))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        setattr(slicer.modules, name.lower(), SimpleNamespace(path=str(path)))
        return module

    def open_module(self, module):
        """The widget of a loaded module after ``setup()``, in a parent of its own."""
        name = module.__name__
        parent = slicer.qMRMLWidget()
        parent.setLayout(QtWidgets.QVBoxLayout())
        widget = getattr(module, f"{name}Widget")(parent)
        widget.setup()
        widget.enter()
        return widget

    def close_scene(self) -> None:
        """Empty the scene as the user does; views and singletons stay."""
        self.dicom.clear()
        self.scene.Clear(False)
        for view in self.views.values():
            view.node.SetOrientation(dict(VIEWS)[view.node.GetName()])


def _module_parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(HERE.parents[2]).with_suffix("").parts
