"""The address of the Sightline server as a user types it, made one that can be called.

Pure Python; no network, no Slicer but for its translations.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from dataclasses import dataclass

from slicer.i18n import tr as _

DEFAULT_ADDRESS = "http://127.0.0.1:11113"


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is called.

    Attributes
    ----------
    url: scheme, host and port, without a slash at the end.
    loopback: whether it is this computer; a proxy must then be left out.
    encrypted: whether others on the network cannot read along.
    """

    url: str
    loopback: bool
    encrypted: bool


def parseAddress(text: str) -> ServerAddress:
    """The address in `text`; ``http://`` is added and slashes at the end are taken away.

    Raises
    ------
    ValueError: if there is no address in it that can be called; the message is one for the user.
    """
    typed = text.strip()
    if not typed:
        raise ValueError(
            _("The server address is empty. For a server on this computer it is {default}.").format(
                default=DEFAULT_ADDRESS
            )
        )
    parts, port = _split(typed if "://" in typed else f"http://{typed}", typed)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        raise ValueError(_unusable(typed))
    if _isUnspecified(host):
        raise ValueError(
            _(
                "{address} is what a server listens on and cannot be called. "
                "For a server on this computer type {cure}."
            ).format(address=typed, cure=f"127.0.0.1:{port or 80}")
        )
    name = f"[{host}]" if ":" in host else host
    suffix = "" if port is None else f":{port}"
    path = parts.path.rstrip("/").removesuffix("/api/1").rstrip("/")
    return ServerAddress(
        url=f"{parts.scheme}://{name}{suffix}{path}",
        loopback=_isLoopback(host),
        encrypted=parts.scheme == "https",
    )


def _split(text: str, typed: str) -> tuple[urllib.parse.SplitResult, int | None]:
    if any(character.isspace() for character in text):
        raise ValueError(_unusable(typed))
    try:
        parts = urllib.parse.urlsplit(text)
        return parts, parts.port
    except ValueError as error:
        raise ValueError(_unusable(typed)) from error


def _unusable(typed: str) -> str:
    return _("{address} is not an address of a server. It looks like {example}.").format(
        address=typed, example=DEFAULT_ADDRESS
    )


def _isUnspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _isLoopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
