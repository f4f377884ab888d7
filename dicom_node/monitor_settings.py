"""The ``[monitor]`` table: where metrics and health are served, and who may ask. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import SightlineError

WATCHED = ("receiver", "reader", "service")


@dataclass(frozen=True)
class MonitorSettings:
    """Where ``/metrics``, ``/healthz`` and ``/readyz`` are served (`dicom_node.monitor`).

    Attributes
    ----------
    address: IP address to listen on; anything but loopback needs `token_file` or `open_to_all`.
    port: TCP port to listen on.
    token_file: file whose one line must come as ``Authorization: Bearer ...`` to see metrics and the
        reasons behind ``/readyz``; ``/healthz`` and the bare yes or no of ``/readyz`` never need it.
    open_to_all: whether metrics may be seen without a token also beyond this machine.
    certificate, key: PEM files, for HTTPS; both or none.
    roles: the processes without which ``/readyz`` says no; on a host that only receives ``["receiver"]``.
    """

    address: str = "127.0.0.1"
    port: int = 11114
    token_file: Path | None = None
    open_to_all: bool = False
    certificate: Path | None = None
    key: Path | None = None
    roles: tuple[str, ...] = ("receiver", "reader")

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise SightlineError(f"monitor.port = {self.port}: a TCP port is 1 to 65535")
        if (self.certificate is None) != (self.key is None):
            missing = "monitor.key" if self.key is None else "monitor.certificate"
            raise SightlineError(f"{missing} is missing; HTTPS needs monitor.certificate and monitor.key")
        for role in self.roles:
            if role not in WATCHED:
                raise SightlineError(f"monitor.roles has {role!r}: must be of {', '.join(WATCHED)}")
