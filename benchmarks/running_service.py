"""The query service as benchmarks need it: on loopback, in a process of its own, on an archive that is there.

Not what tests of the extension start (`tests.slicer.harness.real_service`): that delivers and has a status.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_node.demo_node import free_port
from dicom_node.service.access import TOKEN_FILE

START_SECONDS = 300.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Running:
    """A service that answers.

    Attributes
    ----------
    port: on 127.0.0.1.
    token: that requests must bring.
    process: to be watched, not to be ended.
    log: what it has written so far.
    """

    port: int
    token: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running_service(archive: Path, checkpoint: Path | None) -> Iterator[Running]:
    """A service on an archive, as long as this is entered; its configuration and log are gone afterwards.

    Parameters
    ----------
    checkpoint: that answers; None for the shipped one.

    Raises
    ------
    SystemExit: if it does not start; with its log.
    """
    port = free_port()
    # A JSON string is a TOML basic string.
    model = "" if checkpoint is None else f"checkpoint = {json.dumps(str(checkpoint.absolute()))}\n"
    with tempfile.TemporaryDirectory() as name:
        config, log = Path(name) / "node.toml", Path(name) / "service.log"
        config.write_text(
            f"archive = {json.dumps(str(archive.absolute()))}\n{model}[service]\nport = {port}\n",
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "dicom_node.processes", "service", "--config", str(config)]
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stderr=stream)
        try:
            _wait_ready(process, log)
            token = (archive / TOKEN_FILE).read_text(encoding="ascii").strip()
            yield Running(port, token, process, log)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "service ready" not in log.read_text(encoding="utf-8"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the service did not start:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.2)
