"""Who is let in and how much each may bring: addresses, titles, TLS, limits, a disk that fills up."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from benchmarks.hostile_cases import data_set
from benchmarks.raw_peer import ABORT, ASSOCIATE_RJ, RawPeer, associate_request
from dicom_node.archive import Archive
from dicom_node.association_policy import AssociationPolicy, Caller, Rejection
from dicom_node.config import Config
from dicom_node.disk_space import DiskSpace
from dicom_node.errors import SightlineError
from dicom_node.receiver import Receiver
from dicom_node.receiver_settings import Peer, ReceiverSettings
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import ANY_DISK, free_port

CT = str(CTImageStorage)
Usage = namedtuple("Usage", "total used free")


@contextlib.contextmanager
def receiving(folder: Path, **settings: object) -> Iterator[Config]:
    """A receiver with these settings of its ``[receiver]`` table, and of the file where they are none."""
    own = {key: settings.pop(key) for key in list(settings) if hasattr(Config(), key)}
    config = Config(
        port=free_port(),
        archive=folder / "archive",
        reserve_gib=0.0,
        receiver=replace(ANY_DISK, **settings),  # type: ignore[arg-type]
    )
    config = replace(config, **own)
    receiver = Receiver(config, Archive.open(config))
    receiver.start()
    try:
        yield config
    finally:
        receiver.stop()


def answer(config: Config, called: str | None = None, calling: str = "RAW") -> tuple[int, ...]:
    """Type of the PDU that answers an A-ASSOCIATE-RQ, and result, source and reason of a rejection."""
    with RawPeer(config.port) as peer:
        peer.send(associate_request(called or config.ae_title, calling))
        kind, body = peer.receive()
        return (kind, *body[1:4]) if kind == ASSOCIATE_RJ else (kind,)


def rejected(rejection: Rejection) -> tuple[int, ...]:
    return (ASSOCIATE_RJ, *rejection.value)


def test_an_address_that_is_not_listed_is_not_even_heard(tmp_path: Path) -> None:
    with receiving(tmp_path, networks=("10.0.0.0/8",)) as config, RawPeer(config.port) as peer:
        assert peer.receive() == (0, b"")


@pytest.mark.parametrize(
    ("title", "address", "known"),
    [
        ("PACS", "10.1.2.3", True),
        ("PACS", "10.2.2.3", False),  # the right title from the wrong network
        ("OTHER", "10.1.2.3", False),
        ("LOCAL", "127.0.0.1", True),
        ("LOCAL", "10.1.2.3", False),
        ("PACS", "::ffff:10.1.2.3", True),
    ],
)
def test_a_title_counts_only_from_its_own_networks(title: str, address: str, known: bool) -> None:
    peers = (Peer("PACS", ("10.1.0.0/16",)),)
    config = Config(calling_ae_titles=("LOCAL",), receiver=ReceiverSettings(peers=peers))
    rejection = AssociationPolicy(config).judge(Caller(title, config.ae_title, address))
    assert rejection is (None if known else Rejection.CALLING_AE_TITLE)


def test_strangers_and_wrong_numbers_are_told_why(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=(Peer("PACS", ("127.0.0.1",)),)) as config:
        assert answer(config, calling="STRANGER") == rejected(Rejection.CALLING_AE_TITLE)
        assert answer(config, calling="PACS", called="ELSEWHERE") == rejected(Rejection.CALLED_AE_TITLE)
        assert answer(config, calling="PACS")[0] != ASSOCIATE_RJ
    with receiving(tmp_path, require_called_ae_title=False) as config:
        assert answer(config, called="ELSEWHERE")[0] != ASSOCIATE_RJ


def test_one_address_cannot_take_all_places(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_per_address=2) as config, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(config.port)) for _ in range(2)]
        assert all([peer.associate(config.ae_title) for peer in peers])
        assert answer(config) == rejected(Rejection.TOO_MANY)
        peers[0].socket.close()
        deadline = time.monotonic() + 10
        while answer(config)[0] == ASSOCIATE_RJ:
            assert time.monotonic() < deadline, "a place that was left is not given again"
            time.sleep(0.05)


def test_who_says_nothing_is_shown_out(tmp_path: Path) -> None:
    with receiving(tmp_path, request_seconds=0.5) as config, RawPeer(config.port) as peer:
        peer.send(associate_request(config.ae_title)[:50])
        assert peer.receive() == (0, b"")


def test_an_idle_association_is_aborted(tmp_path: Path) -> None:
    with receiving(tmp_path, association_idle_seconds=0.6) as config, RawPeer(config.port) as peer:
        assert peer.associate(config.ae_title)
        assert peer.echo()
        assert peer.receive()[0] == ABORT


def test_an_association_may_bring_so_many_instances_and_so_much(tmp_path: Path) -> None:
    small, large = data_set("1.2.3"), data_set("1.2.4") + bytes(2 << 20)
    with (
        receiving(tmp_path, maximum_instances=2, maximum_instance_gib=1 / 1024) as config,
        RawPeer(config.port) as peer,
    ):
        assert peer.associate(config.ae_title)
        assert peer.store(CT, "1.2.3", small) == 0
        assert peer.store(CT, "1.2.4", large) == 0xA700
        assert peer.store(CT, "1.2.5", data_set("1.2.5")) == 0xA700
        assert peer.echo()
        assert len(list(config.archive.glob("instances/*/*"))) == 1
        assert list(config.archive.glob("incoming/*/*")) == []


def test_above_the_watermark_associations_are_refused(tmp_path: Path) -> None:
    with receiving(tmp_path, refuse_above_percent=0.002, accept_below_percent=0.001) as config:
        assert answer(config) == rejected(Rejection.DISK)


def test_a_mark_that_was_reached_is_left_only_some_way_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskSpace(tmp_path, Config(reserve_gib=1.0))
    refusals = []
    for used in (94, 95, 94, 93, 92.9, 94):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, used=used: Usage(100, used, 100 - used))
        refusals.append(disk.refuses_associations())
    assert refusals == [False, True, True, True, False, False]
    refusals = []
    for free in (1.1, 0.9, 1.01, 1.1):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: Usage(0, 0, free * 2**30))
        refusals.append(disk.refuses_instances())
    assert refusals == [False, True, True, False]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PEM files: the authority, the node's and a peer's certificates, and a stranger's."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, elsewhere = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    made = {"node": authority.issue_cert("127.0.0.1"), "peer": authority.issue_cert("peer")}
    made["stranger"] = elsewhere.issue_cert("stranger")
    for name, certificate in made.items():
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
    return {path.stem: path for path in folder.iterdir()}


@contextlib.contextmanager
def receiving_with_tls(folder: Path, certificates: dict[str, Path]) -> Iterator[Config]:
    with receiving(
        folder,
        certificate=certificates["node"],
        key=certificates["node"],
        client_authority=certificates["authority"],
    ) as config:
        yield config


def send_with_tls(config: Config, certificates: dict[str, Path], name: str | None) -> list[int] | None:
    """Statuses of a series sent with the certificate `name`; None where no association came about."""
    context = ssl.create_default_context(cafile=certificates["authority"])
    if name is not None:
        context.load_cert_chain(certificates[name])
    ae = AE("PEER")
    ae.connection_timeout = ae.acse_timeout = 10
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    opened = ae.associate("127.0.0.1", config.port, ae_title=config.ae_title, tls_args=(context, "127.0.0.1"))
    if not opened.is_established:
        return None
    statuses = [int(opened.send_c_store(image).Status) for image in ct_series()]
    opened.release()
    return statuses


def test_tls_with_client_certificates(tmp_path: Path, certificates: dict[str, Path]) -> None:
    with receiving_with_tls(tmp_path, certificates) as config:
        assert send_with_tls(config, certificates, "peer") == [0] * 12
        assert send_with_tls(config, certificates, "stranger") is None
        assert send_with_tls(config, certificates, None) is None
        with RawPeer(config.port) as plain, contextlib.suppress(ConnectionError):
            assert not plain.associate(config.ae_title)


def test_a_silent_tls_client_holds_up_nobody(tmp_path: Path, certificates: dict[str, Path]) -> None:
    with receiving_with_tls(tmp_path, certificates) as config, contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(socket.create_connection(("127.0.0.1", config.port)))
        start = time.monotonic()
        assert send_with_tls(config, certificates, "peer") == [0] * 12
        assert time.monotonic() - start < config.receiver.request_seconds


def test_certificates_that_do_not_belong_together_are_named(
    tmp_path: Path, certificates: dict[str, Path]
) -> None:
    settings = ReceiverSettings(certificate=certificates["node"], key=certificates["authority"])
    with pytest.raises(SightlineError, match=r"receiver\.certificate"):
        Receiver(Config(receiver=settings), Archive.open(Config(archive=tmp_path / "archive")))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"networks": ("10.0.0.300",)}, "receiver.networks"),
        ({"processes": 0}, "receiver.processes"),
        ({"accept_below_percent": 99.0}, "receiver.accept_below_percent"),
        ({"certificate": Path("a.pem")}, "receiver.key is missing"),
        ({"client_authority": Path("a.pem")}, "receiver.client_authority needs TLS"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(SightlineError, match=named.replace(".", r"\.")):
        ReceiverSettings(**settings)  # type: ignore[arg-type]
