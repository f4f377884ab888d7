"""What several tables of the configuration share: checks of single settings, and where paths start.

Each check raises `SightlineError` with the key, the value and the cure.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
from pathlib import Path
from typing import Any, TypeVar

from dicom_node.errors import SightlineError

S = TypeVar("S")


def with_paths_relative_to(settings: S, folder: Path) -> S:
    """A settings dataclass with its paths relative to the configuration file's folder; ``~`` is home."""
    table: Any = settings
    given = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    paths = {name: folder / value.expanduser() for name, value in given.items() if isinstance(value, Path)}
    changed: S = dataclasses.replace(table, **paths)
    return changed


def check_ae_title(key: str, title: str) -> None:
    """PS3.5 6.2, VR AE: 1 to 16 printable ASCII characters, no backslash, not only spaces."""
    if not title.strip() or len(title) > 16 or not title.isascii() or not title.isprintable():
        raise SightlineError(f"{key} = {title!r}: an AE title has 1 to 16 printable ASCII characters")
    if "\\" in title:
        raise SightlineError(f"{key} = {title!r}: an AE title has no backslash")


def check_port(key: str, port: int) -> None:
    """A TCP port."""
    if not 1 <= port <= 65535:
        raise SightlineError(f"{key} = {port}: a TCP port is 1 to 65535")


def check_positive(key: str, value: float) -> None:
    """A finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise SightlineError(f"{key} = {value}: must be more than 0")


def is_loopback(key: str, address: str) -> bool:
    """Whether an IP address is loopback; raises where it is no IP address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise SightlineError(f"{key} = {address!r}: must be an IP address such as 127.0.0.1") from None
