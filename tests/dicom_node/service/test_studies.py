"""What the service says of studies, and what it answers to those who may not ask or ask wrongly."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

import dicom_node
from dicom_node.index import Delivery, Result
from dicom_node.service import catalogue
from dicom_node.service.app import create_app
from tests.dicom_node.service.conftest import OBLIQUE, STUDY
from tests.dicom_node.service.stage import TOKEN, Stage, assert_refused, make_stage, series


def test_health_needs_no_token(stage: Stage) -> None:
    answer = stage.client.get("/health", headers={"Authorization": ""})
    assert answer.status_code == 200
    identity = stage.reader.identity
    assert answer.json() == {
        "service": "sightline",
        "version": dicom_node.__version__,
        "api": 1,
        "model": {"name": "tiny", "version": identity.version, "digest": identity.digest},
        "research_only": True,
    }
    assert answer.headers["x-sightline-api"] == "1"


def test_the_environment_sends_no_telemetry(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.path.encode())
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        # FastAPI looks at the environment when an application starts, and sends what it has when it ends.
        with TestClient(create_app(stage.parts, TOKEN), headers=stage.client.headers) as client:
            assert client.get(f"/api/1/studies/{STUDY}").status_code == 200
        collector.shutdown()
    assert heard == []
    assert "telemetry" not in caplog.text  # of an exporter that is not installed


def every_path(stage: Stage) -> list[tuple[str, str]]:
    """(method, path) of everything that OpenAPI publishes, with a UID where one is wanted."""
    document = stage.client.get("/openapi.json").json()
    return [
        (method, path.removeprefix("/api/1").replace("{study_uid}", STUDY).replace("{series_uid}", "2.25.1"))
        for path, methods in document["paths"].items()
        for method in methods
    ]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic YTpi", "bearer a-token", "Bearer é"]
)
def test_without_the_token_every_path_but_health_is_closed(stage: Stage, header: str | None) -> None:
    headers = {"Authorization": "" if header is None else header.encode()}
    paths = [p for p in every_path(stage) if p[1] != "/health"]
    assert len(paths) > 3
    for method, path in [*paths, ("get", "/openapi.json"), ("get", "/nothing"), ("get", "/health/")]:
        answer = stage.client.request(method, path, headers=headers)
        assert_refused(answer, 401, "token")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_worklist_has_both_studies_newest_first(stage: Stage) -> None:
    body = stage.client.get("/studies").json()
    assert body["total"] == 2
    assert [s["study_instance_uid"] for s in body["studies"]] == [OBLIQUE, STUDY]
    second = stage.client.get("/studies", params={"limit": 1, "offset": 1}).json()
    assert second == {"total": 2, "studies": body["studies"][1:]}
    study = body["studies"][1]
    assert stage.client.get(f"/studies/{STUDY}").json() == study
    assert study["read_at"] > study["last_image_at"] > 1.6e9
    assert {k: study[k] for k in ("series_instance_uid", "generation", "state", "images", "deliveries")} == {
        "series_instance_uid": "2.25.304.2",
        "generation": 1,
        "state": "read",
        "images": 24,
        "deliveries": [],
    }


def test_a_series_leads_to_its_study(stage: Stage) -> None:
    answer = stage.client.get("/series/2.25.305.2").json()
    assert (answer["study_instance_uid"], answer["state"]) == (OBLIQUE, "read")
    assert_refused(stage.client.get("/series/2.25.999"), 404, "no series")


def test_the_reading_is_the_file_that_was_stored(stage: Stage) -> None:
    answer = stage.client.get(f"/studies/{STUDY}/reading")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads((stage.folder(STUDY) / "reading.json").read_text("utf-8"))
    assert answer.json()["schema"] == "sightline-reading/1"


def test_a_study_on_its_way_says_how_far_it_is(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    study = stage.arrive(series())
    assert stage.client.get(f"/studies/{study}").json()["state"] == "receiving"
    assert_refused(stage.client.get(f"/studies/{study}/reading"), 409, "receiving")
    stage.complete()
    answer = stage.client.get(f"/studies/{study}").json()
    assert (answer["state"], answer["generation"], answer["read_at"]) == ("queued", 1, None)
    assert_refused(stage.client.get(f"/studies/{study}/reading"), 409, "queued")


def test_a_refused_study_says_why(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    study = stage.read(series()[:3])
    answer = stage.client.get(f"/studies/{study}").json()
    assert answer["state"] == "refused"
    assert "only 3 slices" in answer["reason"]
    assert_refused(stage.client.get(f"/studies/{study}/reading"), 409, "only 3 slices")


def test_late_images_make_it_receiving_and_keep_the_reading(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    slices = series()
    study = stage.read(slices[:20])
    stage.arrive(slices[20:])
    answer = stage.client.get(f"/studies/{study}").json()
    assert (answer["state"], answer["images"], answer["generation"]) == ("receiving", 24, 1)
    assert stage.client.get(f"/studies/{study}/reading").status_code == 200


def test_deliveries_are_summed_up_per_destination(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    study = stage.read(series())
    with stage.archive.index.writing() as session:
        uids = [row.sop_instance_uid for row in session.query(Result)]
        assert len(uids) > 1
        for number, uid in enumerate(uids):
            states = {"pacs": "delivered", "other": "dead" if number else "pending"}
            for name, state in states.items():
                reason = None if name == "pacs" else f"reason {number}"
                session.add(
                    Delivery(
                        sop_instance_uid=uid, destination=name, state=state, attempts=number + 1,
                        created_at=0.0, due_at=0.0, reason=reason,
                    )
                )  # fmt: skip
    other, pacs = stage.client.get(f"/studies/{study}").json()["deliveries"]
    assert pacs == {"destination": "pacs", "state": "delivered", "attempts": len(uids), "reason": None}
    assert (other["destination"], other["state"], other["attempts"]) == ("other", "dead", len(uids))
    assert other["reason"].startswith("reason")


def test_missing_files_of_a_read_study_are_no_defect(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    study = stage.read(series())
    (stage.folder(study) / "reading.json").unlink()
    assert_refused(stage.client.get(f"/studies/{study}/reading"), 409, "missing")


@pytest.mark.parametrize(
    "uid",
    [
        "..%2f..%2fetc%2fpasswd",
        "1..2",
        "abc",
        "1." * 40 + "1",
        "1.2%00",
        "1.2%0a",
        "%ff",
        "1.2 ",
        "-1",
        "\u0661.\u0662",
    ],
)
def test_what_is_no_uid_is_refused(stage: Stage, uid: str) -> None:
    for path in (f"/studies/{uid}", f"/series/{uid}", f"/studies/{uid}/reading"):
        answer = stage.client.get(path)
        assert answer.status_code in (404, 422)
        assert set(answer.json()) == {"error", "cure"}


@given(limit=st.one_of(st.integers(), st.text()), offset=st.one_of(st.integers(), st.text()))
def test_any_page_is_a_page_or_refused(stage: Stage, limit: Any, offset: Any) -> None:
    answer = stage.client.get(
        "/studies", params={"limit": str(limit).encode("utf-8", "replace"), "offset": 0}
    )
    assert answer.status_code in (200, 422)
    answer = stage.client.get(
        "/studies", params={"limit": 1, "offset": str(offset).encode("utf-8", "replace")}
    )
    assert answer.status_code in (200, 422)


def test_unknown_paths_and_methods_are_refused_alike(stage: Stage) -> None:
    assert_refused(stage.client.get("/nothing"), 404, "no such path")
    answer = stage.client.delete("/studies")
    assert_refused(answer, 405, "method")
    assert "GET" in answer.headers["allow"]


def test_large_bodies_are_refused_with_and_without_a_length(stage: Stage) -> None:
    assert_refused(stage.client.request("GET", "/studies", content=b"x" * 70_000), 413, "64 KiB")


def test_a_defect_is_told_without_what_was_sent(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise RuntimeError("Doe^Jane")

    monkeypatch.setattr(catalogue, "study", defect)
    with caplog.at_level("INFO"):
        answer = stage.client.get(f"/studies/{STUDY}")
    assert answer.status_code == 500
    assert set(answer.json()) == {"error", "cure"}
    assert "RuntimeError at test_studies.py" in caplog.text
    assert "studies/{study_uid} status=500" in caplog.text
    assert "Doe" not in answer.text + caplog.text
    assert STUDY not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("dicom_node"))
