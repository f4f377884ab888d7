"""The extension with the real service: a phantom that the node has read with the shipped model."""

from __future__ import annotations

import io
import json
import urllib.request

import numpy as np
import pydicom
import pytest
import slicer
import vtk
from PySide6 import QtCore
from SightlineLib import results as nodes

from dicom_node.demo_node import free_port
from tests.dicom_node.orthanc import AE_TITLE, orthanc
from tests.dicom_node.validation import dciodvfy_errors
from tests.peers import require
from tests.slicer.harness import phantom
from tests.slicer.harness.nrrd_files import read_volume
from tests.slicer.harness.operator import Operator
from tests.slicer.harness.real_service import RealService
from tests.slicer.harness.server import SHAPES
from tests.slicer.harness.waiting import wait_until
from training.datasets.archive import corrected_studies

RAS_FROM_LPS = np.array([-1.0, -1.0, 1.0])
TEXT = "hypodense liver lesion"
LESION_MM = 45.0  # as `tests.slicer.harness.read_phantom` plants it


PACS_PORT = free_port()
PACS = f"""
[[destination]]
name = "pacs"
address = "127.0.0.1"
port = {PACS_PORT}
ae_title = "{AE_TITLE}"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with RealService.with_phantom(tmp_path_factory.mktemp("node"), PACS) as running:
        yield running


@pytest.fixture(scope="module")
def planted(service):
    """Centre of the planted tumour, RAS mm."""
    (entry,) = service.truth["planted"]
    return np.array(entry["centroid_lps_mm"]) * RAS_FROM_LPS


@pytest.fixture(scope="module")
def ct(service):
    return service.ct()


@pytest.fixture
def volume(scene, ct):
    return phantom.add_voxels(*ct)


@pytest.fixture
def user(widget, volume, service):
    operator = Operator(widget, service.url, service.token)
    operator.choose(volume)
    return operator


def reading(service):
    (path,) = service.archive.glob("results/*/reading.json")
    return json.loads(path.read_text(encoding="utf-8"))


def places(service, text):
    """The positions that the service gives to another client, RAS mm, best first."""
    url = f"{service.url}/api/1/studies/{service.truth['study_instance_uid']}/query"
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps({"text": text}).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        hits = json.load(answer)["hits"]
    return [np.array(hit["position_lps_mm"]) * RAS_FROM_LPS for hit in hits]


def test_a_question_ends_where_the_service_says(application, user, service):
    user.click("maskBox")
    user.ask(TEXT)
    user.wait()
    expected = places(service, TEXT)
    assert user.says.startswith(f"Place 1 of {len(expected)}: ")
    assert len(user.rows("hitsTable")) == len(expected) > 1
    for view in application.views.values():
        assert view.centre_ras() == pytest.approx(expected[0], abs=0.01)
    user.press(QtCore.Qt.Key.Key_Down)
    assert application.views["Red"].centre_ras() == pytest.approx(expected[1], abs=0.01)
    heat = user.panel.results.find(nodes.HEAT_MAP)
    composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    assert composite.GetForegroundVolumeID() == heat.GetID()
    values = slicer.util.arrayFromVolume(heat)
    assert (values.min(), values.max()) == (0, 1)
    bounds = [np.zeros(6), np.zeros(6)]
    for node, found in zip((heat, user.panel.volume), bounds, strict=True):
        node.GetRASBounds(found)
    # Cells of 8 mm, the body's box: it may stand over the CT's edge by less than a cell.
    assert np.abs(bounds[0][4:] - bounds[1][4:]).max() <= 16.0


def test_the_model_finds_the_planted_tumour(application, user, planted):
    user.click("maskBox")
    user.ask(TEXT)
    user.wait()
    assert abs(application.views["Red"].centre_ras()[2] - planted[2]) <= LESION_MM / 2


def test_the_outline_is_a_job_and_lies_on_the_ct(user, volume, service):
    user.ask(TEXT)
    wait_until(lambda: not user.busy, seconds=300)
    node = user.panel.results.find(nodes.MASK)
    assert node is not None, user.says
    (path,) = service.archive.glob("jobs/*.seg.nrrd")
    values, grid = read_volume(path.read_bytes())
    assert node.GetSegmentation().GetNumberOfSegments() == int(values.any())
    if values.any():
        identifier = node.GetSegmentation().GetNthSegmentID(0)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume)
        assert int((mask > 0).sum()) == int((values > 0).sum())
        sent = (grid.points()[values > 0].mean(axis=0)) * RAS_FROM_LPS
        assert node.GetSegmentCenterRAS(identifier) is not None
        to_ras = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(to_ras)
        k, j, i = np.argwhere(mask > 0).mean(axis=0)
        assert to_ras.MultiplyPoint((i, j, k, 1))[:3] == pytest.approx(sent, abs=0.01)


def test_findings_and_lesions_are_those_of_the_reading(application, user, volume, service):
    stored = reading(service)
    user.click("openButton")
    user.wait()
    rows = user.rows("findingsTable")
    assert len(rows) == len(stored["findings"])
    user.click("presentOnlyBox")
    present = [f for f in stored["findings"] if f["status"] == "present"]
    assert len(user.rows("findingsTable")) == len(present)
    user.click("presentOnlyBox")
    row = next(n for n, each in enumerate(rows) if each[1] == "liver tumour")
    user.click_row("findingsTable", row)
    finding = next(f for f in stored["findings"] if f["abnormality"] == "liver_tumour")
    expected = np.array(finding["position_lps_mm"]) * RAS_FROM_LPS
    assert application.views["Red"].centre_ras() == pytest.approx(expected, abs=0.1)
    node = user.panel.results.find(nodes.LESIONS)
    segmentation = node.GetSegmentation()
    shown = {segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())}
    assert shown == {f"lesion-{lesion['segment_number']}" for lesion in stored["lesions"]}
    voxel_ml = np.prod(volume.GetSpacing()) / 1000
    for lesion in stored["lesions"]:
        identifier = f"lesion-{lesion['segment_number']}"
        segment = node.GetSegmentation().GetSegment(identifier)
        entry = vtk.reference("")
        assert segment.GetTag("TerminologyEntry", entry)
        assert "SCT^" in str(entry)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume)
        assert mask.sum() * voxel_ml == pytest.approx(lesion["volume_ml"], rel=0.01, abs=0.07)


def test_organs_lie_where_the_ct_has_them(user, volume):
    user.click("organsButton")
    user.wait()
    node = user.panel.results.find(nodes.ORGANS)
    assert node.GetSegmentation().GetSegment("liver").GetName() == "liver"
    liver = slicer.util.arrayFromSegmentBinaryLabelmap(node, "liver", volume) > 0
    hu = slicer.util.arrayFromVolume(volume)[liver]
    assert liver.sum() * np.prod(volume.GetSpacing()) / 1000 > 300  # ml
    assert 30 < np.median(hu) < 160
    centre = node.GetSegmentCenterRAS("liver")
    assert centre[0] > 0  # the liver is on the patient's right


def result(service, uid):
    for path in service.archive.rglob("*.dcm"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if dataset.SOPInstanceUID == uid:
            return dataset
    raise AssertionError(f"{uid} is not in the archive")


def correct(user, comment):
    user.ui.observerLine.setText("Doe, Jane")
    user.ui.commentLine.setText(comment)
    user.click("correctButton")
    user.wait()
    assert user.says.startswith("Your correction is stored"), user.says
    return user.says.removesuffix(".").rsplit(" ", 1)[1]


def in_pacs(pacs):
    """The data sets of a PACS by SOP Instance UID."""
    files = [pydicom.dcmread(io.BytesIO(pacs.fetch(found["id"]))) for found in pacs.objects()]
    return {str(dataset.SOPInstanceUID): dataset for dataset in files}


def test_a_correction_arrives_in_the_pacs_and_is_what_training_reads(user, volume, service, tmp_path):
    program = require("Orthanc")
    user.click("openButton")
    user.wait()
    user.click_row("findingsTable", 0)
    user.click("acceptButton")
    node = user.panel.results.find(nodes.LESIONS)
    drawn = np.zeros(slicer.util.arrayFromVolume(volume).shape, dtype=np.uint8)
    drawn[10:14, 30:40, 30:44] = 1
    node.GetSegmentation().AddEmptySegment("mine", "mine")
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, node, "mine", volume)
    (counted,) = service.status()
    report_uid = correct(user, "larger")
    with orthanc(
        program, tmp_path / "pacs", node_ae_title="SIGHTLINE", node_port=free_port(), dicom_port=PACS_PORT
    ) as pacs:
        service.deliver()
        received = in_pacs(pacs)
    report = received[report_uid]
    assert report.VerifyingObserverSequence[0].VerifyingObserverName == "Doe^Jane"
    assert report.StudyInstanceUID == service.truth["study_instance_uid"]
    (seg,) = (d for d in received.values() if d.get("ContentLabel") == "CORRECTION")
    for dataset in (report, seg):
        assert dciodvfy_errors(dataset, tmp_path) == []
    (line,) = service.status()
    assert line["corrections"] == counted["corrections"] + 1
    assert (line["pending"], line["dead"]) == (0, 0)
    (study,) = (s for s in corrected_studies(service.archive) if "mine" in [one.name for one in s.segments])
    assert study.labels is not None
    # The extension's k runs along the slices of the CT, feet first, as the node's slices do.
    order = slice(None) if study.volume.affine[2, 0] > 0 else slice(None, None, -1)
    label = next(one.label for one in study.segments if one.name == "mine")
    np.testing.assert_array_equal(study.labels[order] == label, drawn > 0)
    np.testing.assert_array_equal(study.volume.array[order], slicer.util.arrayFromVolume(volume))
    assert [verdict.verdict for verdict in study.verdicts] == ["accept"]


def test_that_no_lesion_is_left_can_be_said(user, service):
    user.click("openButton")
    user.wait()
    segmentation = user.panel.results.find(nodes.LESIONS).GetSegmentation()
    segmentation.AddEmptySegment("mine", "mine")
    user.panel.results.lesionsSent()
    segmentation.RemoveAllSegments()
    report = result(service, correct(user, "nothing there"))
    assert "No segment left" in str(report)


def test_a_ct_that_the_node_never_saw_is_read_after_consent(application, scene, user, ct, planted):
    voxels, grid, _series = ct
    user.choose(phantom.add_voxels(voxels, grid, "1.2.826.0.1.3680043.8.498.7", "Another"))
    user.click("maskBox")
    user.ask(TEXT)
    user.wait()
    assert user.ui.consentFrame.isVisible()
    user.click("sendCtButton")
    wait_until(lambda: not user.busy, seconds=300)
    assert user.says.startswith("Place 1 of "), user.says
    assert abs(application.views["Red"].centre_ras()[2] - planted[2]) <= LESION_MM / 2
    user.click("openButton")
    user.wait()
    assert user.rows("findingsTable")
    user.click_row("findingsTable", 0)
    user.click("acceptButton")
    user.ui.observerLine.setText("Doe, Jane")
    user.click("correctButton")
    user.wait()
    assert "uploaded volume has no DICOM headers" in user.says


def test_a_wrong_token_is_said(user):
    user.ui.tokenLine.setText("wrong")
    user.ask(TEXT)
    user.wait()
    assert user.says.startswith("The server does not accept the token")


def test_the_hand_made_server_speaks_as_the_real_one(user, service):
    client = user.panel.session
    answers = {}
    client.setServer(service.url, service.token)
    study = service.truth["study_instance_uid"]

    def keep(name):
        return lambda answer: answers.setdefault(name, answer)

    def fail(failure):
        raise AssertionError(failure)

    calls = client._client
    calls.health(keep("health"), fail)
    calls.series(service.truth["series_instance_uid"], keep("study"), fail)
    calls.reading(study, keep("reading"), fail)
    calls.query(study, TEXT, 2, keep("query"), fail)
    wait_until(lambda: len(answers) == 4)
    assert set(answers["health"]) == set(SHAPES["health"])
    assert set(answers["study"]) == set(SHAPES["study"])
    assert set(answers["query"]["hits"][0]) == set(SHAPES["hit"])
    for part in ("findings", "lesions", "organs"):
        assert set(SHAPES["reading"].get(part, [{}])[0]) <= set(answers["reading"][part][0])


def test_nothing_went_wrong_in_the_service_and_no_text_is_in_its_log(service):
    assert " defect " not in service.log
    for word in ("lesion", "PHANTOM", "Doe"):
        assert word not in service.log


def test_a_service_that_ended_is_said(user, service):
    user.ask(TEXT)
    user.wait()
    service.stop()
    user.ask("liver")
    user.wait()
    assert user.says.startswith("No Sightline server answers at ")
