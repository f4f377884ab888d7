"""What the node's tests need of the network: free ports, a sender, and processes of the node."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from dicom_node.config import Config
from dicom_node.receiver_settings import ReceiverSettings

# Tests also run where the disk is fuller than an archive's should be: only `reserve_gib` counts for them.
ANY_DISK = ReceiverSettings(refuse_above_percent=100.0, accept_below_percent=100.0)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll until `condition` is true, or fail with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for: {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def association(
    config: Config,
    contexts: Sequence[tuple[str, str]],
    *,
    ae_title: str = "TESTER",
) -> Iterator[Association]:
    """An association with the node as SCU; `contexts` are (SOP class, transfer syntax) pairs."""
    ae = AE(ae_title)
    for sop_class, syntax in sorted(set(contexts)):
        ae.add_requested_context(sop_class, syntax)
    opened = ae.associate(config.address, config.port, ae_title=config.ae_title)
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def send(config: Config, datasets: Sequence[Dataset]) -> list[int]:
    """Store data sets over one association; the status of each."""
    contexts = [(str(d.SOPClassUID), _syntax(d)) for d in datasets]
    with association(config, contexts) as opened:
        assert opened.is_established
        return [int(opened.send_c_store(dataset).Status) for dataset in datasets]


def _syntax(dataset: Dataset) -> str:
    meta = getattr(dataset, "file_meta", None)
    return str(getattr(meta, "TransferSyntaxUID", ExplicitVRLittleEndian))


@dataclass
class Pacs:
    """A storage SCP that notes what it is sent and answers as told.

    Attributes
    ----------
    port: where it listens, if it does.
    answers: statuses for the next C-STORE requests; 0x0000 when used up.
    received: every request in order: SOP Class UID, SOP Instance UID.
    """

    port: int
    answers: list[int] = field(default_factory=list)
    received: list[tuple[str, str]] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Pacs]:
        """Answer associations while this is entered."""
        ae = AE("PACS")
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax))
        ae.add_supported_context("1.2.840.10008.1.1")
        server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._on_store)]
        )
        assert server is not None  # it does not block
        try:
            yield self
        finally:
            server.shutdown()
            ae.shutdown()

    def _on_store(self, event: evt.Event) -> int:
        request = cast(C_STORE, event.request)
        self.received.append((str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)))
        return self.answers.pop(0) if self.answers else 0


def write_config(config: Config, path: Path) -> Path:
    """`config` as TOML, as far as tests vary it."""
    lines = [
        f'ae_title = "{config.ae_title}"',
        f"port = {config.port}",
        f'archive = "{config.archive}"',
        f"quiet_seconds = {config.quiet_seconds}",
        f'log_level = "{config.log_level}"',
        f'log_format = "{config.log_format}"',
        f"reserve_gib = {config.reserve_gib}",
        f"maximum_associations = {config.maximum_associations}",
        *([] if config.checkpoint is None else [f'checkpoint = "{config.checkpoint}"']),
        "[receiver]",
        f"processes = {config.receiver.processes}",
        f"maximum_per_address = {config.receiver.maximum_per_address}",
        f"request_seconds = {config.receiver.request_seconds}",
        f"refuse_above_percent = {config.receiver.refuse_above_percent}",
        f"accept_below_percent = {config.receiver.accept_below_percent}",
        "[service]",
        f"port = {config.service.port}",
        "[monitor]",
        f"port = {config.monitor.port}",
        "[delivery]",
        f"retry_seconds = {config.delivery.retry_seconds}",
    ]
    for peer in config.destinations:
        lines += [
            "[[destination]]",
            f'name = "{peer.name}"',
            f'address = "{peer.address}"',
            f"port = {peer.port}",
            f'ae_title = "{peer.ae_title}"',
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@contextlib.contextmanager
def role_process(role: str, config: Config, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """One of the node's processes, alone; ready when this is entered. Killed at the end."""
    path = write_config(config, folder / "sightline.toml")
    log = folder / f"{role}.log"
    with open(log, "a", encoding="utf-8") as stream:
        before = stream.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node.processes", role, "--config", str(path)],
            stderr=stream,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
    try:
        wait_until(
            lambda: f"{role} ready" in log.read_text("utf-8")[before:] or process.poll() is not None,
            240,
            f"{role} ready",
        )
        assert process.poll() is None, log.read_text("utf-8")
        yield process
    finally:
        process.kill()
        process.wait()


SERVE = """
import pathlib, sys
from dicom_node import config, serve
if __name__ == "__main__":
    serve.run(config.load_config(pathlib.Path(sys.argv[1])), roles=sys.argv[2:])
"""


@contextlib.contextmanager
def running_node(
    config: Config,
    folder: Path,
    roles: Sequence[str] = ("receiver", "reader"),
    *,
    exit_status: int = 0,
) -> Iterator[subprocess.Popen[bytes]]:
    """The node under its supervisor, ready; ended by SIGTERM. Its log is ``node.log`` in `folder`."""
    path = write_config(config, folder / "sightline.toml")
    log = folder / "node.log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(path), *roles],
            stderr=stream,
            cwd=Path(__file__).resolve().parents[2],
        )
    try:
        wait_until(lambda: b"node ready" in log.read_bytes() or process.poll() is not None, 240, "node ready")
        assert process.poll() is None, log.read_text("utf-8")
        yield process
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == exit_status, log.read_text("utf-8")
