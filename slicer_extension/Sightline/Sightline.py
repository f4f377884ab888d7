"""Sightline in 3D Slicer: ask a CT for something and stand on the slice.

The shell that Slicer loads; everything that happens is in ``SightlineLib``. It calls a Sightline
server over HTTP and installs nothing.
"""

import sys

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class Sightline(ScriptedLoadableModule):
    """What Slicer lists of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Sightline")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Informatics")]
        parent.dependencies = []
        parent.contributors = ["The Sightline authors"]
        parent.helpText = _(
            "Type what to look for in a CT and stand on its slice; see findings organ by organ, and send "
            "corrections back. Needs a Sightline server. Research software, not a medical device."
        )
        parent.acknowledgementText = _("Apache-2.0. The model that ships was trained on synthetic CT only.")


class SightlineWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel; see `SightlineLib.panel`."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self):
        from SightlineLib.client import PATIENCE_S
        from SightlineLib.panel import Panel, loadForm

        ScriptedLoadableModuleWidget.setup(self)
        root, ui = loadForm(self.resourcePath("UI/Sightline.ui"))
        self.layout.addWidget(root)
        self.logic = SightlineLogic()
        self.panel = Panel(root, ui, PATIENCE_S)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.enter)
        self.enter()

    def enter(self, *_event):
        self.panel.setParameterNode(self.logic.getParameterNode())

    def onSceneStartClose(self, *_event):
        self.panel.session.cancel()
        self.panel.setParameterNode(None)

    def cleanup(self):
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def onReload(self):
        for name in [name for name in sys.modules if name.split(".")[0] == "SightlineLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class SightlineLogic(ScriptedLoadableModuleLogic):
    """The parameters of the scene; the conversation with a server is `SightlineLib.session`."""

    def getParameterNode(self):
        from SightlineLib.parameters import SightlineParameterNode

        return SightlineParameterNode(super().getParameterNode())


class SightlineTest(ScriptedLoadableModuleTest):
    """The self test inside the real application; see `SightlineLib.selftest`."""

    def runTest(self):
        from SightlineLib.selftest import runAll

        slicer.mrmlScene.Clear()
        runAll(self)
