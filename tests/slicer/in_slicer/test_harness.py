"""The harness is the real thing where it says so, and strict where it stands in."""

from __future__ import annotations

import time

import ctk
import numpy as np
import pytest
import qt
import slicer
from PySide6 import QtCore
from slicer.parameterNodeWrapper import parameterNodeWrapper

from tests.slicer.harness.pythonqt import use_pythonqt_properties
from tests.slicer.harness.waiting import Ticks, run_for, wait_until

use_pythonqt_properties(__name__)


def test_a_slice_view_draws_a_volume_and_jumps(application, scene):
    voxels = np.zeros((20, 30, 30), dtype=np.int16)
    voxels[10, :, :15] = 1000
    to_ras = np.diag([-2.0, -2.0, 3.0, 1.0])
    volume = slicer.util.addVolumeFromArray(voxels, ijkToRAS=to_ras)
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(1000, 500)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, -30, -30, 30, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    red = application.views["Red"]
    assert red.centre_ras() == pytest.approx([-30, -30, 30], abs=1e-3)
    picture = red.picture().astype(int)
    # i < 15 has the larger R: the patient's right, which a radiologist's view has on the left.
    bright = np.argwhere(picture.sum(axis=2) > 600)
    assert len(bright) > 100
    assert bright[:, 1].mean() < picture.shape[1] / 2


def test_forms_have_pythonqt_properties(application):
    line = qt.QLineEdit()
    line.text = "one"
    line.setText(line.text + " two")
    assert line.text == "one two"
    with pytest.raises(TypeError):
        line.text()
    line.name = "query"
    assert line.name == "query"
    box = qt.QCheckBox()
    box.checked = True
    assert box.isChecked()


def test_a_widget_that_is_not_stood_in_for_is_an_error(application):
    with pytest.raises(AttributeError):
        _ = ctk.ctkDoubleRangeSlider


def test_waiting_runs_the_event_loop(application):
    seen = []
    QtCore.QTimer.singleShot(30, lambda: seen.append(1))
    wait_until(lambda: bool(seen))
    with pytest.raises(TimeoutError):
        wait_until(lambda: False, seconds=0.05)


def test_ticks_notice_a_blocked_loop(application):
    with Ticks() as ticks:
        QtCore.QTimer.singleShot(20, lambda: time.sleep(0.2))
        run_for(0.4)
    assert ticks.worst_gap_s >= 0.2


def test_parameter_nodes_are_bound_both_ways(application, scene):
    @parameterNodeWrapper
    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        query: str = "liver"

    ui = type("", (), {})()
    ui.line = qt.QLineEdit()
    ui.line.setProperty("SlicerParameterName", "query")
    parameters = Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    tag = parameters.connectGui(ui)
    assert ui.line.text == "liver"
    ui.line.text = "spleen"
    assert parameters.query == "spleen"
    parameters.query = "cyst"
    assert ui.line.text == "cyst"
    assert parameters.volume is None
    parameters.volume = slicer.util.addVolumeFromArray(np.zeros((2, 2, 2)))
    assert parameters.volume.GetID() == slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[0].GetID()
    parameters.disconnectGui(tag)
