"""The node's configuration: one typed TOML file, every key documented here.

Not a place for behaviour: it says what is wanted and refuses what cannot work. The keys of
the file are the attributes of `Config`; tables are the dataclasses it is made of. A whole file:

.. code-block:: toml

    ae_title = "SIGHTLINE"
    address = "0.0.0.0"
    port = 11112
    archive = "/var/lib/sightline"

    [receiver]
    processes = 2

    [[receiver.peer]]
    ae_title = "PACS"
    networks = ["10.0.0.5"]

    [service]
    address = "0.0.0.0"
    token_file = "service.token"
    certificate = "node.crt"
    key = "node.key"

    [[destination]]
    name = "pacs"
    address = "10.0.0.5"
    port = 104
    ae_title = "PACS"
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dicom_node.completeness_settings import CompletenessSettings
from dicom_node.destination_settings import DeliverySettings, Destination
from dicom_node.errors import SightlineError
from dicom_node.monitor_settings import MonitorSettings
from dicom_node.receiver_settings import ReceiverSettings
from dicom_node.retention_settings import RetentionSettings
from dicom_node.series_settings import SeriesSettings
from dicom_node.setting_checks import (
    check_ae_title,
    check_port,
    check_positive,
    is_loopback,
    with_paths_relative_to,
)

__all__ = ["Config", "DeliverySettings", "Destination", "ResultSettings", "ServiceSettings", "load_config"]

T = TypeVar("T")
OWN, TOTALSEGMENTATOR = "own", "totalsegmentator"  # who draws the organs


@dataclass(frozen=True)
class ResultSettings:
    """What is made of a reading: the ``[results]`` table. Part of the settings digest.

    Attributes
    ----------
    organs: whether the organ SEG is written and sent (lesion SEG and SR always are).
    key_images: whether the key images are sent too, as a Secondary Capture series, for a PACS
        that shows neither SEG nor SR.
    """

    organs: bool = True
    key_images: bool = False


@dataclass(frozen=True)
class ServiceSettings:
    """The query service, `dicom_node.service`: the ``[service]`` table.

    Attributes
    ----------
    address: IP address to listen on; anything but loopback needs `token_file` or `client_authority`.
    port: TCP port to listen on.
    token_file: file whose one line every request has to bring as ``Authorization: Bearer ...``.
        None: ``service.token`` in the archive, drawn at random at the first start.
    certificate, key: PEM files, for HTTPS; both or none.
    client_authority: PEM file of the authorities whose certificates clients must show. Where
        only this is set, and no `token_file`, no token is asked for.
    cache_mib: memory for the encodings that queries have loaded, MiB.
    upload_mib: largest volume that is taken, MiB on the wire.
    queue: how many jobs may wait; more are refused until one is done.
    kept_results: how many results of finished jobs stay on disk, the newest.
    """

    address: str = "127.0.0.1"
    port: int = 11113
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_authority: Path | None = None
    cache_mib: int = 512
    upload_mib: int = 1024
    queue: int = 8
    kept_results: int = 64

    def __post_init__(self) -> None:
        check_port("service.port", self.port)
        for name in ("cache_mib", "upload_mib", "queue", "kept_results"):
            check_positive(f"service.{name}", getattr(self, name))
        if (self.certificate is None) != (self.key is None):
            missing = "service.key" if self.key is None else "service.certificate"
            raise SightlineError(f"{missing} is missing; HTTPS needs service.certificate and service.key")
        if self.client_authority is not None and self.certificate is None:
            raise SightlineError(
                "service.client_authority needs HTTPS; set service.certificate and service.key too"
            )
        guarded = self.token_file is not None or self.client_authority is not None
        if not is_loopback("service.address", self.address) and not guarded:
            raise SightlineError(
                f"service.address = {self.address!r} is not loopback; set service.token_file or "
                "service.client_authority, so that not anyone can ask"
            )

    @property
    def asks_token(self) -> bool:
        """Whether requests need a bearer token; not where only client certificates are asked for."""
        return self.token_file is not None or self.client_authority is None


@dataclass(frozen=True)
class Config:
    """Everything that can be set. The defaults are safe on one machine: loopback only.

    Attributes
    ----------
    ae_title: the node's own AE title.
    address: IP address to listen on; anything but loopback needs `receiver` to say who may connect.
    port: TCP port to listen on.
    calling_ae_titles: AE titles that may associate from `ReceiverSettings.networks`; where these and
        `ReceiverSettings.peers` are empty, any title may.
    maximum_associations: how many associations may be open at once.
    archive: folder for received objects, results and the index.
    database: SQLAlchemy URL of the index and of the queue of readings, for several hosts
        ``postgresql+psycopg://USER@HOST/NAME``; None means SQLite files in the archive.
    quiet_seconds: a study is complete when no new CT instance came for so long.
    association_idle_seconds: an association without traffic for so long is closed.
    heartbeat_seconds: how often a reader says that it lives; when six beats of one are missing,
        another reader takes over its work.
    reserve_gib: below this much free disk space nothing more is accepted (0xA700).
    checkpoint: folder of the model's checkpoint; None means the shipped one.
    device: e.g. ``"cuda:0"`` or ``"cpu"``; None means CUDA where there is any.
    organs: who draws the organs: ``"own"``, the model, or ``"totalsegmentator"``, which has to be installed.
    organs_fast: whether TotalSegmentator draws with its model of 3 mm instead of 1.5 mm.
    organs_weights: folder of TotalSegmentator's weights; None means where it looks itself.
    log_level: ``"DEBUG"``, ``"INFO"``, ``"WARNING"`` or ``"ERROR"``.
    log_format: ``"text"`` for lines of key=value pairs, ``"json"`` for one JSON object per line.
    completeness, results, delivery, service: see `CompletenessSettings`, `ResultSettings`,
        `DeliverySettings` and `ServiceSettings`.
    receiver: see `dicom_node.receiver_settings.ReceiverSettings`.
    series: which series of a study is read, see `dicom_node.series_settings.SeriesSettings`.
    monitor, retention: see `MonitorSettings` and `RetentionSettings`.
    destinations: the ``[[destination]]`` tables; none means results stay in the archive.
    """

    ae_title: str = "SIGHTLINE"
    address: str = "127.0.0.1"
    port: int = 11112
    calling_ae_titles: tuple[str, ...] = ()
    maximum_associations: int = 20
    archive: Path = field(default_factory=lambda: Path.home() / ".local" / "share" / "sightline")
    database: str | None = None
    quiet_seconds: float = 30.0
    association_idle_seconds: float = 60.0
    heartbeat_seconds: float = 5.0
    reserve_gib: float = 1.0
    checkpoint: Path | None = None
    device: str | None = None
    organs: str = OWN
    organs_fast: bool = False
    organs_weights: Path | None = None
    log_level: str = "INFO"
    log_format: str = "text"
    completeness: CompletenessSettings = field(default_factory=CompletenessSettings)
    results: ResultSettings = field(default_factory=ResultSettings)
    series: SeriesSettings = field(default_factory=SeriesSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    service: ServiceSettings = field(default_factory=ServiceSettings)
    receiver: ReceiverSettings = field(default_factory=ReceiverSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    destinations: tuple[Destination, ...] = field(default=(), metadata={"key": "destination"})

    def __post_init__(self) -> None:
        check_ae_title("ae_title", self.ae_title)
        for title in self.calling_ae_titles:
            check_ae_title("calling_ae_titles", title)
        check_port("port", self.port)
        _check_listening(self.address, self.calling_ae_titles, self.receiver)
        for key in (
            "quiet_seconds",
            "association_idle_seconds",
            "heartbeat_seconds",
            "maximum_associations",
        ):
            check_positive(key, getattr(self, key))
        if not (math.isfinite(self.reserve_gib) and self.reserve_gib >= 0):
            raise SightlineError(f"reserve_gib = {self.reserve_gib}: must be 0 or more")
        if self.organs not in (OWN, TOTALSEGMENTATOR):
            raise SightlineError(f"organs = {self.organs!r}: must be {OWN} or {TOTALSEGMENTATOR}")
        if self.organs == OWN and self.organs_fast:
            raise SightlineError(f"organs_fast = true is for organs = {TOTALSEGMENTATOR!r}; set that too")
        levels = ("DEBUG", "INFO", "WARNING", "ERROR")
        if self.log_level not in levels:
            raise SightlineError(f"log_level = {self.log_level!r}: must be one of {', '.join(levels)}")
        if self.log_format not in ("text", "json"):
            raise SightlineError(f"log_format = {self.log_format!r}: must be text or json")
        self._check_monitor()
        if 0 < self.retention.free_gib <= self.reserve_gib:
            raise SightlineError(
                f"retention.free_gib = {self.retention.free_gib}: must be more than reserve_gib = "
                f"{self.reserve_gib}; nothing would be removed before the receiver refuses"
            )
        self._check_destinations()

    def _check_destinations(self) -> None:
        names = [d.name for d in self.destinations]
        for name in names:
            if names.count(name) > 1:
                raise SightlineError(f"destination.name = {name!r} occurs twice; names must differ")
        if self.completeness.ask is not None and self.completeness.ask not in names:
            raise SightlineError(
                f"completeness.ask = {self.completeness.ask!r}: must be the name of a [[destination]]"
            )
        if any(d.url and d.name == self.completeness.ask for d in self.destinations):
            raise SightlineError(
                f"completeness.ask = {self.completeness.ask!r}: is a DICOMweb server; name a DICOM peer, "
                "which answers C-FIND"
            )

    def _check_monitor(self) -> None:
        settings = self.monitor
        guarded = settings.token_file is not None or settings.open_to_all
        if not is_loopback("monitor.address", settings.address) and not guarded:
            raise SightlineError(
                f"monitor.address = {settings.address!r} is not loopback; set monitor.token_file, "
                "or monitor.open_to_all = true where anyone may see how busy the node is"
            )

    @property
    def settings_digest(self) -> str:
        """SHA-256 of the settings that change what a reading's results contain.

        >>> a = Config(port=104).settings_digest
        >>> a == Config().settings_digest, a == Config(results=ResultSettings(organs=False)).settings_digest
        (True, False)
        >>> a == Config(organs="totalsegmentator").settings_digest
        False
        """
        settings = dataclasses.asdict(self.results)
        if self.organs != OWN:  # else the digest of every earlier installation would change
            settings["drawn_by"] = [self.organs, self.organs_fast]
        canonical = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the index."""
        return self.database or f"sqlite:///{self.archive.absolute() / 'index.sqlite'}"


def load_config(path: Path | None) -> Config:
    """The configuration in the file at `path`, or the default where it is None.

    Relative paths in the file are relative to the file's folder; ``~`` is the home folder.

    Raises
    ------
    SightlineError: no such file, not TOML, an unknown key, a wrong type or a bad value; the
        message names the file, the key and the closest valid key.
    """
    if path is None:
        return Config()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SightlineError(f"{path}: no such configuration file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SightlineError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SightlineError(f"{path}: is not valid TOML: {error}") from None
    try:
        config = _from_table(Config, table, "")
    except SightlineError as error:
        raise SightlineError(f"{path}: {error}") from None
    here = path.absolute().parent
    checkpoint = None if config.checkpoint is None else here / config.checkpoint.expanduser()
    weights = None if config.organs_weights is None else here / config.organs_weights.expanduser()
    return dataclasses.replace(
        config,
        archive=here / config.archive.expanduser(),
        checkpoint=checkpoint,
        organs_weights=weights,
        service=with_paths_relative_to(config.service, here),
        receiver=with_paths_relative_to(config.receiver, here),
        monitor=with_paths_relative_to(config.monitor, here),
        destinations=tuple(with_paths_relative_to(destination, here) for destination in config.destinations),
    )


def _from_table(cls: type[T], table: dict[str, Any], prefix: str) -> T:
    """The dataclass `cls` filled from a TOML table; `prefix` names the table in messages."""
    fields = {f.metadata.get("key", f.name): f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"valid keys: {', '.join(fields)}"
            raise SightlineError(f"unknown key {prefix}{key}; {hint}")
        values[fields[key].name] = _converted(hints[fields[key].name], value, f"{prefix}{key}")
    for key, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise SightlineError(f"key {prefix}{key} is missing; add it")
    return cls(**values)


def _converted(hint: Any, value: Any, key: str) -> Any:
    """`value` from TOML as the type `hint`, or an error that says what was expected."""
    if isinstance(hint, types.UnionType):  # "X | None": TOML has no null, so a value is always an X
        hint = next(h for h in typing.get_args(hint) if h is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        what = "tables ([[...]])" if dataclasses.is_dataclass(item) else "strings"
        if not isinstance(value, list):
            raise SightlineError(f"{key} = {value!r}: must be a list of {what}")
        return tuple(_converted(item, v, key) for v in value)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise SightlineError(f"{key} = {value!r}: must be a table ([{key}])")
        return _from_table(typing.cast(type[Any], hint), value, f"{key}.")
    accepted: dict[Any, tuple[type, ...]] = {float: (int, float), Path: (str,)}
    if not isinstance(value, accepted.get(hint, (hint,))) or (isinstance(value, bool) and hint is not bool):
        words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
        raise SightlineError(f"{key} = {value!r}: must be {words.get(hint, 'a path in quotes')}")
    return hint(value)


def _check_listening(address: str, calling_ae_titles: tuple[str, ...], receiver: ReceiverSettings) -> None:
    """Only loopback may be open to anyone: elsewhere title and network of every peer are listed."""
    if is_loopback("address", address):
        return
    titles_from_elsewhere = calling_ae_titles and receiver.networks != ReceiverSettings().networks
    if not receiver.peers and not titles_from_elsewhere:
        raise SightlineError(
            f"address = {address!r} is not loopback; list who may connect and from where: [[receiver.peer]] "
            "tables with ae_title and networks, or calling_ae_titles and receiver.networks"
        )
