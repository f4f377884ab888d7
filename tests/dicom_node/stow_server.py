"""A DICOMweb server on loopback that takes STOW-RS over real HTTP or HTTPS, and answers as told.

Multipart as in PS3.18 8.6.1.2, Store Instances Response as in PS3.18 I.2; nothing else.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import io
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

SILENT, HANG_UP, LOGIN_PAGE, REDIRECT = "silent", "hang up", "login page", "redirect"


@dataclass
class StowServer:
    """See above.

    Attributes
    ----------
    port: where it listens.
    answers: for the next requests: an HTTP status without a body, ``("failed", reason)`` or
        ``("warned", reason)`` for the instance, or one of the words above; stored when used up.
    token: what requests must bring as bearer token, if anything.
    syntaxes: transfer syntaxes that it takes; None means all. Others fail with 0xC122.
    media_type: of the answers.
    received: the instances that it was sent, as they were.
    stored: SOP Instance UIDs that it acknowledged.
    """

    port: int
    answers: list[Any] = field(default_factory=list)
    token: str = ""
    syntaxes: tuple[str, ...] | None = None
    media_type: str = "application/dicom+json"
    received: list[Dataset] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self, tls: ssl.SSLContext | None = None) -> Iterator[StowServer]:
        """Answer while this is entered."""
        server = _Server(("127.0.0.1", self.port), _Handler)
        server.stow, server.ended = self, threading.Event()
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.ended.set()
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    stow: StowServer
    ended: threading.Event

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off, or whose certificate is not accepted, is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._say(200, b"<html>log in</html>", "text/html")

    def do_POST(self) -> None:
        stow = self.server.stow
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if stow.token and self.headers["Authorization"] != f"Bearer {stow.token}":
            return self._say(401)
        if self.path != "/dicom-web/studies":
            return self._say(404)
        instances = _instances(self.headers["Content-Type"], body)
        if not instances:
            return self._say(400)
        stow.received += instances
        answer = stow.answers.pop(0) if stow.answers else None
        if answer == SILENT:
            self.server.ended.wait(30)
        elif answer == HANG_UP:
            self.close_connection = True
        elif answer == LOGIN_PAGE:
            self._say(200, b"<html>log in</html>", "text/html")
        elif answer == REDIRECT:
            self._say(302, location="/login")
        elif isinstance(answer, int):
            self._say(answer)
        else:
            self._store(instances, answer)
        return None

    def _store(self, instances: list[Dataset], answer: tuple[str, int] | None) -> None:
        stow = self.server.stow
        response = Dataset()
        response.ReferencedSOPSequence, response.FailedSOPSequence = Sequence(), Sequence()
        for instance in instances:
            item = Dataset()
            item.ReferencedSOPClassUID = instance.SOPClassUID
            item.ReferencedSOPInstanceUID = instance.SOPInstanceUID
            syntax = str(instance.file_meta.TransferSyntaxUID)
            if stow.syntaxes is not None and syntax not in stow.syntaxes:
                item.FailureReason = 0xC122
            elif answer is not None and answer[0] == "failed":
                item.FailureReason = answer[1]
            else:
                if answer is not None:
                    item.WarningReason = answer[1]
                stow.stored.append(str(instance.SOPInstanceUID))
            failed = "FailureReason" in item
            (response.FailedSOPSequence if failed else response.ReferencedSOPSequence).append(item)
        status = 409 if response.FailedSOPSequence else 202 if answer else 200
        self._say(status, json.dumps(response.to_json_dict()).encode(), stow.media_type)

    def _say(self, status: int, body: bytes = b"", kind: str = "", location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if kind:
            self.send_header("Content-Type", kind)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)


def _instances(content_type: str, body: bytes) -> list[Dataset]:
    """The parts of a multipart/related message."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    assert message.get_content_type() == "multipart/related"
    assert message.get_param("type") == "application/dicom"
    parts = message.get_payload() if message.is_multipart() else []
    contents = [part.get_payload(decode=True) for part in parts]
    return [pydicom.dcmread(io.BytesIO(content)) for content in contents if content]
