"""Places, heat map and masks of one study: right in space, loaded once, refused in words."""

from __future__ import annotations

import dataclasses
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import highdicom as hd
import nrrd
import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from core_model.encoding_file import load_encoding, save_encoding
from core_model.reading import ModelIdentity
from dicom_node.archive import results_folder
from dicom_node.reading_files import write_numbers, write_objects
from dicom_node.service.catalogue import Held
from dicom_node.service.encodings import EncodingCache
from dicom_node.service.errors import ApiError
from dicom_node.service.masks import stored_masks
from tests.dicom_node.ct_series import volume_of
from tests.dicom_node.readings import KEY, make_reading
from tests.dicom_node.service.conftest import OBLIQUE, STUDY
from tests.dicom_node.service.stage import Stage, assert_refused, make_stage, series

TEXT = "hypodense liver lesion"


def opened(content: bytes) -> tuple[npt.NDArray[Any], dict[str, Any], npt.NDArray[np.float64]]:
    """Array (i, j, k), header and affine (LPS) of NRRD bytes, as pynrrd has them."""
    file = io.BytesIO(content)
    header = nrrd.read_header(file)
    array = nrrd.read_data(header, file)
    assert header["space"] == "left-posterior-superior"
    affine = np.eye(4)
    affine[:3, :3] = header["space directions"].T
    affine[:3, 3] = header["space origin"]
    return array, header, affine


@pytest.mark.parametrize("study", [STUDY, OBLIQUE])
def test_the_hits_are_the_readers_own_places(stage: Stage, study: str) -> None:
    answer = stage.client.post(f"/studies/{study}/query", json={"text": TEXT, "k": 4})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["text"], body["model"]["digest"]) == (TEXT, stage.reader.identity.digest)
    assert [hit["rank"] for hit in body["hits"]] == list(range(1, len(body["hits"]) + 1))
    assert 2 <= len(body["hits"]) <= 4
    encoding = load_encoding(stage.folder(study) / "encoding.safetensors")
    found = stage.reader.localize(encoding, TEXT)
    first = body["hits"][0]
    assert first["position_lps_mm"] == pytest.approx(found.position_lps_mm, abs=1e-3)
    assert first["score"] == pytest.approx(found.score, abs=1e-6)
    assert (first["organ"], first["slice_index"]) == (found.organ, found.slice_index)
    assert first["sop_instance_uid"] == found.slice.sop_instance_uid
    low, high = (np.array(end) for end in first["slab_lps_mm"])
    normal = np.asarray(encoding.grid.direction)[:, 0]
    np.testing.assert_allclose(high - low, normal * encoding.grid.spacing[0], atol=4e-3)
    beside = np.array(first["position_lps_mm"]) - (low + high) / 2
    assert abs(beside @ normal) <= encoding.grid.spacing[0] / 2 + 2e-3
    np.testing.assert_allclose(beside - (beside @ normal) * normal, 0, atol=4e-3)


@pytest.mark.parametrize("study", [STUDY, OBLIQUE])
def test_the_heat_map_lies_in_the_patient_and_peaks_at_the_first_hit(stage: Stage, study: str) -> None:
    answer = stage.client.post(f"/studies/{study}/heatmap", json={"text": TEXT})
    assert answer.headers["content-type"] == "application/x-nrrd"
    array, header, affine = opened(answer.content)
    assert (array.dtype, header["encoding"]) == (np.dtype(np.float32), "gzip")
    assert (array.min(), array.max()) == (0, 1)
    hit = stage.client.post(f"/studies/{study}/query", json={"text": TEXT, "k": 1}).json()["hits"][0]
    peak = np.unravel_index(int(array.argmax()), array.shape)
    beside = np.linalg.solve(affine, [*hit["position_lps_mm"], 1])[:3] - peak
    assert np.abs(beside).max() <= 0.51  # the position lies in the brightest cell


@pytest.mark.parametrize("lesions", [True, False])
@pytest.mark.parametrize("geometry", ["axial", "reversed", "oblique"])
def test_masks_lie_on_the_ct_voxel_by_voxel(tmp_path: Path, geometry: Any, lesions: bool) -> None:
    stage = make_stage(tmp_path)
    slices = series(geometry=geometry)
    stage.arrive(slices)
    volume = volume_of(slices)
    reading = make_reading(volume, slices, lesions=lesions)
    folder = results_folder(stage.archive, KEY)
    folder.mkdir()
    write_objects(folder, reading, slices, KEY)
    write_numbers(folder, reading)
    held = Held(STUDY, KEY, folder, tuple(str(s.SOPInstanceUID) for s in slices))
    for kind, mask in (("organs", reading.organ_mask), ("lesions", reading.lesion_mask)):
        content = stored_masks(stage.archive, held, kind)  # type: ignore[arg-type]
        array, header, affine = opened(content)
        assert array.dtype == np.uint8
        assert int((array > 0).sum()) == int((mask.array > 0).sum())
        for label in np.unique(mask.array[mask.array > 0]):
            theirs = (affine @ [*np.argwhere(array == label).mean(0), 1])[:3]
            ours = mask.map_indices_to_reference(np.argwhere(mask.array == label).mean(0)[None])[0]
            np.testing.assert_allclose(theirs, ours, atol=1e-3)
        boxes = np.argwhere(mask.array > 0)[:, ::-1]  # cropped to what is there
        assert array.shape == (tuple(np.ptp(boxes, axis=0) + 1) if len(boxes) else (1, 1, 1))
        assert stored_masks(stage.archive, held, kind) == content  # type: ignore[arg-type]
        _check_segments(array, header, kind, lesions)


def _check_segments(array: npt.NDArray[Any], header: dict[str, Any], kind: str, lesions: bool) -> None:
    numbers = sorted(int(k[7:-3]) for k in header if k.startswith("Segment") and k.endswith("_ID"))
    labels = [int(header[f"Segment{n}_LabelValue"]) for n in numbers]
    assert labels == [int(v) for v in np.unique(array) if v]
    if kind == "lesions":
        assert len(labels) == (2 if lesions else 0)
    for n, label in zip(numbers, labels, strict=True):
        extent = [int(v) for v in header[f"Segment{n}_Extent"].split()]
        inside = np.argwhere(array == label)
        assert extent == [v for pair in zip(inside.min(0), inside.max(0), strict=True) for v in pair]
        colour = [float(v) for v in header[f"Segment{n}_Color"].split()]
        assert len(colour) == 3
        assert all(0 <= v <= 1 for v in colour)
        assert "TerminologyEntry:" in header[f"Segment{n}_Tags"]
    if labels and kind == "lesions":
        assert (header["Segment0_ID"], header["Segment0_Name"]) == ("lesion-1", "liver tumour 1")
        assert "~SCT^126851005^Neoplasm of liver~" in header["Segment0_Tags"]
        assert "~SCT^10200004^" in header["Segment0_Tags"]
    elif labels:
        liver = labels.index(21)
        assert header[f"Segment{numbers[liver]}_Name"] == "liver"


def test_masks_of_a_real_reading_come_over_http(stage: Stage) -> None:
    answer = stage.client.get(f"/studies/{OBLIQUE}/segmentation/organs")
    assert answer.status_code == 200, answer.text
    array, _, affine = opened(answer.content)
    seg = hd.seg.segread(stage.folder(OBLIQUE) / "organs.seg.dcm")
    volume = seg.get_volume(combine_segments=True, skip_overlap_checks=True)
    points = volume.map_indices_to_reference(np.argwhere(volume.array > 0))
    index = np.rint((np.linalg.inv(affine) @ np.c_[points, np.ones(len(points))].T)[:3]).astype(int)
    assert (array[tuple(index)] == volume.array[volume.array > 0]).all()
    assert int((array > 0).sum()) == len(points)
    assert pydicom.dcmread(stage.folder(OBLIQUE) / "organs.seg.dcm").SegmentSequence
    assert stage.client.get(f"/studies/{OBLIQUE}/segmentation/lesions").status_code == 200
    assert_refused(stage.client.get(f"/studies/{OBLIQUE}/segmentation/vessels"), 422, "kind")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"text": ""}, {"text": "  \t "}, {"text": "x" * 501}, {"text": 3}, {"text": None}, [], "x", None,
        {"text": "liver", "k": 0}, {"text": "liver", "k": 21}, {"text": "liver", "k": "5"},
        {"text": "liver", "k": 2.5}, {"text": "liver", "k": True}, {"text": "liver", "more": 1},
        {"text": "(series 3, image 47)"}, {"text": "\ud800"},
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(stage: Stage, body: Any) -> None:
    headers = {"Content-Type": "application/json"}
    answer = stage.client.post(f"/studies/{STUDY}/query", content=json.dumps(body), headers=headers)
    assert_refused(answer, 422, "body")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"text": "a\\ud83d"}', b"[" * 40_000, b"NaN"])
def test_what_is_no_json_is_refused(stage: Stage, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("query", "heatmap"):
        answer = stage.client.post(f"/studies/{STUDY}/{path}", content=content, headers=headers)
        assert answer.status_code in (400, 422), answer.text
        assert set(answer.json()) == {"error", "cure"}


@pytest.mark.parametrize(
    "text", ["肝", "liver\x00", "🫀", "a" * 500, "<script>", "'; DROP TABLE study; --", "\u202ex"]
)
def test_any_text_is_answered(stage: Stage, text: str) -> None:
    answer = stage.client.post(f"/studies/{STUDY}/query", json={"text": text})
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == text


def test_an_unknown_study_is_refused(stage: Stage) -> None:
    for path in ("query", "heatmap"):
        assert_refused(stage.client.post(f"/studies/2.25.9/{path}", json={"text": TEXT}), 404, "no study")
    assert_refused(stage.client.get("/studies/2.25.9/segmentation/organs"), 404, "no study")


def test_another_models_encoding_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    study = stage.read(series())
    path = stage.folder(study) / "encoding.safetensors"
    encoding = load_encoding(path)
    save_encoding(dataclasses.replace(encoding, model=ModelIdentity("old", "0.1", "ff" * 32)), path)
    asked = {"text": TEXT}
    assert_refused(stage.client.post(f"/studies/{study}/query", json=asked), 409, "old 0.1")
    other = Stage(stage.config, stage.archive, stage.reader)
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(other.client.post(f"/studies/{study}/query", json=asked), 409, "damaged")


def test_an_encoding_is_loaded_once_for_all_who_ask_at_once(stage: Stage) -> None:
    cache = EncodingCache(1 << 30)
    held = Held(STUDY, "a", stage.folder(STUDY), ("1",))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get(held), range(16)))
    assert cache.loads == 1
    assert len({id(one) for one in found}) == 1


def test_the_cache_keeps_to_its_bound_and_drops_the_least_asked(stage: Stage) -> None:
    folder = stage.folder(STUDY)
    one = EncodingCache(1 << 30).get(Held(STUDY, "a", folder, ())).nbytes
    cache = EncodingCache(int(2.5 * one))
    for key in ("a", "b", "a", "c"):
        cache.get(Held(STUDY, key, folder, ()))
        assert cache.nbytes <= 2.5 * one
    assert cache.loads == 3
    cache.get(Held(STUDY, "a", folder, ()))
    assert cache.loads == 3
    cache.get(Held(STUDY, "b", folder, ()))  # was dropped for c
    assert cache.loads == 4
    tiny = EncodingCache(one // 2)
    tiny.get(Held(STUDY, "a", folder, ()))
    assert tiny.nbytes == 0
    with pytest.raises(ApiError, match="missing"):
        cache.get(Held(STUDY, "d", folder / "none", ()))
