"""What can go wrong between the extension and the server, each in one sentence and a cure for it.

Sentences for a person, without addresses of studies, texts that were asked or stack traces.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from slicer.i18n import tr as _

API_VERSION = 1
LONGEST_SENTENCE = 300


@dataclass(frozen=True)
class Failure:
    """One failure.

    Attributes
    ----------
    kind: ``"address"``, ``"down"``, ``"timeout"``, ``"certificate"``, ``"interrupted"``, ``"version"``,
        ``"stranger"`` (something answers that is not Sightline), ``"token"``, ``"unknown"``, ``"notReady"``,
        ``"refused"``, ``"broken"`` (the server failed or its answer cannot be read), ``"job"`` or ``"here"``
        (something in Slicer is not as it must be).
    sentence: what happened and what to do, for the user.
    """

    kind: str
    sentence: str


class AnswerError(Exception):
    """What the server sent cannot be shown; `failure` says so to the user."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.failure = Failure("broken", sentence)


def down(url: str) -> Failure:
    """Nobody listens there."""
    return Failure(
        "down",
        _(
            "No Sightline server answers at {url}. Start it with 'sightline serve', or correct the address."
        ).format(url=url),
    )


def timeout(url: str, seconds: int) -> Failure:
    """No byte came for `seconds`."""
    return Failure(
        "timeout",
        _(
            "The server at {url} did not answer within {seconds} s. It may be busy: ask again in a while."
        ).format(url=url, seconds=seconds),
    )


def certificate(url: str) -> Failure:
    """The connection could not be encrypted with a certificate that this computer trusts."""
    return Failure(
        "certificate",
        _(
            "This computer does not trust the certificate of {url}. "
            "Ask your administrator to install the authority that signed it."
        ).format(url=url),
    )


def interrupted(url: str) -> Failure:
    """The connection broke before the answer was complete."""
    return Failure(
        "interrupted",
        _("The connection to {url} broke before the answer was complete. Try again.").format(url=url),
    )


def stranger(url: str) -> Failure:
    """Something answers that does not speak the contract."""
    return Failure(
        "stranger",
        _("What answers at {url} is not a Sightline server. Correct the address or its port.").format(
            url=url
        ),
    )


def version(serverVersion: str, serverApi: object) -> Failure:
    """The server speaks another version of the interface."""
    return Failure(
        "version",
        _(
            "The server (Sightline {version}) speaks version {theirs} of the interface and this extension "
            "version {ours}. Update the older of the two."
        ).format(version=_plain(serverVersion), theirs=_plain(str(serverApi)), ours=API_VERSION),
    )


def broken(status: int | None) -> Failure:
    """The server failed, or sent what cannot be read."""
    if status is None or status < 500:
        return Failure(
            "broken",
            _(
                "The answer of the server could not be understood. "
                "Update the server or the extension; the server's log says what it sent."
            ),
        )
    return Failure(
        "broken",
        _("The server failed (HTTP {status}). Its log says why; try again or tell whoever runs it.").format(
            status=status
        ),
    )


def job(error: str | None) -> Failure:
    """A job of the server failed."""
    if error:
        return Failure("job", _plain(error))
    return Failure("job", _("The server could not finish this and gave no reason. Its log says why."))


def fromStatus(status: int, body: bytes) -> Failure:
    """What an answer with a status of 300 and more means."""
    if status == 401:
        return Failure(
            "token",
            _(
                "The server does not accept the token. Copy the line of its token file "
                "('service.token' in its archive) into 'Token'."
            ),
        )
    said = _said(body)
    if status == 404:
        return Failure("unknown", said or _("The server does not know this study. Send it the CT again."))
    if status == 409:
        return Failure("notReady", said or _("The server has not finished this yet. Try again in a while."))
    if 400 <= status < 500:
        return Failure(
            "refused",
            said or _("The server refused the request (HTTP {status}).").format(status=status),
        )
    return broken(status)


def _said(body: bytes) -> str:
    """The server's own sentence and cure, empty if it sent none."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    parts = [answer.get("error"), answer.get("cure")]
    return " ".join(_plain(part) for part in parts if isinstance(part, str) and part.strip())


def _plain(text: str) -> str:
    """One line of printable text of bounded length: what a server sends is data."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_SENTENCE else f"{line[:LONGEST_SENTENCE]}…"
