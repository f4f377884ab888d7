"""Who may ask, and how much may be sent: the token, and the envelope round every answer.

Not the listening itself and no TLS (`dicom_node.http_server`). A bearer token is no identity of
a person: whoever has it may ask everything.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Set
from pathlib import Path

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.service.errors import ApiError, error_response
from dicom_node.words import in_words

logger = logging.getLogger(__name__)

API = b"1"
HEALTH = "/api/1/health"
MIN_TOKEN = 16  # characters; fewer can be guessed
TOKEN_FILE = "service.token"
BODY_BYTES = 64 << 10  # of a request whose path says nothing else

BodyLimit = Callable[[str], int]


def access_token(config: Config) -> str | None:
    """The token that requests must bring, or None where client certificates alone are asked for.

    Where no file is configured one is drawn at random and kept in the archive, for its owner
    only, so that other users of the machine and pages in its browser cannot ask.

    Raises
    ------
    SightlineError: the file is missing, or holds no usable token.
    """
    if not config.service.asks_token:
        return None
    path = token_path(config)
    if config.service.token_file is not None:
        return read_token(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_token(path)
    except OSError as error:
        raise SightlineError(f"{path}: the token cannot be written ({error.strerror})") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    return read_token(path)


def token_path(config: Config) -> Path:
    """The file that holds the token, where one is asked for."""
    return config.service.token_file or config.archive.absolute() / TOKEN_FILE


def read_token(path: Path, setting: str = "service.token_file") -> str:
    """The token in a file: one line of ASCII.

    Parameters
    ----------
    setting: that names the file, for messages.

    Raises
    ------
    SightlineError: as `access_token`.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise SightlineError(
            f"{setting} = {str(path)!r}: cannot be read ({reason}); put one line of "
            f"{MIN_TOKEN} or more letters and digits into it"
        ) from None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SightlineError(
            f"{setting} = {str(path)!r}: the token must be one line of {MIN_TOKEN} or more "
            "ASCII characters without spaces"
        )
    return token


class Envelope:
    """ASGI middleware round every answer: token, size of bodies, version header, log line.

    Parameters
    ----------
    app: what answers.
    token: that requests must bring; None asks for none.
    body_limit: path -> most bytes of a request's body.
    without_token: the paths that never need one.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, body_limit: BodyLimit, without_token: Set[str]
    ) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._body_limit = body_limit
        self._without_token = without_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        started = time.perf_counter()
        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, self._limited(scope, receive), answer)
            else:
                await error_response(refusal)(scope, receive, answer)
        except ClientDisconnect:
            logger.info("request cut off by its sender route=%s", _route(scope))
            return
        except Exception as error:  # a defect of ours; its text may quote what was sent
            logger.error("defect route=%s error=%s", _route(scope), in_words(error))
            if answer.status is None:
                defect = ApiError(500, "the service has a defect here", "send its log to its makers")
                await error_response(defect)(scope, receive, answer)
        logger.info(
            "request method=%s route=%s status=%s ms=%.0f",
            scope["method"],
            _route(scope),
            answer.status,
            1000 * (time.perf_counter() - started),
        )

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why the request is not looked at any further, or None."""
        headers = dict(scope["headers"])
        if self._expected is not None and scope["path"] not in self._without_token:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                what = "is wrong" if given else "is missing"
                return ApiError(
                    401,
                    f"the access token {what}",
                    "send the header 'Authorization: Bearer TOKEN' with the token of this node's token file",
                    {"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        # The server has checked that it is a number; without one the bytes are counted as they come.
        if length.isdigit() and int(length) > self._body_limit(scope["path"]):
            return _too_large(self._body_limit(scope["path"]))
        return None

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        limit = self._body_limit(scope["path"])
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise _too_large(limit)
            return message

        return counted


class _Answer:
    """`send` that adds the version header and remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), (b"x-sightline-api", API)]}
        await self._send(message)


def _too_large(limit: int) -> ApiError:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return ApiError(413, f"the request is larger than {size}", "send less")


def _route(scope: Scope) -> str:
    """The pattern of the path: the path itself may hold what belongs into no log."""
    return str(getattr(scope.get("route"), "path", "none"))
