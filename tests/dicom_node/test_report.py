"""The structured report: valid, complete, truthful about what is not known, and readable by others."""

from __future__ import annotations

import copy
import dataclasses
import functools

import numpy as np
import pydicom
import pytest
from highdicom import sr
from pydicom.sr.codedict import codes

from core_model.abnormality import abnormalities
from core_model.reading import Finding
from dicom_node.results.identifiers import finding_tracking_uid, lesion_tracking_uid
from dicom_node.results.report import BETWEEN_THRESHOLDS, NOT_IN_VIEW, findings_report
from dicom_node.results.segmentation import lesion_segmentation, organ_segmentation
from tests.dicom_node.ct_series import ct_series, volume_of, write_series
from tests.dicom_node.dirt import DIRT, spoiled
from tests.dicom_node.readings import KEY, make_reading
from tests.dicom_node.validation import dciodvfy_errors, tid1500

GEOMETRIES = ["axial", "reversed", "oblique"]
PRESENCE = {"present": "52101004", "absent": "272519000", "undetermined": "373068000"}


def report_of(slices, *, lesions=True):
    reading = make_reading(volume_of(slices), slices, lesions=lesions)
    return reading, _report(reading, slices)


def made(geometry="axial", *, lesions=True):
    """Slices, reading and report of a series, for tests that change none of them."""
    return _made(geometry, lesions)


@functools.cache
def _made(geometry, lesions):
    slices = ct_series(geometry)
    return slices, *report_of(slices, lesions=lesions)


def _report(reading, slices):
    return findings_report(
        reading,
        slices,
        KEY,
        lesion_seg=lesion_segmentation(reading, slices, KEY),
        organ_seg=organ_segmentation(reading, slices, KEY),
    )


def content(report):
    """The TID 1500 content as highdicom finds it in a data set, not as it was built."""
    return sr.Comprehensive3DSR.from_dataset(report).content


def groups(read):
    """The measurement groups by tracking UID, each of which only one has.

    Asked for by its UID, one group takes highdicom as long as all: 0.3 s.
    """
    found = [*read.get_image_measurement_groups(), *read.get_volumetric_roi_measurement_groups()]
    by_uid = {item.tracking_uid: item for item in found}
    assert len(by_uid) == len(found)
    return by_uid


def comments(items, finding):
    """The comments in a finding's group."""
    item = items[finding_tracking_uid(KEY, finding.organ, finding.abnormality)]
    return [
        child.TextValue
        for child in item[0].ContentSequence
        if child.ValueType == "TEXT" and child.ConceptNameCodeSequence[0].CodeValue == "121106"
    ]


@pytest.mark.parametrize("lesions", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_report_is_valid(geometry, lesions, tmp_path):
    _, _, report = made(geometry, lesions=lesions)
    assert dciodvfy_errors(report, tmp_path) == []
    assert (report.CompletionFlag, report.PreliminaryFlag) == ("COMPLETE", "PRELIMINARY")
    assert report.VerificationFlag == "UNVERIFIED"


@pytest.mark.parametrize("name", DIRT)
def test_dirty_headers_give_a_valid_report(name, tmp_path):
    slices, reading, _ = made()
    assert dciodvfy_errors(_report(reading, spoiled(copy.deepcopy(slices), name)), tmp_path) == []


def test_every_finding_is_there_with_its_status_and_probability(tmp_path):
    _, reading, report = made()
    report.save_as(tmp_path / "sr.dcm")
    back = sr.srread(tmp_path / "sr.dcm").content
    assert len(back.get_image_measurement_groups()) == len(abnormalities())
    items = groups(back)
    for finding in reading.findings:
        item = items[finding_tracking_uid(KEY, finding.organ, finding.abnormality)]
        evaluations = item.get_qualitative_evaluations(name=codes.DCM.PresenceOfProperty)
        assert [e.value.value for e in evaluations] == [PRESENCE[finding.status]]
        values = [m.value for m in item.get_measurements(name=codes.DCM.Probability)]
        expected = [] if finding.probability is None else [100 * finding.probability]
        assert values == pytest.approx(expected)


def test_undetermined_says_why():
    _, reading, report = made()
    items = groups(content(report))
    reasons = {f.abnormality: comments(items, f) for f in reading.findings}
    assert reasons["liver_cyst"] == [BETWEEN_THRESHOLDS]
    assert reasons["pancreatic_tumour"] == [NOT_IN_VIEW]
    for finding in reading.findings:
        assert bool(reasons[finding.abnormality]) == (finding.status == "undetermined")


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_key_image_is_the_slice_nearest_to_the_position(geometry):
    slices, reading, report = made(geometry)
    items = groups(content(report))
    checked = 0
    for finding in reading.findings:
        item = items[finding_tracking_uid(KEY, finding.organ, finding.abnormality)]
        if finding.position_lps_mm is None:
            assert item.source_images == []
            continue
        index = reading.organ_mask.map_reference_to_indices(np.array([finding.position_lps_mm]))[0, 0]
        referenced = item.source_images[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        distance = [abs(k - index) for k in range(len(slices)) if slices[k].SOPInstanceUID == referenced]
        assert distance[0] <= 0.5 + 1e-6
        checked += 1
    assert checked >= 4


def test_lesion_groups_carry_measurements_and_refer_to_their_segment():
    slices, reading, report = made()
    segmentation = lesion_segmentation(reading, slices, KEY)
    read = content(report)
    assert len(read.get_volumetric_roi_measurement_groups()) == len(reading.lesions)
    items = groups(read)
    for lesion, segment in zip(reading.lesions, segmentation.SegmentSequence, strict=True):
        item = items[lesion_tracking_uid(KEY, lesion.label)]
        assert item.tracking_uid == segment.TrackingUID
        assert item.tracking_identifier == segment.TrackingID
        reference = item.referenced_segment[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        assert reference.ReferencedSegmentNumber == lesion.label
        values = {m.name.value: (m.value, m.unit.value) for m in item.get_measurements()}
        assert values == {
            "118565006": (pytest.approx(lesion.volume_ml, abs=1e-4), "ml"),
            "103339001": (pytest.approx(lesion.long_axis_mm), "mm"),
            "103340004": (pytest.approx(lesion.short_axis_mm), "mm"),
            "112031": (pytest.approx(lesion.mean_hu, abs=1e-4), "[hnsf'U]"),
            "122157": (pytest.approx(100 * lesion.probability), "%"),
        }


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_dcmqi_reads_the_same_numbers(geometry, tmp_path):
    _, reading, report = made(geometry)
    document = tid1500(report, tmp_path)
    groups = {item["TrackingUniqueIdentifier"]: item for item in document["Measurements"]}
    assert len(groups) == len(reading.findings) + len(reading.lesions)
    for lesion in reading.lesions:
        item = groups[lesion_tracking_uid(KEY, lesion.label)]
        assert item["ReferencedSegment"] == lesion.label
        values = {m["quantity"]["CodeValue"]: float(m["value"]) for m in item["measurementItems"]}
        assert values["118565006"] == pytest.approx(lesion.volume_ml, abs=1e-4)
        assert values["103339001"] == pytest.approx(lesion.long_axis_mm)
        assert values["112031"] == pytest.approx(lesion.mean_hu, abs=1e-4)


def test_all_sources_and_segmentations_are_evidence():
    slices, reading, report = made()
    evidence = {
        sop.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }
    segmentations = {
        f(reading, slices, KEY).SOPInstanceUID for f in (lesion_segmentation, organ_segmentation)
    }
    assert evidence == {s.SOPInstanceUID for s in slices} | segmentations


def test_without_a_lesion_no_group_refers_to_a_segment():
    _, _, report = made(lesions=False)
    read = content(report)
    assert read.get_volumetric_roi_measurement_groups() == []
    assert len(read.get_image_measurement_groups()) == len(abnormalities())


def test_a_retry_has_the_same_content_and_uid():
    slices, _, once = made()
    _, again = report_of(slices)
    assert (once.SOPInstanceUID, once.SeriesInstanceUID) == (again.SOPInstanceUID, again.SeriesInstanceUID)
    trees = [dataset.to_json_dict()["0040A730"] for dataset in (once, again)]
    assert trees[0] == trees[1]


@pytest.mark.parametrize(
    ("name", "character_set"),
    [("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]), ("Müller^Jérôme", "ISO_IR 100")],
)
def test_names_arrive_in_the_report(name, character_set, tmp_path):
    paths = write_series(ct_series(patient_name=name, character_set=character_set), tmp_path)
    _, report = report_of([pydicom.dcmread(path) for path in paths])
    assert dciodvfy_errors(report, tmp_path) == []
    assert str(pydicom.dcmread(tmp_path / "validated.dcm").PatientName) == name


@pytest.mark.parametrize("name", ["Mononym", "a name, freely written", "x" * 70])
def test_an_odd_name_reaches_no_log(name, caplog, recwarn, capfd):
    caplog.set_level("DEBUG")
    slices = ct_series()
    for dataset in slices:
        dataset.add(pydicom.DataElement("PatientName", "PN", name, validation_mode=pydicom.config.IGNORE))
    _, report = report_of(slices)
    assert str(report.PatientName) == name
    said = caplog.text + "".join(str(warning.message) for warning in recwarn) + "".join(capfd.readouterr())
    assert name not in said


def test_impossible_requests_are_refused():
    slices, reading, _ = made()
    with pytest.raises(ValueError, match="lesion_seg is None"):
        findings_report(reading, slices, KEY, lesion_seg=None, organ_seg=None)
    odd = Finding("liver", "liver_cyst", 0.5, "perhaps", None)
    with pytest.raises(ValueError, match="perhaps"):
        _report(dataclasses.replace(reading, findings=(odd,)), slices)
