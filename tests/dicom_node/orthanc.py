"""A real PACS for the tests: Debian's Orthanc on loopback, which routes stable studies by Lua.

Not a mock. It forgets everything when it ends: its storage is a folder of the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.dicom_node.network import free_port

AE_TITLE = "PACS"
# SendToModality in Lua takes instances only and blocks every other callback; the REST API has
# jobs (Orthanc book, "Lua: auto-routing").
ROUTE = """
function OnStableStudy(studyId, tags, metadata)
  local body = {}
  body['Resources'] = { studyId }
  body['Synchronous'] = false
  RestApiPost('/modalities/node/store', DumpJson(body, true))
end
"""


class Orthanc:
    """A running Orthanc; see `orthanc`."""

    def __init__(self, dicom_port: int, http_port: int) -> None:
        self.dicom_port = dicom_port
        self.url = f"http://127.0.0.1:{http_port}"

    def get(self, path: str) -> Any:
        """A JSON document of the REST API."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: bytes) -> Any:
        """Send bytes to the REST API; the JSON answer."""
        request = urllib.request.Request(self.url + path, data=body, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def upload(self, content: bytes) -> None:
        """Put one DICOM file, or a zip of files, into the PACS."""
        self.post("/instances", content)

    def objects(self) -> list[dict[str, str]]:
        """Every instance that is no CT image: its Orthanc ``id`` and some of its elements."""
        found = []
        for identifier in self.get("/instances"):
            tags = self.get(f"/instances/{identifier}/simplified-tags")
            if tags["Modality"] != "CT":
                found.append({"id": identifier} | {k: v for k, v in tags.items() if isinstance(v, str)})
        return found

    def fetch(self, identifier: str) -> bytes:
        """One instance as a DICOM file."""
        with urllib.request.urlopen(f"{self.url}/instances/{identifier}/file", timeout=30) as answer:
            return bytes(answer.read())

    def delete(self, identifier: str) -> None:
        """Forget one instance."""
        request = urllib.request.Request(f"{self.url}/instances/{identifier}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()

    def jobs(self) -> list[dict[str, Any]]:
        """All routing jobs so far."""
        return list(self.get("/jobs?expand"))

    def is_up(self) -> bool:
        """Whether the REST API answers."""
        try:
            self.get("/system")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True


@contextlib.contextmanager
def orthanc(
    program: str,
    folder: Path,
    *,
    node_ae_title: str,
    node_port: int,
    stable_seconds: int = 2,
    dicom_port: int | None = None,
    extra: dict[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """Start Orthanc with its storage in `folder`, which routes stable studies to the node.

    Parameters
    ----------
    program: path of the ``Orthanc`` binary.
    stable_seconds: quiet time after which Orthanc calls a study stable.
    dicom_port: where it listens; None for a free port.
    extra: further settings, such as plugins.
    """
    folder.mkdir(parents=True)
    (folder / "route.lua").write_text(ROUTE, encoding="utf-8")
    pacs = Orthanc(dicom_port=dicom_port or free_port(), http_port=(http_port := free_port()))
    settings = {
        "Name": "Test PACS",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": AE_TITLE,
        "DicomPort": pacs.dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "StableAge": stable_seconds,
        "DicomModalities": {"node": [node_ae_title, "127.0.0.1", node_port]},
        "LuaScripts": [str(folder / "route.lua")],
        "DicomAssociationCloseDelay": 1,
        **(extra or {}),
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with open(folder / "orthanc.log", "wb") as log:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
            # DCMTK waits for delayed acknowledgements otherwise, 45 ms for each C-STORE.
            env={**os.environ, "TCP_NODELAY": "1"},
        )
    try:
        deadline = time.monotonic() + 30
        while not pacs.is_up():
            assert process.poll() is None, (folder / "orthanc.log").read_text("utf-8", "replace")
            assert time.monotonic() < deadline, "Orthanc did not start within 30 s"
            time.sleep(0.1)
        yield pacs
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
