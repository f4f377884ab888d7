"""Who may associate: addresses and AE titles, and how a refusal is said.

Decisions only, no sockets. They are made on the fixed part of an A-ASSOCIATE-RQ (PS3.8 table 9-11), so
that a stranger's request is never parsed any further.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import Enum

from dicom_node.config import Config

A_ASSOCIATE_RQ = 0x01
# Bytes of an A-ASSOCIATE-RQ, without its head of six: 128 presentation contexts of 40 transfer syntaxes.
MAXIMUM_REQUEST_BYTES = 1 << 18
_FIXED_BYTES = 6 + 68  # head, version, AE titles, reserved
# Items and sub-items; parsing costs some tens of microseconds for each.
_MAXIMUM_ITEMS = 8192


class Rejection(Enum):
    """Why an association is refused: result, source and reason of PS3.8 table 9-21."""

    CALLING_AE_TITLE = (1, 1, 3)
    CALLED_AE_TITLE = (1, 1, 7)
    UNREADABLE = (1, 2, 1)  # no reason given, by the upper layer
    TOO_MANY = (2, 3, 2)  # local limit exceeded: try again later
    DISK = (2, 3, 1)  # temporary congestion

    @property
    def pdu(self) -> bytes:
        """The A-ASSOCIATE-RJ PDU (PS3.8 section 9.3.4)."""
        return struct.pack(">BxLxBBB", 0x03, 4, *self.value)


@dataclass(frozen=True)
class Caller:
    """Who asks for an association, as far as it says so.

    Attributes
    ----------
    calling_ae_title, called_ae_title: without the spaces around them.
    address: IP address.
    """

    calling_ae_title: str
    called_ae_title: str
    address: str


def caller(request: bytes, address: str) -> Caller | None:
    """Who sent an A-ASSOCIATE-RQ PDU; None where it is none or has more items than can be meant."""
    if len(request) < _FIXED_BYTES or not _has_few_items(request):
        return None
    called, calling = (request[at : at + 16].decode("ascii", "replace").strip("\0 ") for at in (10, 26))
    return Caller(calling, called, address)


def _has_few_items(request: bytes) -> bool:
    """Whether the items end where the PDU does, and are few enough to be parsed."""
    count, at = 0, _FIXED_BYTES
    while at < len(request):
        if at + 4 > len(request):
            return False
        kind, length = struct.unpack_from(">BxH", request, at)
        inner = at + 4 + {0x20: 4, 0x50: 0}.get(kind, length)  # sub-items of contexts, user information
        at += 4 + length
        if at > len(request):
            return False
        while inner + 4 <= at:
            inner += 4 + struct.unpack_from(">H", request, inner + 2)[0]
            count += 1
        count += 1
    return count <= _MAXIMUM_ITEMS


class AssociationPolicy:
    """The rules of one node.

    Parameters
    ----------
    config: its titles, networks and limits.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._networks = tuple(map(ipaddress.ip_network, config.receiver.networks))
        self._peers = tuple(
            (peer.ae_title.strip(), tuple(map(ipaddress.ip_network, peer.networks)))
            for peer in config.receiver.peers
        )
        self._titles = {title.strip() for title in config.calling_ae_titles}

    def may_connect(self, address: str) -> bool:
        """Whether any peer may come from an IP address; asked before anything is read."""
        networks = [self._networks, *(networks for _title, networks in self._peers)]
        return any(_is_in(address, group) for group in networks)

    def judge(self, caller: Caller) -> Rejection | None:
        """Why a caller may not associate, or None."""
        if not self._knows(caller):
            return Rejection.CALLING_AE_TITLE
        receiver = self._config.receiver
        if receiver.require_called_ae_title and caller.called_ae_title != self._config.ae_title.strip():
            return Rejection.CALLED_AE_TITLE
        return None

    def _knows(self, caller: Caller) -> bool:
        title, address = caller.calling_ae_title, caller.address
        if any(title == known and _is_in(address, networks) for known, networks in self._peers):
            return True
        anyone = not self._titles and not self._peers
        return (anyone or title in self._titles) and _is_in(address, self._networks)


def _is_in(address: str, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> bool:
    """Whether an address lies in a network; ``::ffff:10.0.0.5`` is 10.0.0.5."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return any((mapped or parsed) in network for network in networks)
