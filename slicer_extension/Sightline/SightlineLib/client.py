"""The contract with the server, call by call, on Qt's network: nothing here waits.

Every call returns at once and gives its result to a function later, in the event loop. Not a
cache and no state of the user interface: see `session`.
"""

from __future__ import annotations

import json
import logging
import secrets
import urllib.parse
from collections.abc import Callable
from typing import Any

import qt
from SightlineLib import failures
from SightlineLib.address import ServerAddress

# Seconds without a byte after which a call is given up.
PATIENCE_S = 30
UPLOAD_PATIENCE_S = 300
NRRD = "application/x-nrrd"


class Call:
    """One request under way."""

    def __init__(self, reply) -> None:
        self._reply = reply
        self.cancelled = False

    @property
    def running(self) -> bool:
        """Whether its result is still to come."""
        return self._reply is not None

    def cancel(self) -> None:
        """Give it up; neither of its functions is called afterwards."""
        self.cancelled = True
        if self._reply is not None:
            self._reply.abort()

    def finished(self) -> None:
        """To be called by the client when the reply is used up."""
        self._reply = None


def makeNetwork(parent, loopback: bool):
    """What sends the calls, owned by the Qt object `parent`.

    Owned by Python it could go away with the last call, while Qt is still taking that call down.
    """
    network = qt.QNetworkAccessManager(parent)
    if loopback:
        # A hospital's proxy cannot reach this computer's loopback.
        network.setProxy(qt.QNetworkProxy(qt.QNetworkProxy.NoProxy))
    return network


class Client:
    """Calls one server.

    Parameters
    ----------
    address: where it is.
    network: from `makeNetwork`, for the same kind of address.
    token: the line of its token file; empty if it asks for none.
    patienceS: seconds without a byte after which a call is given up.
    """

    def __init__(self, address: ServerAddress, network, token: str = "", patienceS: int = PATIENCE_S) -> None:
        self.address = address
        self._network = network
        self._token = token.strip()
        self._patienceS = patienceS

    def health(self, onDone: Callable, onFailed: Callable) -> Call:
        """Who answers, after the version handshake; needs no token."""

        def greeted(answer: Any) -> None:
            if not isinstance(answer, dict) or answer.get("service") != "sightline":
                onFailed(failures.stranger(self.address.url))
            elif answer.get("api") != failures.API_VERSION:
                onFailed(failures.version(str(answer.get("version", "?")), answer.get("api", "?")))
            else:
                onDone(answer)

        def failed(failure: failures.Failure) -> None:
            # Whatever a Sightline server does, its health answers: this is somebody else.
            other = failure.kind in ("unknown", "refused", "notReady", "token", "broken")
            onFailed(failures.stranger(self.address.url) if other else failure)

        return self._call("GET", "/health", greeted, failed)

    def worklist(self, onDone: Callable, onFailed: Callable) -> Call:
        """How many studies there are, and the newest; shows that the token is accepted."""
        return self._call("GET", "/studies?limit=1&offset=0", onDone, onFailed)

    def series(self, seriesUid: str, onDone: Callable, onFailed: Callable) -> Call:
        """The study that holds a series; a failure of kind ``"unknown"`` if none does."""
        return self._call("GET", f"/series/{_quoted(seriesUid)}", onDone, onFailed)

    def reading(self, studyUid: str, onDone: Callable, onFailed: Callable) -> Call:
        """Organs, findings and lesions of a study."""
        return self._call("GET", f"/studies/{_quoted(studyUid)}/reading", onDone, onFailed)

    def query(self, studyUid: str, text: str, count: int, onDone: Callable, onFailed: Callable) -> Call:
        """Ranked places for a text."""
        body = {"text": text, "k": count}
        return self._call("POST", f"/studies/{_quoted(studyUid)}/query", onDone, onFailed, _json(body))

    def heatMap(self, studyUid: str, text: str, onDone: Callable, onFailed: Callable) -> Call:
        """How well each cell agrees with a text, as the bytes of an NRRD file."""
        body = _json({"text": text})
        return self._call(
            "POST", f"/studies/{_quoted(studyUid)}/heatmap", onDone, onFailed, body, asJson=False
        )

    def segmentation(self, studyUid: str, kind: str, onDone: Callable, onFailed: Callable) -> Call:
        """The masks of ``"organs"`` or ``"lesions"``, as the bytes of a .seg.nrrd file."""
        path = f"/studies/{_quoted(studyUid)}/segmentation/{_quoted(kind)}"
        return self._call("GET", path, onDone, onFailed, asJson=False)

    def startMask(self, studyUid: str, text: str, onDone: Callable, onFailed: Callable) -> Call:
        """Start the job that outlines a text in the images."""
        return self._call(
            "POST", f"/studies/{_quoted(studyUid)}/mask", onDone, onFailed, _json({"text": text})
        )

    def startUpload(
        self, seriesUid: str, nrrd: Any, onDone: Callable, onFailed: Callable, onSent: Callable
    ) -> Call:
        """Send a CT, an open Qt file; `onSent` gets the part that is through, 0..1."""
        path = f"/uploads?series_instance_uid={_quoted(seriesUid)}"
        return self._call(
            "POST", path, onDone, onFailed, (nrrd, NRRD), patienceS=UPLOAD_PATIENCE_S, onSent=onSent
        )

    def job(self, identifier: str, onDone: Callable, onFailed: Callable) -> Call:
        """How far a job is."""
        return self._call("GET", f"/jobs/{_quoted(identifier)}", onDone, onFailed)

    def jobResult(self, identifier: str, onDone: Callable, onFailed: Callable) -> Call:
        """What a job made, bytes."""
        return self._call("GET", f"/jobs/{_quoted(identifier)}/result", onDone, onFailed, asJson=False)

    def cancelJob(self, identifier: str) -> Call:
        """Tell the server that nobody waits any more."""
        return self._call(
            "DELETE", f"/jobs/{_quoted(identifier)}", lambda _answer: None, lambda _failure: None
        )

    def correct(
        self,
        studyUid: str,
        correction: dict[str, Any],
        segNrrd: bytes | None,
        onDone: Callable,
        onFailed: Callable,
    ) -> Call:
        """Send a radiologist's marks and, where it was edited, the segmentation."""
        parts = [("correction", None, "application/json", _encoded(correction))]
        if segNrrd is not None:
            parts.append(("segmentation", "correction.seg.nrrd", NRRD, segNrrd))
        path = f"/studies/{_quoted(studyUid)}/corrections"
        return self._call("POST", path, onDone, onFailed, _multipart(parts), patienceS=UPLOAD_PATIENCE_S)

    def _call(
        self,
        verb: str,
        path: str,
        onDone: Callable,
        onFailed: Callable,
        body: tuple[Any, str] | None = None,
        asJson: bool = True,
        patienceS: int = 0,
        onSent: Callable | None = None,
    ) -> Call:
        patience = max(patienceS, self._patienceS)
        request = qt.QNetworkRequest(qt.QUrl(f"{self.address.url}/api/{failures.API_VERSION}{path}"))
        request.setTransferTimeout(patience * 1000)
        # A redirect could carry the token to somebody else.
        request.setAttribute(
            qt.QNetworkRequest.RedirectPolicyAttribute, qt.QNetworkRequest.ManualRedirectPolicy
        )
        if self._token and path != "/health":
            request.setRawHeader(b"Authorization", f"Bearer {self._token}".encode())
        if verb == "POST":
            data, contentType = body
            request.setHeader(qt.QNetworkRequest.ContentTypeHeader, contentType)
            reply = self._network.post(request, data)
        elif verb == "DELETE":
            reply = self._network.deleteResource(request)
        else:
            reply = self._network.get(request)
        if verb == "POST" and not isinstance(body[0], bytes):
            # The file has to live as long as Qt reads from it, and no longer.
            body[0].setParent(reply)
        call = Call(reply)
        if onSent is not None:
            reply.uploadProgress.connect(lambda sent, total: onSent(sent / total) if total > 0 else None)
        reply.finished.connect(lambda: self._onFinished(call, reply, onDone, onFailed, asJson, patience))
        return call

    def _onFinished(self, call, reply, onDone, onFailed, asJson, patience) -> None:
        reply.deleteLater()
        call.finished()
        if call.cancelled:
            return
        status = reply.attribute(qt.QNetworkRequest.HttpStatusCodeAttribute)
        error = reply.error()
        content = reply.readAll().data()
        failure = self._failure(status, error, content, patience)
        if failure is None and asJson:
            try:
                content = json.loads(content)
            except ValueError:
                failure = failures.broken(None)
        if failure is None:
            onDone(content)
            return
        # Qt's own text names the URL, and with it the study: it stays out of the log.
        logging.info("Sightline: a call failed: %s, HTTP %s, Qt %s", failure.kind, status, error)
        onFailed(failure)

    def _failure(self, status, error, content, patience) -> failures.Failure | None:
        reply, url = qt.QNetworkReply, self.address.url
        if status is not None and int(status) >= 300:
            return failures.fromStatus(int(status), content)
        if error == reply.NoError and status is not None:
            return None
        if error in (reply.OperationCanceledError, reply.TimeoutError):
            return failures.timeout(url, patience)
        if error == reply.SslHandshakeFailedError:
            return failures.certificate(url)
        if status is None and error != reply.RemoteHostClosedError:
            return failures.down(url)
        return failures.interrupted(url)


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _json(value: Any) -> tuple[bytes, str]:
    return _encoded(value), "application/json"


def _multipart(parts: list[tuple[str, str | None, str, bytes]]) -> tuple[bytes, str]:
    """Name, file name, content type and content of each part as a body and its content type."""
    boundary = secrets.token_hex(16)
    body = []
    for name, fileName, contentType, content in parts:
        file = "" if fileName is None else f'; filename="{fileName}"'
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"{file}\r\n'
            f"Content-Type: {contentType}\r\n\r\n"
        )
        body += [head.encode(), content, b"\r\n"]
    body.append(f"--{boundary}--\r\n".encode())
    return b"".join(body), f"multipart/form-data; boundary={boundary}"
