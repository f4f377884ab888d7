"""Results go to a DICOM peer over TLS, and to no other than the one that is meant."""

from __future__ import annotations

import dataclasses
import socket
import time
from pathlib import Path

import pytest

from dicom_node.check import run_checks
from dicom_node.config import Config, DeliverySettings, Destination
from dicom_node.delivery import Courier
from dicom_node.delivery_dimse import echo
from tests.dicom_node.deliveries import Certificates, finished_reading, make_certificates, peer
from tests.dicom_node.faulty_pacs import FaultyPacs
from tests.dicom_node.network import free_port


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def pacs(certificates: Certificates) -> FaultyPacs:
    return FaultyPacs(free_port(), tls=certificates.server_context(certificates.server))


@pytest.fixture
def config(tmp_path: Path, pacs: FaultyPacs, certificates: Certificates) -> Config:
    destination = Destination(
        "pacs",
        "localhost",
        pacs.port,
        "PACS",
        tls=True,
        authority=certificates.authority,
        certificate=certificates.client,
        key=certificates.client,
    )
    return Config(
        archive=tmp_path / "archive",
        delivery=DeliverySettings(timeout_seconds=15),
        destinations=(destination,),
    )


def test_results_are_stored_over_tls(config: Config, pacs: FaultyPacs) -> None:
    archive = finished_reading(config)
    with pacs.listening():
        (line,) = (r for r in run_checks(config) if r.name == "destination pacs")
        assert line.ok, line.message
        assert "TLS" in line.message
        assert Courier(config, archive).send_due() == 3


def test_a_wrong_certificate_on_either_side_is_named(
    config: Config, pacs: FaultyPacs, certificates: Certificates
) -> None:
    (right,) = config.destinations
    with pacs.listening():
        for change, reason in (
            ({"authority": certificates.stranger}, "certificate is not accepted"),
            ({"certificate": certificates.stranger, "key": certificates.stranger}, "unknown ca"),
            ({"certificate": None, "key": None}, "certificate required"),
            ({"authority": Path("/nowhere.pem")}, "No such file"),
            ({"key": certificates.stranger}, "belong together"),
        ):
            assert reason in (echo(dataclasses.replace(right, **change), config) or ""), change
        assert echo(right, config) is None


def test_the_certificate_must_name_the_peer(
    config: Config, pacs: FaultyPacs, certificates: Certificates
) -> None:
    pacs.tls = certificates.server_context(certificates.elsewhere)
    (strict,) = config.destinations
    with pacs.listening():
        assert "Hostname mismatch" in (echo(strict, config) or "")
        assert echo(dataclasses.replace(strict, check_hostname=False), config) is None


def test_a_peer_without_tls_gets_nothing(config: Config, pacs: FaultyPacs) -> None:
    pacs.tls = None
    with pacs.listening():
        assert "TLS" in (echo(config.destinations[0], config) or "")
    assert pacs.received == []


def test_a_peer_that_never_shakes_hands_waits_as_a_whole(config: Config) -> None:
    archive = finished_reading(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        silent = dataclasses.replace(config.destinations[0], port=listener.getsockname()[1])
        hurried = dataclasses.replace(config.delivery, timeout_seconds=2)
        config = dataclasses.replace(config, delivery=hurried, destinations=(silent,))
        clock = time.monotonic()
        Courier(config, archive).send_due()
        assert time.monotonic() - clock < 60
    assert "no answer in time" in (peer(archive).reason or "")
