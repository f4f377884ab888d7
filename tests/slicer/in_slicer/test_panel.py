"""The panel as a user works it, against a real server on loopback that speaks the contract."""

from __future__ import annotations

import doctest
import importlib
import json
import sys

import numpy as np
import pytest
import slicer
import vtk
from PySide6 import QtCore, QtNetwork
from SightlineLib import results as nodes
from SightlineLib import volumes
from SightlineLib.settings import Settings

from tests.slicer.harness import phantom
from tests.slicer.harness.nrrd_files import read_volume
from tests.slicer.harness.operator import Operator
from tests.slicer.harness.server import SERIES, SHAPES, STUDY, ContractServer
from tests.slicer.harness.waiting import run_for, wait_until

Key = QtCore.Qt.Key
GRID = phantom.grid(spacing=8.0)
RAS_FROM_LPS = np.array([-1.0, -1.0, 1.0])
LESION = np.array(phantom.LESION.centre) * RAS_FROM_LPS
SPLEEN = np.array(phantom.SPLEEN.centre) * RAS_FROM_LPS
SPLENOMEGALY = np.array(SHAPES["reading"]["findings"][0]["position_lps_mm"]) * RAS_FROM_LPS
SPINE = np.array(phantom.SPINE.centre) * RAS_FROM_LPS


@pytest.fixture
def server():
    with ContractServer(GRID) as running:
        yield running


@pytest.fixture
def volume(scene):
    return phantom.add_volume(GRID, SERIES)


@pytest.fixture
def user(widget, volume, server):
    operator = Operator(widget, server.url)
    operator.choose(volume)
    return operator


def where(application):
    return application.views["Red"].centre_ras()


def test_enter_asks_and_the_views_stand_there(application, user, server):
    user.ask("  hypodense   liver lesion ")
    user.wait()
    for view in application.views.values():
        assert view.centre_ras() == pytest.approx(LESION, abs=1e-3)
    assert user.says == "Place 1 of 3: liver, score 0.40."
    assert [row[0] for row in user.rows("hitsTable")] == ["1", "2", "3"]
    assert server.asked("/query")[0].json() == {"text": "hypodense liver lesion", "k": 5}
    assert user.ui.serverLabel.text() == "Connected: Sightline 0.3.0, model sightline-default"


def test_the_text_asked_is_never_in_a_url(user, server):
    user.ask("hypodense liver lesion")
    user.wait()
    assert server.requests
    assert not [request for request in server.requests if "lesion" in request.path.replace("/lesions", "")]


def test_up_and_down_walk_the_places(application, user):
    user.ask("lesion")
    user.wait()
    stands = []
    for key in (Key.Key_Down, Key.Key_Down, Key.Key_Down, Key.Key_Up):
        user.press(key)
        stands.append(where(application))
    assert stands == [pytest.approx(place, abs=1e-3) for place in (SPLEEN, SPINE, SPINE, SPLEEN)]


def test_a_click_goes_there_also_a_second_time(application, user, scene):
    user.ask("lesion")
    user.wait()
    user.click_row("hitsTable", 1)
    assert where(application) == pytest.approx(SPLEEN, abs=1e-3)
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, 0, 0, 0)
    user.click_row("hitsTable", 1)
    assert where(application) == pytest.approx(SPLEEN, abs=1e-3)


def test_asking_again_goes_to_the_first_place_again(application, user):
    user.ask("lesion")
    user.wait()
    user.press(Key.Key_Down)
    user.ask("tumour")
    user.wait()
    assert where(application) == pytest.approx(LESION, abs=1e-3)


def test_heat_map_and_outline_come_with_the_places(user, volume):
    user.ask("lesion")
    user.wait()
    heat = user.panel.results.find(nodes.HEAT_MAP)
    composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    assert composite.GetForegroundVolumeID() == heat.GetID()
    assert composite.GetBackgroundVolumeID() == volume.GetID()
    outline = user.panel.results.find(nodes.MASK).GetSegmentation()
    assert outline.GetNumberOfSegments() == 1
    hits = user.panel.results.find(nodes.HITS)
    assert [hits.GetNthControlPointSelected(i) for i in range(3)] == [True, False, False]


def test_heat_map_and_outline_are_asked_for_only_if_wanted(user, server):
    user.click("heatMapBox")
    user.click("maskBox")
    user.ask("lesion")
    user.wait()
    assert not server.asked("/heatmap")
    assert not server.asked("/mask")
    assert user.panel.results.find(nodes.HEAT_MAP) is None


def test_the_nodes_of_the_last_question_are_used_again(user, scene):
    user.ask("lesion")
    user.wait()
    before = scene.GetNumberOfNodes()
    for text in ("tumour", "cyst"):
        user.ask(text)
        user.wait()
    assert scene.GetNumberOfNodes() == before


def test_findings_stand_organ_by_organ_and_a_click_goes_there(application, user):
    user.click("openButton")
    user.wait()
    assert user.rows("findingsTable") == [
        ["liver", "liver tumour", "present", "88 %", ""],
        ["", "hepatic steatosis", "undetermined", "41 %", ""],
        ["brain", "brain tumour", "undetermined", "", ""],
        ["spleen", "splenomegaly", "absent", "8 %", ""],
    ]
    user.click_row("findingsTable", 3)
    assert where(application) == pytest.approx(SPLENOMEGALY, abs=1e-3)
    user.click_row("findingsTable", 2)
    assert user.says == "The brain is not in this scan, so there is no place to go to."
    user.click("presentOnlyBox")
    assert [row[1] for row in user.rows("findingsTable")] == ["liver tumour"]


def test_lesions_are_a_coded_segmentation_under_the_patient(user, volume):
    user.click("openButton")
    user.wait()
    node = user.panel.results.find(nodes.LESIONS)
    segment = node.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == "liver tumour 1"
    terminology = vtk.reference("")
    assert segment.GetTag("TerminologyEntry", terminology)
    assert "SCT^126851005^Neoplasm of liver" in str(terminology)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelPatient()
    patient = hierarchy.GetItemAncestorAtLevel(item, level)
    assert hierarchy.GetItemName(patient) == "Phantom"
    assert hierarchy.GetItemParent(item) == hierarchy.GetItemParent(hierarchy.GetItemByDataNode(volume))


def test_organs_come_when_asked_for(user):
    user.click("organsButton")
    user.wait()
    organs = user.panel.results.find(nodes.ORGANS).GetSegmentation()
    names = [organs.GetNthSegment(i).GetName() for i in range(organs.GetNumberOfSegments())]
    assert names == ["liver", "spleen"]


def test_a_correction_has_marks_in_the_readings_order_and_the_edited_outline(user, server):
    assert not user.ui.correctButton.isEnabled()
    user.click("openButton")
    user.wait()
    user.click_row("findingsTable", 0)
    user.press(Key.Key_A, user.ui.findingsTable)
    user.click_row("findingsTable", 3)
    user.press(Key.Key_R, user.ui.findingsTable)
    assert [row[4] for row in user.rows("findingsTable")] == ["accepted", "", "", "rejected"]
    node = user.panel.results.find(nodes.LESIONS)
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    edited = np.zeros(GRID.shape[::-1], dtype=np.uint8)
    edited[4:8, 10:20, 10:20] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, node, identifier, user.panel.volume)
    user.widget.enter()  # back from the Segment Editor
    assert user.ui.correctionLabel.text() == "Findings marked: 2; lesion outlines: edited."
    user.ui.observerLine.setText("Doe, Jane")
    user.ui.commentLine.setText("smaller")
    user.click("correctButton")
    user.wait()
    assert (
        user.says
        == f"Your correction is stored; its report is {SHAPES['corrected']['report_sop_instance_uid']}."
    )
    (request,) = server.asked("/corrections")
    assert request.path.endswith(f"/studies/{STUDY}/corrections")
    parts = request.parts()
    assert json.loads(parts["correction"]) == {
        "observer_name": "Doe^Jane",
        "marks": [{"finding_index": 0, "verdict": "reject"}, {"finding_index": 2, "verdict": "accept"}],
        "comment": "smaller",
    }
    values, grid = read_volume(parts["segmentation"])
    first = np.linalg.solve(GRID.ijk_to_lps, grid.ijk_to_lps)[:3, 3]
    assert first == pytest.approx([10, 10, 4], abs=1e-4)  # cropped to what was drawn, on the CT's voxels
    np.testing.assert_allclose(grid.ijk_to_lps[:3, :3], GRID.ijk_to_lps[:3, :3], atol=1e-4)
    assert values.shape == (4, 10, 10)
    assert values.all()
    assert Settings().observerName == "Doe, Jane"
    assert user.ui.correctionLabel.text().endswith("as the server drew them.")


def test_a_correction_of_marks_alone_sends_no_outline(user, server):
    user.click("openButton")
    user.wait()
    user.click_row("findingsTable", 0)
    user.click("acceptButton")
    user.click("unmarkButton")
    user.ui.observerLine.setText("Doe^Jane")
    user.click("correctButton")
    assert user.says.startswith("There is nothing to send")
    user.click("acceptButton")
    user.click("correctButton")
    user.wait()
    assert set(server.asked("/corrections")[0].parts()) == {"correction"}


def test_a_correction_wants_a_name(user, server):
    user.click("openButton")
    user.wait()
    user.ui.commentLine.setText("all right")
    for name in ("", "Jane", "a=b^c"):
        user.ui.observerLine.setText(name)
        user.click("correctButton")
        assert user.says.startswith("Type your name as 'Family, Given'")
    assert not server.asked("/corrections")


def test_lesions_can_be_drawn_where_the_server_found_none(user, server):
    server.reading["lesions"] = []
    user.click("openButton")
    user.wait()
    node = user.panel.results.find(nodes.LESIONS)
    assert node.GetSegmentation().GetNumberOfSegments() == 0
    assert not user.panel.results.lesionsEdited
    node.GetSegmentation().AddEmptySegment("new", "new")
    assert user.panel.results.lesionsEdited


def test_pixels_go_up_only_after_consent_and_the_question_goes_on(application, user, server):
    server.known.clear()
    user.ask("lesion")
    user.wait()
    assert user.ui.consentFrame.isVisible()
    assert server.url in user.ui.consentLabel.text()
    assert "42 x 32 x 20" in user.ui.consentLabel.text()
    run_for(0.2)
    assert not server.uploads
    user.click("sendCtButton")
    user.wait()
    ((series, values, grid),) = server.uploads
    assert series == SERIES
    np.testing.assert_array_equal(values, phantom.hounsfield(GRID))
    np.testing.assert_allclose(grid.ijk_to_lps, GRID.ijk_to_lps, atol=1e-6)
    assert server.asked("/studies/upload-1/query")
    assert where(application) == pytest.approx(LESION, abs=1e-3)


def test_no_consent_no_pixels(user, server):
    server.known.clear()
    user.click("openButton")
    user.wait()
    user.click("keepCtButton")
    run_for(0.2)
    assert not server.uploads
    assert user.says == "The CT was not sent."
    assert not user.ui.consentFrame.isVisible()


def test_consent_is_for_the_server_that_was_named(user, server):
    server.known.clear()
    user.ask("lesion")
    user.wait()
    assert user.ui.consentFrame.isVisible()
    user.ui.addressLine.setText("127.0.0.1:9")
    user.click("testButton")
    user.wait()
    assert not user.ui.consentFrame.isVisible()


def test_pixels_stay_where_the_server_knows_the_series(user, server):
    user.ask("lesion")
    user.wait()
    assert not user.ui.consentFrame.isVisible()
    assert not server.uploads


def test_nothing_is_sent_before_the_user_does_something(user, server):
    run_for(0.3)
    assert server.requests == []


def test_another_ct_is_looked_up_once_the_server_was_called(user, server, scene):
    other = phantom.add_volume(GRID, "1.2.3.4", name="Other")
    user.ask("lesion")
    user.wait()
    server.known["1.2.3.4"] = STUDY
    user.choose(other)
    user.wait()
    assert server.asked("/series/1.2.3.4")
    assert user.rows("hitsTable") == []
    assert len(user.rows("findingsTable")) == 4
    assert user.ui.seriesLabel.isVisible()


def test_a_question_waits_for_a_ct_that_is_being_read(application, user, server):
    server.state = "queued"
    user.ask("lesion")
    wait_until(lambda: "reading this CT" in user.ui.activityLabel.property("text"))
    assert user.busy
    server.state = "read"
    wait_until(lambda: bool(server.asked("/query")))
    user.wait()
    assert where(application) == pytest.approx(LESION, abs=1e-3)


def test_a_token_is_sent_to_all_but_health(user, server):
    server.token = "secret token"
    user.ui.tokenLine.setText(" secret token ")
    user.ask("lesion")
    user.wait()
    assert user.says.startswith("Place 1")
    for request in server.requests:
        assert ("authorization" in request.headers) == (not request.path.endswith("/health"))


def test_the_connection_can_be_tested(user):
    user.click("testButton")
    user.wait()
    assert user.says == "The connection works. Studies on the server: 1."


@pytest.fixture
def dead_proxy():
    """The proxy of a hospital, which cannot reach this computer's loopback."""
    proxy = QtNetwork.QNetworkProxy(QtNetwork.QNetworkProxy.ProxyType.HttpProxy, "127.0.0.1", 9)
    QtNetwork.QNetworkProxy.setApplicationProxy(proxy)
    yield
    QtNetwork.QNetworkProxyFactory.setUseSystemConfiguration(True)


def test_a_proxy_is_left_out_on_loopback(user, server, dead_proxy):
    user.ask("lesion")
    user.wait()
    assert user.says.startswith("Place 1")


def test_a_server_elsewhere_is_called_through_the_proxy_of_the_system(user):
    proxy_of = {}
    for address in ("http://127.0.0.1:9", "localhost:9", "http://10.1.2.3:9"):
        user.panel.session.setServer(address, "")
        proxy_of[address] = user.panel.session._client._network.proxy().type()
    no_proxy, default = (
        QtNetwork.QNetworkProxy.ProxyType.NoProxy,
        QtNetwork.QNetworkProxy.ProxyType.DefaultProxy,
    )
    assert list(proxy_of.values()) == [no_proxy, no_proxy, default]


def test_questions_are_remembered_and_suggested(user):
    for text in ("Liver lesion", "cyst", "liver  LESION"):
        user.ask(text)
        user.wait()
    assert Settings().history == ["liver LESION", "cyst"]
    model = user.ui.queryLine.completer().model()
    offered = [model.data(model.index(row, 0)) for row in range(model.rowCount())]
    assert offered[:3] == ["liver LESION", "cyst", "splenomegaly"]
    assert "spleen" in offered
    assert "brain" not in offered
    user.click("forgetButton")
    assert Settings().history == []


def test_address_and_token_are_the_users_and_not_the_scenes(user, server, scene):
    user.ui.tokenLine.setText("secret")
    user.ask("lesion")
    user.wait()
    assert Settings().address == server.url
    assert Settings().token == "secret"
    node = user.panel._parameters.parameterNode
    texts = [node.GetParameter(name) for name in node.GetParameterNames()]
    assert not [text for text in texts if "secret" in text or "127.0.0.1" in text]


def test_a_closed_scene_leaves_an_empty_panel_that_works_again(application, user, server):
    user.ask("lesion")
    user.wait()
    application.close_scene()
    assert user.rows("hitsTable") == []
    assert user.panel.volume is None
    user.ask("lesion")
    assert user.says == "Choose a CT first."
    user.choose(phantom.add_volume(GRID, SERIES))
    user.ask("lesion")
    user.wait()
    assert user.says.startswith("Place 1")


@pytest.mark.parametrize("source", ["hierarchy", "database", "attribute"])
def test_a_ct_is_known_by_its_series(application, scene, source):
    volume = phantom.add_volume(GRID, SERIES if source == "hierarchy" else None)
    if source == "database":
        volume.SetAttribute("DICOM.instanceUIDs", "1.5.1 1.5.2")
        application.dicom.put("1.5.1", SERIES)
    if source == "attribute":
        volume.SetAttribute("Sightline.SeriesInstanceUID", SERIES)
    assert volumes.seriesInstanceUid(volume) == SERIES
    assert volumes.seriesInstanceUidOrNew(volume) == SERIES


def test_a_ct_without_dicom_is_given_a_uid_for_good(scene):
    volume = phantom.add_volume(GRID)
    assert volumes.seriesInstanceUid(volume) is None
    given = volumes.seriesInstanceUidOrNew(volume)
    assert given.startswith("2.25.")
    assert len(given) <= 64
    assert volumes.seriesInstanceUidOrNew(volume) == given


def test_the_shell_is_short_and_brings_nothing_when_it_is_imported(application):
    source = (application.extension / "Sightline" / "Sightline.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 100
    top_level = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in top_level if "SightlineLib" in line]
    assert sys.modules["Sightline"].__name__ == "Sightline"


@pytest.mark.parametrize("word", ["processEvents", "pip_install", "requests", "urllib.request", '.connect("'])
def test_what_the_extension_must_not_do_is_not_in_it(application, word):
    files = list((application.extension / "Sightline").rglob("*.py"))
    assert len(files) > 10
    assert not [file.name for file in files if word in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", ["corrections", "geometry", "settings", "tables"])
def test_examples_in_docstrings(name):
    done = doctest.testmod(importlib.import_module(f"SightlineLib.{name}"))
    assert done.attempted > 0
    assert done.failed == 0
