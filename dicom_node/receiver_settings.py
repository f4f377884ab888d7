"""Who may send and how much: the ``[receiver]`` table of the configuration.

Not the decisions (`dicom_node.association_policy`); the node's own name, address and port are keys of
the file itself (`dicom_node.config.Config`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.errors import SightlineError
from dicom_node.setting_checks import check_positive


@dataclass(frozen=True)
class Peer:
    """A peer that may associate, and from where: one ``[[receiver.peer]]`` table.

    Attributes
    ----------
    ae_title: its calling AE title.
    networks: IP addresses or networks (CIDR) that it may use the title from.
    """

    ae_title: str
    networks: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.ae_title.strip() or not self.networks:
            raise SightlineError("receiver.peer needs an ae_title and at least one entry in networks")
        check_networks("receiver.peer.networks", self.networks)


@dataclass(frozen=True)
class ReceiverSettings:
    """How the receiver protects itself: the ``[receiver]`` table.

    Attributes
    ----------
    processes: how many processes share the port; each does the work of about one CPU core.
    networks: IP addresses or networks (CIDR) that may connect with any title of
        `Config.calling_ae_titles`.
    peers: the ``[[receiver.peer]]`` tables: further titles, each from its own networks.
    require_called_ae_title: whether a peer has to call the node by its own `Config.ae_title`.
    certificate, key: PEM files, for TLS; both or none. With them nothing is received without TLS.
    client_authority: PEM file of the authorities whose certificates peers must show.
    maximum_per_address: associations that one address may have open at once.
    maximum_waiting: connections that may be open without having asked for an association; when more
        come, the one that has waited longest is closed.
    request_seconds: how long a connection may take to ask for an association (TLS included).
    maximum_instances: instances over one association; more are answered with 0xA700.
    maximum_gib: data over one association, GiB; more is answered with 0xA700.
    maximum_instance_gib: the largest instance, GiB.
    refuse_above_percent, accept_below_percent: new associations are refused while the archive's disk
        is fuller than the first, until it is emptier than the second.
    """

    processes: int = 1
    networks: tuple[str, ...] = ("127.0.0.0/8", "::1")
    peers: tuple[Peer, ...] = field(default=(), metadata={"key": "peer"})
    require_called_ae_title: bool = True
    certificate: Path | None = None
    key: Path | None = None
    client_authority: Path | None = None
    maximum_per_address: int = 16
    maximum_waiting: int = 256
    request_seconds: float = 10.0
    maximum_instances: int = 100_000
    maximum_gib: float = 256.0
    maximum_instance_gib: float = 4.0
    refuse_above_percent: float = 95.0
    accept_below_percent: float = 93.0

    def __post_init__(self) -> None:
        check_networks("receiver.networks", self.networks)
        for name in (
            *("processes", "maximum_per_address", "maximum_waiting", "request_seconds"),
            *("maximum_instances", "maximum_gib", "maximum_instance_gib"),
        ):
            check_positive(f"receiver.{name}", getattr(self, name))
        low, high = self.accept_below_percent, self.refuse_above_percent
        if not 0 < low <= high <= 100:
            raise SightlineError(
                f"receiver.accept_below_percent = {low:g}, refuse_above_percent = {high:g}: the first must "
                "not be above the second, and both lie between 0 and 100"
            )
        if (self.certificate is None) != (self.key is None):
            missing = "receiver.key" if self.key is None else "receiver.certificate"
            raise SightlineError(f"{missing} is missing; TLS needs receiver.certificate and receiver.key")
        if self.client_authority is not None and self.certificate is None:
            raise SightlineError(
                "receiver.client_authority needs TLS; set receiver.certificate and receiver.key too"
            )


def check_networks(key: str, networks: tuple[str, ...]) -> None:
    """Raise SightlineError unless each is an IP address or network."""
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise SightlineError(
                f"{key}: {network!r} is no IP address or network such as 10.0.0.5 or 10.0.0.0/24"
            ) from None
