"""A real node for the demo: its configuration, and `sightline serve` as a child process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from dicom_node.demo_pacs import AE_TITLE, DemoError

START_TIMEOUT = 180.0  # seconds; the first import of torch on a slow disk takes a while
STOP_TIMEOUT = 30.0
_LOG_LINES = 8


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_config(
    folder: Path, pacs_port: int, checkpoint: Path | None = None, device: str | None = None
) -> Path:
    """A configuration file in `folder` that a person may copy and edit."""
    path = folder / "node.toml"
    chosen = {"checkpoint": checkpoint and str(checkpoint.absolute()), "device": device}
    # A JSON string is a TOML basic string.
    model = "".join(f"{key} = {json.dumps(value)}\n" for key, value in chosen.items() if value)
    path.write_text(
        f"""\
# The demo's node: loopback only, one peer. Run it again with: sightline serve --config node.toml
ae_title = "SIGHTLINE"
address = "127.0.0.1"
port = {free_port()}
calling_ae_titles = ["{AE_TITLE}"]
archive = "archive"
quiet_seconds = 2.0
{model}
[receiver]
# However full the disk is: the demo has little to store, and reserve_gib is kept all the same.
refuse_above_percent = 100.0
accept_below_percent = 100.0

[delivery]
retry_seconds = 1.0

[service]
port = {free_port()}

[monitor]
port = {free_port()}

[[destination]]
name = "demo-pacs"
address = "127.0.0.1"
port = {pacs_port}
ae_title = "{AE_TITLE}"
""",
        encoding="utf-8",
    )
    return path


class NodeProcess:
    """`sightline serve --config FILE`, its output in a log file. A context manager.

    Parameters
    ----------
    config: configuration file.
    log: file for its standard output and error.
    """

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> NodeProcess:
        command = [sys.executable, "-m", "dicom_node.cli", "serve", "--config", str(self._config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait for the line ``node ready``: every part of the node is up.

        Raises
        ------
        DemoError: it ended, or it took too long; the message holds the end of its log.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while "node ready" not in self._text():
            if not self.is_running():
                raise DemoError(f"the node did not start{self.log_tail()}")
            if time.monotonic() > deadline:
                raise DemoError(f"the node was not ready within {START_TIMEOUT:.0f} s{self.log_tail()}")
            time.sleep(0.1)

    def log_tail(self) -> str:
        """The last lines of the log, for the end of a message."""
        lines = self._text().strip().splitlines()[-_LOG_LINES:]
        return "".join(f"\n  {line}" for line in [f"log: {self._log}", *lines])

    def _text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")
