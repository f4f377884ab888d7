"""Checks of single settings that several tables of the configuration share.

Each raises `SightlineError` with the key, the value and the cure.
"""

from __future__ import annotations

import ipaddress
import math

from dicom_node.errors import SightlineError


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
