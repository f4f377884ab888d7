"""What `sightline check` looks at before a node is started: one result per thing.

Not a monitor of a running node: a port that is taken by the node itself counts as not free.
"""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core_model.checkpoint import load_checkpoint
from dicom_node.config import OWN, Config, Destination
from dicom_node.delivery_dimse import echo
from dicom_node.delivery_web import answers
from dicom_node.errors import SightlineError
from dicom_node.model_store import folder_of, read_pointer
from dicom_node.organ_drawing import organ_segmenter
from dicom_node.service.access import read_token
from dicom_node.tls import server_context


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Attributes
    ----------
    name: what was looked at.
    ok: whether a node can run with it.
    message: one line for a person: the value, or what is wrong and the cure.
    """

    name: str
    ok: bool
    message: str


def run_checks(config: Config) -> list[CheckResult]:
    """Check everything that a node needs, all of it, whatever fails on the way."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("configuration", lambda: _configuration(config)),
        ("archive", lambda: _archive(config)),
        ("disk", lambda: _disk(config)),
        ("checkpoint", lambda: _checkpoint(config)),
        *([] if config.organs == OWN else [("organs", lambda: _organs(config))]),
        ("port", lambda: _port("port", config.address, config.port)),
        ("service", lambda: _service(config)),
        ("monitor", lambda: _monitor(config)),
        *_peers(config),
    ]
    return [_result(name, check) for name, check in checks]


class _FailedCheckError(Exception):
    """A check failed; the message is for a person."""


def _result(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except (_FailedCheckError, SightlineError, OSError, ValueError) as error:
        return CheckResult(name, False, str(error).splitlines()[0])


def _configuration(config: Config) -> str:
    """A `Config` is valid by construction, but for the files it names; say what it comes to."""
    try:
        tls = server_context(config.receiver)
    except SightlineError as error:
        raise _FailedCheckError(error.message) from error
    networks = ", ".join(config.receiver.networks)
    callers = [f"{title} from {networks}" for title in config.calling_ae_titles]
    callers += [f"{peer.ae_title} from {', '.join(peer.networks)}" for peer in config.receiver.peers]
    said = "; ".join(callers) or f"any from {networks}"
    return f"{config.ae_title} on {config.address}{' with TLS' if tls else ''}, callers: {said}"


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def _archive(config: Config) -> str:
    """Writing is tried where it will happen, without making the archive."""
    folder = _existing(config.archive.absolute())
    if not folder.is_dir():
        raise _FailedCheckError(f"archive = {str(config.archive)!r}: {folder} is not a folder")
    probe = folder / ".sightline-check"
    try:
        probe.touch(exist_ok=True)
        probe.unlink()
    except OSError as error:
        raise _FailedCheckError(f"archive = {str(config.archive)!r}: {error.strerror}") from error
    return f"{config.archive} can be written"


def _disk(config: Config) -> str:
    free = shutil.disk_usage(_existing(config.archive.absolute())).free / 2**30
    text = f"{free:.1f} GiB free, reserve {config.reserve_gib:g} GiB"
    if free <= config.reserve_gib:
        raise _FailedCheckError(f"{text}; nothing would be accepted: make room or lower reserve_gib")
    return text


def _checkpoint(config: Config) -> str:
    """The one that the node would use: promoted, or as configured."""
    digest = read_pointer(config).digest
    identity = load_checkpoint(folder_of(config, digest)).identity
    how = ", promoted" if digest else ""
    return f"{identity.name} {identity.version}, digest {identity.digest[:12]} verified{how}"


def _organs(config: Config) -> str:
    try:
        segmenter = organ_segmenter(config)
    except SightlineError as error:
        raise _FailedCheckError(error.message) from error
    assert segmenter is not None  # asked only where it is not the model
    model = segmenter.drawing.model
    return f"drawn by {model.name} {model.version}, digest {model.digest[:12]}"


def _port(key: str, address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise _FailedCheckError(
                f"{key} {port} on {address}: {error.strerror}; stop the program that "
                "uses it (a node that runs already?) or choose another port"
            ) from error
    return f"{port} on {address} is free"


def _service(config: Config) -> str:
    """Port, certificates, and the token where a file is named; without one the node draws it."""
    settings = config.service
    free = _port("service.port", settings.address, settings.port)
    try:
        if settings.token_file is not None:
            read_token(settings.token_file)
        if settings.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.certificate, settings.key)
            if settings.client_authority is not None:
                context.load_verify_locations(settings.client_authority)
    except SightlineError as error:
        raise _FailedCheckError(error.message) from error
    except OSError as error:
        raise _FailedCheckError(
            f"service.certificate, service.key or service.client_authority: {error.strerror or error}; "
            "name PEM files that belong together"
        ) from error
    guard = "token" if settings.asks_token else "client certificate"
    return f"{free}, asks for a {guard}"


def _monitor(config: Config) -> str:
    settings = config.monitor
    free = _port("monitor.port", settings.address, settings.port)
    try:
        if settings.token_file is not None:
            read_token(settings.token_file, "monitor.token_file")
    except SightlineError as error:
        raise _FailedCheckError(error.message) from error
    return f"{free}, metrics {'for a token' if settings.token_file else 'for anyone who reaches it'}"


def _peers(config: Config) -> Iterator[tuple[str, Callable[[], str]]]:
    if not config.destinations:
        yield "destinations", lambda: "none is configured: results stay in the archive"
    for destination in config.destinations:
        yield f"destination {destination.name}", partial(_peer, config, destination)


def _peer(config: Config, destination: Destination) -> str:
    reason = (answers if destination.url else echo)(destination, config)
    if reason is not None:
        raise _FailedCheckError(f"{destination.place}: {reason}")
    return f"{destination.place} answers {'STOW-RS' if destination.url else 'C-ECHO'}"
