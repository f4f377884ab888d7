"""A small HTTP server that speaks the contract of the query service, for the extension's tests.

Not the service and no model: it answers from the phantom and from recorded shapes
(``tests/slicer/contract.json``). Real sockets on loopback; it can be slow, broken or another version.
"""

from __future__ import annotations

import copy
import email
import email.policy
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from tests.slicer.harness import phantom
from tests.slicer.harness.nrrd_files import Segment, read_volume, segment_file, volume_file

SHAPES = json.loads((Path(__file__).parents[1] / "contract.json").read_text(encoding="utf-8"))
SERIES = SHAPES["study"]["series_instance_uid"]
STUDY = SHAPES["study"]["study_instance_uid"]


@dataclass
class Request:
    """What a client sent."""

    verb: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def parts(self) -> dict[str, bytes]:
        """The parts of a multipart body by name."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + self.body, policy=email.policy.HTTP)
        return {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message.iter_parts()
        }


class Refusal(Exception):
    """An answer of 4xx."""

    def __init__(self, status: int, error: str, cure: str) -> None:
        super().__init__(error)
        self.status = status
        self.answer = {"error": error, "cure": cure}


@dataclass
class ContractServer:
    """The server; use it as a context manager.

    Attributes
    ----------
    grid: of the CT that it has.
    token: what it asks for; empty for none.
    state, reason: of the one study.
    positions: of the hits, LPS mm, best first.
    polls: how often a job answers before it is done.
    delays: seconds to wait before answering, by the end of the path.
    overrides: status and body to send instead, by the end of the path.
    """

    grid: phantom.Grid
    token: str = ""
    health: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(SHAPES["health"]))
    reading: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(SHAPES["reading"]))
    known: dict[str, str] = field(default_factory=lambda: {SERIES: STUDY})
    state: str = "read"
    reason: str | None = None
    positions: list[tuple[float, float, float]] = field(
        default_factory=lambda: [phantom.LESION.centre, phantom.SPLEEN.centre, phantom.SPINE.centre]
    )
    polls: int = 1
    job_error: str | None = None
    delays: dict[str, float] = field(default_factory=dict)
    overrides: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: list[tuple[str, np.ndarray, phantom.Grid]] = field(default_factory=list)

    def __enter__(self) -> ContractServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, kind, body = server._answer(
                    Request(self.command, self.path, headers, self.rfile.read(length))
                )
                self.send_response(status)
                self.send_header("X-Sightline-Api", "1")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_arguments: object) -> None:
                """Requests are in `requests`; nothing is printed."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, _request: object, _address: object) -> None:
                """A client that hangs up is what tests of cancelling do."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def asked(self, end: str, verb: str | None = None) -> list[Request]:
        """The requests whose path ends so."""
        return [r for r in self.requests if r.path.endswith(end) and verb in (None, r.verb)]

    def _answer(self, request: Request) -> tuple[int, str, bytes]:
        self.requests.append(request)
        path = request.path.removeprefix("/api/1")
        for end, seconds in self.delays.items():
            if path.endswith(end):
                time.sleep(seconds)
        for end, (status, body) in self.overrides.items():
            if path.endswith(end):
                return status, "application/json", body
        try:
            if path != "/health" and self.token:
                self._check_token(request)
            status, answer = self._route(request, path)
        except Refusal as refusal:
            status, answer = refusal.status, refusal.answer
        if isinstance(answer, bytes):
            return status, "application/x-nrrd", answer
        return status, "application/json", json.dumps(answer).encode()

    def _check_token(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refusal(401, "The request has no valid token.", "Send Authorization: Bearer TOKEN.")

    def _route(self, request: Request, path: str) -> tuple[int, Any]:
        for pattern, handler in self._routes():
            match = re.fullmatch(pattern, f"{request.verb} {path}")
            if match:
                return handler(request, *match.groups())
        raise Refusal(404, f"There is no {request.verb} {path}.", "See the contract.")

    def _routes(self) -> list[tuple[str, Callable[..., tuple[int, Any]]]]:
        return [
            (r"GET /health", lambda _r: (200, self.health)),
            (
                r"GET /studies\?limit=\d+&offset=\d+",
                lambda _r: (200, {"total": 1, "studies": [self.study()]}),
            ),
            (r"GET /series/([^/]+)", self._series),
            (r"GET /studies/([^/]+)/reading", lambda _r, uid: self._of(uid, self.reading)),
            (r"POST /studies/([^/]+)/query", self._query),
            (r"POST /studies/([^/]+)/heatmap", lambda _r, uid: self._of(uid, self._heat_map())),
            (r"GET /studies/([^/]+)/segmentation/(organs|lesions)", self._segmentation),
            (r"POST /studies/([^/]+)/mask", lambda _r, uid: self._of(uid, self._job("mask"), 202)),
            (r"POST /uploads\?series_instance_uid=([0-9.]+)", self._upload),
            (r"GET /jobs/([^/]+)", self._poll),
            (r"GET /jobs/([^/]+)/result", lambda _r, _id: (200, self._lesion_file("liver lesion"))),
            (r"DELETE /jobs/([^/]+)", self._delete),
            (r"POST /studies/([^/]+)/corrections", lambda _r, uid: self._of(uid, SHAPES["corrected"], 201)),
        ]

    def study(self) -> dict[str, Any]:
        """STUDY of the one study."""
        return {**SHAPES["study"], "state": self.state, "reason": self.reason}

    def _of(self, uid: str, answer: Any, status: int = 200) -> tuple[int, Any]:
        if uid not in self.known.values():
            raise Refusal(404, f"Study {uid} is not in the archive.", "Send it to the node first.")
        return status, answer

    def _series(self, _request: Request, uid: str) -> tuple[int, Any]:
        if uid not in self.known:
            raise Refusal(404, f"Series {uid} is not in the archive.", "Send it to the node first.")
        return 200, self.study()

    def _query(self, request: Request, uid: str) -> tuple[int, Any]:
        asked = request.json()
        hits = [
            {**SHAPES["hit"], "rank": rank, "position_lps_mm": list(position), "score": 0.5 - 0.1 * rank}
            for rank, position in enumerate(self.positions[: asked["k"]], start=1)
        ]
        answer = {"text": asked["text"], "model": SHAPES["health"]["model"], "hits": hits}
        return self._of(uid, answer)

    def _heat_map(self) -> bytes:
        distance = np.linalg.norm(self.grid.points() - np.array(phantom.LESION.centre), axis=-1)
        return volume_file(np.exp(-((distance / 30) ** 2)).astype(np.float32), self.grid)

    def _segmentation(self, _request: Request, uid: str, kind: str) -> tuple[int, Any]:
        if kind == "lesions":
            return self._of(uid, self._lesion_file("liver tumour 1"))
        lesion = phantom.mask(self.grid, phantom.LESION)
        liver = phantom.mask(self.grid, phantom.LIVER) | lesion
        segments = [Segment("liver", liver, (0.8, 0.3, 0.3))]
        segments.append(Segment("spleen", phantom.mask(self.grid, phantom.SPLEEN), (0.6, 0.3, 0.6)))
        return self._of(uid, segment_file(segments, self.grid))

    def _lesion_file(self, name: str) -> bytes:
        return segment_file([Segment(name, phantom.mask(self.grid, phantom.LESION))], self.grid)

    def _job(self, kind: str, study: str | None = None) -> dict[str, Any]:
        job = {**SHAPES["job"], "id": f"{kind}-{len(self.jobs)}", "kind": kind}
        self.jobs[job["id"]] = {**job, "left": self.polls, "then": study}
        return job

    def _upload(self, request: Request, uid: str) -> tuple[int, Any]:
        self.uploads.append((uid, *read_volume(request.body)))
        study = f"upload-{len(self.uploads)}"
        self.known[uid] = study
        return 202, self._job("upload", study)

    def _poll(self, _request: Request, identifier: str) -> tuple[int, Any]:
        job = self.jobs[identifier]
        if job["state"] != "cancelled":
            job["left"] -= 1
            job["state"], job["stage"], job["progress"] = "running", "lesions", 0.5
            if job["left"] < 0:
                job["state"], job["progress"] = ("failed" if self.job_error else "done"), 1.0
                job["error"], job["study"] = self.job_error, job["then"]
        return 200, {key: job[key] for key in SHAPES["job"]}

    def _delete(self, _request: Request, identifier: str) -> tuple[int, Any]:
        job = self.jobs[identifier]
        job["state"] = "cancelled"
        return 200, {key: job[key] for key in SHAPES["job"]}
