"""Each check says what is wrong with one thing, and the others are still made."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from dicom_node.check import CheckResult, run_checks
from dicom_node.config import Config, Destination, ServiceSettings
from dicom_node.monitor_settings import MonitorSettings
from tests.dicom_node.network import Pacs, free_port


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        port=free_port(),
        archive=tmp_path / "archive",
        reserve_gib=0.0,
        service=ServiceSettings(port=free_port()),
        monitor=MonitorSettings(port=free_port()),
    )


def by_name(config: Config) -> dict[str, CheckResult]:
    results = run_checks(config)
    assert len({result.name for result in results}) == len(results)
    assert all("\n" not in result.message for result in results)
    return {result.name: result for result in results}


def test_a_sound_node_passes_everything_and_leaves_nothing_behind(config: Config) -> None:
    pacs = Pacs(free_port())
    peer = Destination("pacs", "127.0.0.1", pacs.port, "PACS")
    with pacs.listening():
        results = run_checks(dataclasses.replace(config, destinations=(peer,)))
    assert [result for result in results if not result.ok] == []
    names = [result.name for result in results]
    ports = ["port", "service", "monitor"]
    assert names == ["configuration", "archive", "disk", "checkpoint", *ports, "destination pacs"]
    assert list(config.archive.parent.iterdir()) == []


def test_a_taken_port_is_reported_and_the_rest_still_checked(config: Config) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", config.port))
        taken.listen()
        results = by_name(config)
    assert not results["port"].ok
    assert str(config.port) in results["port"].message
    assert results["disk"].ok
    assert results["destinations"].ok


def test_a_peer_that_does_not_answer_is_reported(config: Config) -> None:
    peer = Destination("pacs", "127.0.0.1", free_port(), "PACS")
    results = by_name(Config(port=config.port, archive=config.archive, destinations=(peer,)))
    assert not results["destination pacs"].ok
    assert "no connection" in results["destination pacs"].message


def test_a_full_disk_and_a_file_in_the_way_are_reported(tmp_path: Path, config: Config) -> None:
    (tmp_path / "file").write_text("in the way")
    results = by_name(Config(port=config.port, archive=tmp_path / "file" / "archive", reserve_gib=1e9))
    assert not results["archive"].ok
    assert "not a folder" in results["archive"].message
    assert not results["disk"].ok
    assert "reserve_gib" in results["disk"].message


def test_a_folder_that_is_no_checkpoint_is_reported(tmp_path: Path, config: Config) -> None:
    results = by_name(Config(port=config.port, archive=config.archive, checkpoint=tmp_path))
    assert not results["checkpoint"].ok
    assert "model.safetensors" in results["checkpoint"].message


def test_a_service_without_its_token_or_certificate_is_reported(tmp_path: Path, config: Config) -> None:
    absent = tmp_path / "absent"
    for settings, word in (
        ({"token_file": absent}, "service.token_file"),
        ({"certificate": absent, "key": absent}, "service.certificate"),
    ):
        service = dataclasses.replace(config.service, **settings)
        results = by_name(dataclasses.replace(config, service=service))
        assert not results["service"].ok
        assert word in results["service"].message
        assert results["port"].ok


def test_a_monitor_without_its_token_is_reported(tmp_path: Path, config: Config) -> None:
    monitor = dataclasses.replace(config.monitor, token_file=tmp_path / "absent")
    result = by_name(dataclasses.replace(config, monitor=monitor))["monitor"]
    assert not result.ok
    assert "monitor.token_file" in result.message
