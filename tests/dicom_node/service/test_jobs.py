"""Uploads and text masks: read like any study, refused in words, cancelled, bounded, cleaned up."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import highdicom as hd
import nrrd
import numpy as np
import numpy.typing as npt
import pytest
from fastapi.testclient import TestClient

from benchmarks.campaign_node import context
from dicom_node.service.nrrd_files import volume_nrrd
from tests.dicom_node.ct_series import volume_of
from tests.dicom_node.network import wait_until
from tests.dicom_node.service.stage import Stage, assert_refused, make_stage, series
from tests.dicom_node.service.test_queries import opened
from tests.tiny import body_volume


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A service that does jobs, with one study read.

    Its workers are forked from a process that has imported torch: what they do and how they end is tested
    here, several times, and their start by "spawn" with the extension in ``test_real_service.py``.
    """
    stage = make_stage(tmp_path_factory.mktemp("jobs"), queue=2)
    stage.read(series())
    forked = SimpleNamespace(get_context=lambda _: context())
    with pytest.MonkeyPatch.context() as patch, stage.parts.running():
        patch.setattr("dicom_node.service.jobs.multiprocessing", forked)
        yield stage


def ct(orientation: str = "HPL") -> hd.Volume:
    """A body with lungs, float32 HU, its axes in the given order."""
    return body_volume().to_patient_orientation(orientation)


def over(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it is over; its progress never falls meanwhile."""
    shares, deadline = [job["progress"]], time.monotonic() + 240
    while job["state"] in ("waiting", "running"):
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
        job = client.get(f"/jobs/{job['id']}").json()
        shares.append(job["progress"])
    assert shares == sorted(shares)
    return job


def send(stage: Stage, content: bytes, series_uid: str | None = None) -> Any:
    return stage.client.post(
        "/uploads", content=content, params={"series_instance_uid": series_uid or "1.2.3"}
    )


def on_voxels_of(volume: hd.Volume, content: bytes) -> npt.NDArray[np.uint8]:
    """The labels of a file, which must lie on voxels of the CT and may be cropped, on the whole CT."""
    array, _, affine = opened(content)
    cropped = array.transpose(2, 1, 0)
    own = affine[:, [2, 1, 0, 3]]
    np.testing.assert_allclose(own[:3, :3], np.asarray(volume.affine)[:3, :3], atol=1e-4)
    start = volume.map_reference_to_indices(own[:3, 3][None])[0]
    np.testing.assert_allclose(start, np.rint(start), atol=1e-3)
    whole = np.zeros(volume.spatial_shape, dtype=np.uint8)
    box = tuple(slice(a, a + n) for a, n in zip(np.rint(start).astype(int), cropped.shape, strict=True))
    whole[box] = cropped
    return whole


@pytest.mark.parametrize("orientation", ["HPL", "LPH", "RAF"])
def test_an_uploaded_ct_can_be_asked_as_any_study(working: Stage, orientation: str) -> None:
    volume, client = ct(orientation), working.client
    uid = f"1.2.826.0.{len(orientation)}.{ord(orientation[0])}"
    content = volume_nrrd(volume)
    answer = send(working, content, uid)
    assert answer.status_code == 202, answer.text
    job = over(client, answer.json())
    assert (job["state"], job["error"], job["progress"], job["kind"]) == ("done", None, 1.0, "upload")
    study = job["study"]
    known = client.get(f"/studies/{study}").json()
    assert known == client.get(f"/series/{uid}").json()
    assert (known["state"], known["images"], known["generation"]) == ("read", 24, None)
    assert client.get("/studies").json()["total"] == 1  # the worklist is of the network's studies
    reading = client.get(f"/studies/{study}/reading").json()
    assert reading == client.get(f"/jobs/{job['id']}/result").json()
    hit = client.post(f"/studies/{study}/query", json={"text": "liver"}).json()["hits"][0]
    index = volume.map_reference_to_indices(np.array([hit["position_lps_mm"]]))[0]
    assert (index > -1).all()
    assert (index < np.array(volume.spatial_shape)).all()
    organs = client.get(f"/studies/{study}/segmentation/organs")
    array = on_voxels_of(volume, organs.content)
    assert sum(o["volume_ml"] for o in reading["organs"]) == pytest.approx(
        (array > 0).sum() * np.prod(volume.spacing) / 1000, rel=0.1
    )
    assert_refused(client.post(f"/studies/{study}/corrections", data={"correction": "{}"}), 409, "headers")
    again = over(client, send(working, content, uid).json())
    assert (again["state"], again["study"]) == ("done", study)


def test_a_text_is_drawn_on_the_grid_of_the_ct(working: Stage) -> None:
    client, study = working.client, "2.25.304.1"
    answer = client.post(f"/studies/{study}/mask", json={"text": "liver cyst ☃\n"})
    assert answer.status_code == 202
    job = answer.json()
    assert job["study"] == study
    if job["state"] != "done":
        early = client.get(f"/jobs/{job['id']}/result")
        assert early.status_code in (200, 409)
    assert over(client, job)["state"] == "done"
    result = client.get(f"/jobs/{job['id']}/result")
    volume = volume_of(series())
    array = on_voxels_of(volume, result.content)
    drawn = working.reader.segment(volume, "liver cyst ☃\n")
    assert (array == drawn.array).all()


def header_of(volume: hd.Volume, **changes: Any) -> bytes:
    """The volume as NRRD with changed header fields."""
    content = volume_nrrd(volume)
    head, data = content.split(b"\n\n", 1)
    lines = [line for line in head.split(b"\n") if line.split(b":")[0].decode() not in changes]
    lines += [f"{key}: {value}".encode() for key, value in changes.items() if value is not None]
    return b"\n".join(lines) + b"\n\n" + data


VOLUME = body_volume()
HOSTILE = {
    "empty": (b"", "NRRD000"),
    "text": (b"hello" * 100, "NRRD000"),
    "header only": (b"NRRD0005\ntype: short\n", "does not end"),
    "endless header": (b"NRRD0005\n" + b"#" * (2 << 20), "does not end"),
    "no fields": (b"NRRD0005\n\n", "encoding"),
    "rubbish field": (b"NRRD0005\nsizes: x y z\n\n", "cannot be read"),
    "other file": (header_of(VOLUME, **{"data file": "/etc/passwd"}), "another file"),
    "other file, one word": (header_of(VOLUME, datafile="/etc/passwd"), "another file"),
    "encoding": (header_of(VOLUME, encoding="bzip2"), "encoding"),
    "skip": (header_of(VOLUME, **{"byte skip": "-1"}), "skips"),
    "no space": (header_of(VOLUME, space=None), "left and right"),
    "no directions": (header_of(VOLUME, **{"space directions": None}), "sizes and space directions"),
    "flat directions": (header_of(VOLUME, **{"space directions": "(1,0,0) (2,0,0) (0,0,1)"}), "right angles"),
    "no length": (header_of(VOLUME, **{"space directions": "(0,0,0) (0,1,0) (0,0,1)"}), "millimetres"),
    "infinite": (header_of(VOLUME, **{"space directions": "(inf,0,0) (0,1,0) (0,0,1)"}), "usable"),
    "metres": (header_of(VOLUME, **{"space directions": "(.001,0,0) (0,.001,0) (0,0,.001)"}), "0.001 x"),
    "huge": (header_of(VOLUME, sizes="100000 100000 100000"), "more than"),
    "negative": (header_of(VOLUME, sizes="-4 30 24"), "no voxels"),
    "two axes": (header_of(VOLUME, sizes="4 30"), "axes"),
    "type": (header_of(VOLUME, type="block"), "type"),
    "small": (volume_nrrd(VOLUME[:4, :4, :4]), "only 32 x 32 x 32 mm"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_ct_is_refused_at_once(working: Stage, case: str) -> None:
    content, words = HOSTILE[case]
    assert_refused(send(working, content), 422, words)
    assert not list(working.parts.jobs.folder.glob("*.upload"))


def test_numbers_that_are_no_ct_fail_their_job_in_words(working: Stage) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    head = header_of(VOLUME).split(b"\n\n", 1)[0] + b"\n\n"
    cases = {
        "broken": (head + b"no gzip at all", "gzip stream"),
        "cut": (header_of(VOLUME)[:-2000], "another number of voxels"),
        "bomb": (head + bomb, "another number of voxels"),
        "labels": (volume_nrrd(VOLUME.with_array((VOLUME.array > 0).astype(np.int16))), "Hounsfield"),
        "air": (volume_nrrd(VOLUME.with_array(np.full_like(VOLUME.array, -1000))), "no body"),
    }
    for case, (content, words) in cases.items():
        job = over(working.client, send(working, content).json())
        assert job["state"] == "failed", case
        assert words in job["error"], (case, job)
        assert_refused(working.client.get(f"/jobs/{job['id']}/result"), 409, "failed")
        assert_refused(working.client.get(f"/studies/{job['study']}"), 404, "no study")
    assert not list(working.parts.jobs.folder.glob("*.upload"))


def test_what_slicer_writes_in_other_spaces_is_the_same_body(working: Stage) -> None:
    volume, file = VOLUME, io.BytesIO()
    affine = np.diag([-1, -1, 1, 1]) @ np.asarray(volume.affine)
    header = {
        "space": "right-anterior-superior",
        "space directions": affine[:3, 2::-1].T,
        "space origin": affine[:3, 3],
        "encoding": "raw",
    }
    nrrd.write(file, volume.array.astype(np.int16), header, index_order="C")
    job = over(working.client, send(working, file.getvalue()).json())
    assert job["state"] == "done", job
    organs = working.client.get(f"/studies/{job['study']}/segmentation/organs")
    assert on_voxels_of(volume, organs.content).any()


def stand_still(working: Stage) -> None:
    """Stop the worker's process: whatever it is given next is under way until it is cancelled."""
    first = working.client.post("/studies/2.25.304.1/mask", json={"text": "first"}).json()
    assert over(working.client, first)["state"] == "done"
    process = working.parts.jobs._process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)


def test_jobs_wait_are_bounded_and_cancelled(working: Stage) -> None:
    client, path = working.client, "/studies/2.25.304.1/mask"
    stand_still(working)
    jobs, answer = [client.post(path, json={"text": "cyst"}).json()], None
    first = f"/jobs/{jobs[0]['id']}"
    # Or it would leave its place in the queue after the queue was found full.
    wait_until(lambda: client.get(first).json()["state"] == "running", 60, "the first job to begin")
    for number in range(12):
        answer = client.post(path, json={"text": f"cyst {number}"})
        if answer.status_code != 202:
            break
        jobs.append(answer.json())
    assert answer is not None
    assert_refused(answer, 429, "waiting")
    assert_refused(send(working, volume_nrrd(VOLUME)), 429, "waiting")
    for job in reversed(jobs):
        gone = client.delete(f"/jobs/{job['id']}").json()
        assert gone["state"] == "cancelled"
        assert client.delete(f"/jobs/{job['id']}").json() == gone
    last = over(client, client.post(path, json={"text": "after all that"}).json())
    assert last["state"] == "done"  # by a new worker, where the old one was ended at work


def test_a_worker_that_dies_fails_its_job_and_not_the_next(working: Stage) -> None:
    client, path = working.client, "/studies/2.25.304.1/mask"
    assert over(client, client.post(path, json={"text": "a"}).json())["state"] == "done"
    job = client.post(path, json={"text": "b"}).json()
    process = working.parts.jobs._process
    assert process is not None
    process.kill()
    assert over(client, job)["state"] in ("failed", "done")
    assert over(client, client.post(path, json={"text": "c"}).json())["state"] == "done"


@pytest.mark.parametrize("job", ["0" * 32, "x", "..", "0" * 31])
def test_unknown_jobs_are_refused(working: Stage, job: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/result")):
        answer = working.client.request(method, f"/jobs/{job}{path}")
        assert answer.status_code in (404, 422)
        assert set(answer.json()) == {"error", "cure"}


def test_an_upload_that_is_too_large_is_cut_off(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, upload_mib=1)
    stage.parts.jobs.folder.mkdir()
    assert_refused(send(stage, bytes(2 << 20)), 413, "1 MiB")

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(100_000)

    assert_refused(stage.client.post("/uploads", content=chunks()), 413, "1 MiB")
    assert not list(stage.parts.jobs.folder.iterdir())
    assert json.dumps(stage.client.get("/studies").json()) == '{"total": 0, "studies": []}'
