"""reading.json: exactly the documented fields, JSON that others can read, and no patient."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from dicom_node.results.reading_json import reading_document, slice_uid, write_reading_json
from tests.dicom_node.ct_series import ct_series, volume_of
from tests.dicom_node.readings import make_reading


def case(geometry="axial"):
    slices = ct_series(geometry)
    return make_reading(volume_of(slices), slices), slices


def test_fields_are_the_documented_ones(tmp_path):
    reading, _ = case()
    path = write_reading_json(reading, tmp_path / "reading.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document) == {"schema", "model", "device", "seconds", "organs", "findings", "lesions"}
    assert document["schema"] == "sightline-reading/1"
    assert set(document["model"]) == {"name", "version", "digest"}
    assert {frozenset(o) for o in document["organs"]} == {
        frozenset({"name", "label", "present", "volume_ml", "truncated"})
    }
    assert {frozenset(f) for f in document["findings"]} == {
        frozenset({"organ", "abnormality", "probability", "status", "position_lps_mm", "sop_instance_uid"})
    }
    assert {frozenset(x) for x in document["lesions"]} == {
        frozenset(
            {
                "organ",
                "type",
                "probability",
                "volume_ml",
                "long_axis_mm",
                "short_axis_mm",
                "centroid_lps_mm",
                "segment_number",
            }
        )
    }
    assert [o["label"] for o in document["organs"]] == [entry.label for entry in organs()]
    assert [f["abnormality"] for f in document["findings"]] == [entry.name for entry in abnormalities()]


def test_values_are_those_of_the_reading():
    reading, _ = case()
    document = reading_document(reading)
    for lesion, item in zip(reading.lesions, document["lesions"], strict=True):
        assert item["segment_number"] == lesion.label
        assert item["volume_ml"] == pytest.approx(lesion.volume_ml, abs=1e-3)
        assert item["centroid_lps_mm"] == pytest.approx(lesion.centroid_lps_mm, abs=1e-3)
    assert document["seconds"] == {"encode": 1.25, "lesions": 0.5}
    unseen = [f for f in document["findings"] if f["position_lps_mm"] is None]
    assert unseen
    assert all(f["status"] == "undetermined" and f["sop_instance_uid"] is None for f in unseen)


@pytest.mark.parametrize("geometry", ["axial", "reversed", "oblique"])
def test_slice_is_the_nearest_one(geometry):
    reading, slices = case(geometry)
    for k, dataset in enumerate(slices):
        x, y, z = reading.organ_mask.map_indices_to_reference(np.array([[k + 0.3, 20, 11]]))[0]
        assert slice_uid(reading, (float(x), float(y), float(z))) == dataset.SOPInstanceUID


def test_a_source_without_dicom_has_no_uids():
    reading = make_reading(volume_of(ct_series()))
    assert {f["sop_instance_uid"] for f in reading_document(reading)["findings"]} == {None}


def test_no_patient_identity(tmp_path):
    reading, slices = case()
    text = write_reading_json(reading, tmp_path / "reading.json").read_text(encoding="utf-8")
    for keyword in ("PatientID", "PatientBirthDate", "StudyDate", "StudyInstanceUID"):
        assert f'"{slices[0][keyword].value}"' not in text
    assert "Doe" not in text


def test_numpy_numbers_are_plain_and_not_finite_ones_refused():
    reading, _ = case()
    lesion = dataclasses.replace(reading.lesions[0], mean_hu=np.float32(3), volume_ml=np.float32(1.5))
    document = reading_document(dataclasses.replace(reading, lesions=(lesion,)))
    assert json.loads(json.dumps(document))["lesions"][0]["volume_ml"] == 1.5
    broken = dataclasses.replace(reading, lesions=(dataclasses.replace(lesion, volume_ml=float("nan")),))
    with pytest.raises(ValueError, match=r"reading\.lesions\[0\]\.volume_ml is nan"):
        reading_document(broken)
