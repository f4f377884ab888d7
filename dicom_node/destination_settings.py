"""Where results go and how stubbornly: the ``[[destination]]`` and ``[delivery]`` tables.

Not the sending (`dicom_node.delivery`). A destination is a DICOM peer, with or without TLS, or
a DICOMweb server:

.. code-block:: toml

    [[destination]]
    name = "pacs"
    address = "pacs.hospital.example"
    port = 2762
    ae_title = "PACS"
    tls = true
    authority = "hospital-ca.pem"
    certificate = "node.crt"
    key = "node.key"

    [[destination]]
    name = "archive"
    url = "https://archive.hospital.example/dicom-web"
    token_file = "archive.token"
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dicom_node.errors import SightlineError
from dicom_node.setting_checks import check_ae_title, check_port, check_positive

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Destination:
    """A peer that results are stored to: one ``[[destination]]`` table.

    Attributes
    ----------
    name: what it is called in logs and in the archive; unique.
    address: host name or IP address of a DICOM peer.
    port: its TCP port, 1..65535.
    ae_title: its AE title (PS3.5 table 6.2-1, VR AE: 1 to 16 characters).
    url: of a DICOMweb server (STOW-RS, PS3.18 10.5), instead of the three above: what comes
        before ``/studies``. ``http`` only on loopback.
    token_file: file whose one line is sent as ``Authorization: Bearer ...``; read for each
        association with the server, so that it can be renewed. Needs `url`.
    tls: whether the DICOM peer is spoken to over TLS (PS3.15 annex B). Always with `url`.
    authority: PEM file of the authorities that the peer's certificate is checked against; None
        means those that the system trusts.
    certificate, key: PEM files by which the node identifies itself; both or none.
    check_hostname: whether the peer's certificate must name `address`, or the host of `url`.
        Only with an `authority` of one's own can it be left out.
    storage_commitment: whether a DICOM peer that offers storage commitment (PS3.4 annex J) is
        asked to promise that it keeps what it stored; what it cannot promise is sent again.
    """

    name: str
    address: str = ""
    port: int = 0
    ae_title: str = ""
    url: str = ""
    token_file: Path | None = None
    tls: bool = False
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    check_hostname: bool = True
    storage_commitment: bool = True

    def __post_init__(self) -> None:
        if not self.name:
            raise SightlineError("destination.name is empty; give every destination a name")
        if self.url:
            self._check_web()
        else:
            self._check_dicom()
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise SightlineError(
                f"destination.{missing} is missing at {self.name!r}; give both certificate and key"
            )
        if not self.check_hostname and self.authority is None:
            raise SightlineError(
                f"destination.check_hostname = false at {self.name!r} lets every certificate pass; "
                "name the peer's authority too"
            )

    @property
    def peer(self) -> tuple[str, str]:
        """AE title and host; of a DICOMweb server its name and host."""
        if self.url:
            return self.name, urlsplit(self.url).hostname or ""
        return self.ae_title, self.address

    def _check_web(self) -> None:
        if self.address or self.port or self.ae_title:
            raise SightlineError(
                f"destination.url at {self.name!r} stands instead of address, port and ae_title; give either"
            )
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise SightlineError(
                f"destination.url = {self.url!r}: must be such as https://pacs.example/dicom-web"
            )
        if parts.username is not None:
            raise SightlineError(f"destination.url at {self.name!r} holds a password; use token_file")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise SightlineError(f"destination.url = {self.url!r}: not encrypted; use https")

    def _check_dicom(self) -> None:
        if not self.address:
            raise SightlineError(
                f"destination.address is missing at {self.name!r}; give address, port and ae_title, or url"
            )
        check_ae_title("destination.ae_title", self.ae_title)
        check_port("destination.port", self.port)
        if self.token_file is not None:
            raise SightlineError(f"destination.token_file at {self.name!r} needs a url")
        if not self.tls and (self.authority or self.certificate or self.key):
            raise SightlineError(
                f"destination.tls is not set at {self.name!r}, yet certificates are; add tls = true"
            )

    @property
    def place(self) -> str:
        """Where it is, for a person."""
        return self.url or f"{self.ae_title} at {self.address}:{self.port}{' (TLS)' if self.tls else ''}"


@dataclass(frozen=True)
class DeliverySettings:
    """How results are sent again when a destination does not take them: the ``[delivery]`` table.

    Attributes
    ----------
    retry_seconds: wait after the first failure; doubles with each further one.
    retry_cap_seconds: longest wait between two attempts.
    give_up_days: after so long without success a result counts as undeliverable, until
        ``sightline retry``.
    timeout_seconds: how long a peer may take to connect or to answer; large objects get more.
    """

    retry_seconds: float = 30.0
    retry_cap_seconds: float = 3600.0
    give_up_days: float = 7.0
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        for key in ("retry_seconds", "retry_cap_seconds", "give_up_days", "timeout_seconds"):
            check_positive(f"delivery.{key}", getattr(self, key))

    def delay(self, attempts: int) -> float:
        """Seconds to wait after the n-th failed attempt, without jitter.

        >>> [DeliverySettings().delay(n) for n in (1, 2, 3, 20)]
        [30.0, 60.0, 120.0, 3600.0]
        """
        growth = 2.0 ** min(max(attempts, 1) - 1, 30)
        return float(min(self.retry_cap_seconds, self.retry_seconds * growth))
