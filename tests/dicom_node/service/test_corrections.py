"""A radiologist's correction becomes a valid SEG and SR, kept once, delivered, and seen in the status."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import highdicom as hd
import nrrd
import numpy as np
import pydicom
import pytest
import sqlalchemy as sa

from dicom_node import cli, readings
from dicom_node.config import Destination
from dicom_node.corrections import SCHEMA, corrections_of
from dicom_node.delivery import Courier, stored_back_at
from dicom_node.index import Delivery, Generation, Result
from dicom_node.reading_files import write_numbers, write_objects
from dicom_node.results.identifiers import finding_tracking_uid, lesion_tracking_uid
from dicom_node.service.nrrd_files import volume_nrrd
from dicom_node.service.segments import lesion_segments, segments_nrrd
from tests.dicom_node.ct_series import volume_of
from tests.dicom_node.network import Pacs, free_port, write_config
from tests.dicom_node.readings import KEY, make_reading
from tests.dicom_node.service.stage import Stage, assert_refused, make_stage, series
from tests.dicom_node.validation import dciodvfy_errors

STUDY = "2.25.304.1"
NAME = "Röntgen^Wilhelm"


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A study read by hand-made ellipsoids: two lesions, findings of every status; one PACS."""
    folder = tmp_path_factory.mktemp("corrections")
    stage = make_stage(folder)
    pacs = Destination("pacs", "127.0.0.1", free_port(), "PACS")
    stage = Stage(dataclasses.replace(stage.config, destinations=(pacs,)), stage.archive, stage.reader)
    slices = series()
    stage.arrive(slices)
    reading = make_reading(volume_of(slices), slices)
    results = readings.results_folder(stage.archive, KEY)
    results.mkdir()
    write_objects(results, reading, slices, KEY)
    write_numbers(results, reading)
    with stage.archive.index.writing() as session:
        generation = Generation(
            study_instance_uid=STUDY, series_instance_uid="2.25.304.2", number=1, watermark=10**6,
            last_ct_at=0.0, complete_at=0.0, state="queued", reading_key=KEY,
            sop_instance_uids=[str(s.SOPInstanceUID) for s in slices],
        )  # fmt: skip
        session.add(generation)
        session.flush()
    readings.publish(
        stage.archive,
        stage.config,
        generation.id,
        readings.Finished(started_at=0.0, seconds={}, peak_rss_bytes=1, device="cpu"),
    )
    return stage


def post(stage: Stage, segmentation: bytes | None = None, **correction: Any) -> Any:
    files = {} if segmentation is None else {"segmentation": ("x.seg.nrrd", segmentation)}
    data = {"correction": json.dumps({"observer_name": NAME, **correction})}
    return stage.client.post(f"/studies/{STUDY}/corrections", data=data, files=files)


def lesion_labels() -> hd.Volume:
    """The node's two lesions on the CT, the first grown by a row."""
    mask = make_reading(volume_of(series())).lesion_mask
    labels = mask.array.copy()
    labels[:, 1:][(mask.array[:, :-1] == 1) & (labels[:, 1:] == 0)] = 1
    return mask.with_array(labels)


def edited(stage: Stage, labels: hd.Volume) -> bytes:
    """`labels` as Slicer would send the node's own segmentation back."""
    lesions = stage.client.get(f"/studies/{STUDY}/reading").json()["lesions"]
    return segments_nrrd(labels, lesion_segments(lesions))


def load(stage: Stage, uid: str) -> pydicom.Dataset:
    with stage.archive.index.reading() as session:
        row = session.get_one(Result, uid)
    return pydicom.dcmread(readings.results_folder(stage.archive, KEY) / row.file_name)


def items(dataset: pydicom.Dataset) -> list[pydicom.Dataset]:
    """All content items of an SR, depth first."""
    return [i for item in dataset.get("ContentSequence", []) for i in (item, *items(item))]


def test_marks_and_segmentation_become_valid_dicom(read: Stage, tmp_path: Path) -> None:
    findings = read.client.get(f"/studies/{STUDY}/reading").json()["findings"]
    by_status = {f["status"]: n for n, f in enumerate(findings)}
    present, absent = by_status["present"], by_status["absent"]
    marks = [
        {"finding_index": present, "verdict": "accept"},
        {"finding_index": absent, "verdict": "reject"},
        {"finding_index": by_status["undetermined"], "verdict": "reject"},
    ]
    labels = lesion_labels()
    answer = post(read, edited(read, labels), marks=marks, comment="Rim\nseen in\tportal phase.")
    assert answer.status_code == 201, answer.text
    seg = load(read, answer.json()["segmentation_sop_instance_uid"])
    report = load(read, answer.json()["report_sop_instance_uid"])
    for dataset in (seg, report):
        assert dataset.StudyInstanceUID == STUDY
        assert (dataset.PatientName, dataset.PatientID) == ("Doe^Jane", "TEST-0001")
        assert dciodvfy_errors(dataset, tmp_path) == []

    planes = hd.seg.Segmentation.from_dataset(seg).get_pixels_by_source_instance(
        [str(s.SOPInstanceUID) for s in series()], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert (planes == labels.array).all()
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["liver tumour 1", "renal mass 2"]
    assert [s.TrackingUID for s in seg.SegmentSequence] == [lesion_tracking_uid(KEY, n) for n in (1, 2)]
    assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "126851005"

    assert (report.VerificationFlag, report.CompletionFlag) == ("VERIFIED", "COMPLETE")
    assert report.VerifyingObserverSequence[0].VerifyingObserverName == NAME
    node = pydicom.dcmread(readings.results_folder(read.archive, KEY) / "findings.sr.dcm")
    (before,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert before.ReferencedSOPInstanceUID == node.SOPInstanceUID
    content = items(report)
    assert [str(i.PersonName) for i in content if i.ValueType == "PNAME"] == [NAME]
    assert "Rim seen in portal phase." in [i.get("TextValue") for i in content]
    uids = {str(i.UID) for i in content if i.ValueType == "UIDREF"}
    for n in (present, absent):
        assert finding_tracking_uid(KEY, findings[n]["organ"], findings[n]["abnormality"]) in uids
    codes = [i.ConceptCodeSequence[0].CodeMeaning for i in content if i.ValueType == "CODE"]
    assert (codes.count("Accepted"), codes.count("Rejected")) == (1, 2)
    assert (codes.count("Present"), codes.count("Absent")) == (2, 0)  # kept, and turned round
    numbers = [i for i in content if i.ValueType == "NUM"]
    measured = [n for n in numbers if n.ConceptNameCodeSequence[0].CodeMeaning == "Volume"]
    volumes = [n.MeasuredValueSequence[0].NumericValue for n in measured]
    expected = np.bincount(labels.array.ravel())[1:] * np.prod(labels.spacing) / 1000
    np.testing.assert_allclose([float(v) for v in volumes], expected, rtol=1e-3)

    row = next(
        r for r in corrections_of(read.archive, STUDY) if r.report_sop_instance_uid == report.SOPInstanceUID
    )
    folder = readings.results_folder(read.archive, KEY) / "corrections"
    document = json.loads((folder / f"{row.id}.json").read_text("utf-8"))
    assert document["schema"] == SCHEMA
    assert [m["presence"] for m in document["marks"]] == ["present", "present", None]
    assert (folder / document["segmentation"]).exists()
    assert NAME not in json.dumps(document, ensure_ascii=False)


def test_the_same_correction_is_kept_once(read: Stage) -> None:
    marks = [{"finding_index": 0, "verdict": "accept"}]
    before = len(corrections_of(read.archive, STUDY))
    first, second = (post(read, marks=marks).json() for _ in range(2))
    assert first == second
    assert first["segmentation_sop_instance_uid"] is None
    assert len(corrections_of(read.archive, STUDY)) == before + 1


def test_a_part_of_the_grid_in_another_axis_order_lands_on_its_voxels(read: Stage) -> None:
    labels = lesion_labels()
    box = [slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(labels.array)]
    cropped = labels[box[0], box[1], box[2]].to_patient_orientation("RAF")
    answer = post(read, edited(read, cropped), comment="cropped")
    assert answer.status_code == 201, answer.text
    seg = hd.seg.Segmentation.from_dataset(load(read, answer.json()["segmentation_sop_instance_uid"]))
    planes = seg.get_pixels_by_source_instance(
        [str(s.SOPInstanceUID) for s in series()], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert (planes == labels.array).all()


def test_new_and_overlapping_segments_are_kept(read: Stage) -> None:
    labels = lesion_labels()
    layers = np.stack([(labels.array == 1), np.ones_like(labels.array)], -1).astype(np.uint8)
    affine = np.asarray(labels.affine)
    header = {
        "space": "left-posterior-superior", "kinds": ["list", "domain", "domain", "domain"],
        "space directions": [[np.nan] * 3, *affine[:3, 2::-1].T], "space origin": affine[:3, 3],
        "encoding": "gzip", "Segment0_ID": "Segment_1", "Segment0_Name": "mein Herd",
        "Segment0_LabelValue": "1", "Segment0_Layer": "0", "Segment1_ID": "Segment_2",
        "Segment1_Name": "alles", "Segment1_LabelValue": "1", "Segment1_Layer": "1",
    }  # fmt: skip
    file = io.BytesIO()
    nrrd.write(file, layers, header, index_order="C")
    answer = post(read, file.getvalue())
    assert answer.status_code == 201, answer.text
    seg = load(read, answer.json()["segmentation_sop_instance_uid"])
    assert [(s.SegmentLabel, s.SegmentAlgorithmType) for s in seg.SegmentSequence] == [
        ("mein Herd", "MANUAL"),
        ("alles", "MANUAL"),
    ]
    counts = np.zeros(3, int)
    frames = hd.seg.Segmentation.from_dataset(seg).pixel_array
    for frame, item in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        counts[item.SegmentIdentificationSequence[0].ReferencedSegmentNumber] += int(frame.sum())
    assert counts.tolist() == [0, int((labels.array == 1).sum()), labels.array.size]


def test_a_segmentation_that_was_emptied_is_said_in_the_report(read: Stage) -> None:
    labels = lesion_labels()
    fields = {"Segmentation_MasterRepresentation": "Binary labelmap"}
    content = volume_nrrd(labels, fields)  # labels that no segment owns
    assert_refused(post(read, content), 422, "no segments")
    nothing = labels.with_array(np.zeros_like(labels.array))
    assert_refused(post(read, volume_nrrd(nothing)), 422, "no segments")
    removed = post(read, volume_nrrd(nothing, fields), comment="all segments were removed")
    assert removed.status_code == 201, removed.text
    assert removed.json()["segmentation_sop_instance_uid"] is None
    far = edited(read, labels)
    emptied = far.replace(b"LabelValue:=1", b"LabelValue:=7").replace(b"LabelValue:=2", b"LabelValue:=8")
    answer = post(read, emptied)
    assert answer.status_code == 201, answer.text
    assert answer.json()["segmentation_sop_instance_uid"] is None
    content = items(load(read, answer.json()["report_sop_instance_uid"]))
    codes = [i.ConceptCodeSequence[0].CodeMeaning for i in content if i.ValueType == "CODE"]
    assert "No segment left" in codes


def test_what_cannot_be_kept_is_refused(read: Stage) -> None:
    labels = lesion_labels()
    affine = np.array(labels.affine)
    affine[:3, 3] += 2.0  # half a voxel off
    shifted = hd.Volume(labels.array, affine, coordinate_system="PATIENT")
    cases: list[tuple[Any, str]] = [
        (post(read), "corrects nothing"),
        (post(read, marks=[{"finding_index": 9999, "verdict": "accept"}]), "no finding 9999"),
        (post(read, marks=[{"finding_index": 1, "verdict": "accept"}] * 2), "twice"),
        (post(read, marks=[{"finding_index": -1, "verdict": "accept"}]), "finding_index"),
        (post(read, marks=[{"finding_index": 1, "verdict": "maybe"}]), "verdict"),
        (post(read, b"no nrrd"), "no NRRD"),
        (post(read, edited(read, shifted)), "do not lie on"),
        (post(read, volume_nrrd(labels)), "no segments"),
        (post(read, marks=[{"finding_index": 0, "verdict": "accept"}], observer_name="^"), "person name"),
        (post(read, marks=[{"finding_index": 0, "verdict": "accept"}], observer_name="a\\b"), "person name"),
        (post(read, marks=[{"finding_index": 0, "verdict": "accept"}], observer_name="a\x00"), "person name"),
        (read.client.post(f"/studies/{STUDY}/corrections", data={"correction": "{"}), "correction"),
        (read.client.post(f"/studies/{STUDY}/corrections", data={"correction": '"\\ud800"'}), "correction"),
        (read.client.post(f"/studies/{STUDY}/corrections", data={}), "correction"),
        (read.client.post(f"/studies/{STUDY}/corrections", json={"correction": "{}"}), "correction"),
    ]
    for answer, words in cases:
        assert_refused(answer, 422, words)
    answer = read.client.post("/studies/2.25.9/corrections", data={"correction": "{}"})
    assert_refused(answer, 404, "no study")


def test_corrections_are_delivered_after_the_nodes_results_and_shown(
    read: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = post(read, edited(read, lesion_labels()), comment="for delivery")
    uids = [answer.json()["segmentation_sop_instance_uid"], answer.json()["report_sop_instance_uid"]]
    config = write_config(read.config, tmp_path / "node.toml")
    assert cli.main(["status", "--config", str(config), "--json"]) == 0
    (before,) = json.loads(capsys.readouterr().out)["studies"]
    n = len(corrections_of(read.archive, STUDY))
    assert (before["study_instance_uid"], before["corrections"], before["delivered"]) == (STUDY, n, 0)
    pacs = Pacs(read.config.destinations[0].port)
    with pacs.listening():
        Courier(read.config, read.archive).send_due()
    received = [uid for _, uid in pacs.received]
    assert [received.index(uid) for uid in uids] == sorted(received.index(uid) for uid in uids)
    own = [
        str(pydicom.dcmread(p).SOPInstanceUID)
        for p in readings.results_folder(read.archive, KEY).glob("*.dcm")
    ]
    assert max(received.index(uid) for uid in own) < min(received.index(uid) for uid in uids)
    with read.archive.index.reading() as session:
        assert {row.state for row in session.scalars(sa.select(Delivery))} == {"delivered"}
    assert cli.main(["status", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "corrections" in shown
    assert "Doe" not in shown
    assert stored_back_at(read.archive, KEY) is not None
    post(read, marks=[{"finding_index": 2, "verdict": "accept"}])
    assert stored_back_at(read.archive, KEY) is not None  # the node's own are there
