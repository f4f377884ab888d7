"""The configuration file: what is read, and what every mistake is answered with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.config import Config, DeliverySettings, Destination, ResultSettings, load_config
from dicom_node.errors import SightlineError
from dicom_node.receiver_settings import Peer, ReceiverSettings


def write(folder: Path, text: str) -> Path:
    path = folder / "sightline.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_the_node_is_on_loopback_only() -> None:
    config = load_config(None)
    assert (config.ae_title, config.address, config.port) == ("SIGHTLINE", "127.0.0.1", 11112)
    assert config.destinations == ()


def test_a_whole_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        ae_title = "READER"
        address = "0.0.0.0"
        port = 104
        calling_ae_titles = ["CT1"]
        archive = "data"
        quiet_seconds = 5
        [receiver]
        networks = ["10.0.1.0/24"]
        certificate = "node.crt"
        key = "node.key"
        [[receiver.peer]]
        ae_title = "PACS"
        networks = ["10.0.0.5"]
        [results]
        organs = false
        [delivery]
        retry_seconds = 1.5
        [[destination]]
        name = "pacs"
        address = "10.0.0.5"
        port = 4242
        ae_title = "PACS"
        """,
    )
    assert load_config(path) == Config(
        ae_title="READER",
        address="0.0.0.0",
        port=104,
        calling_ae_titles=("CT1",),
        archive=tmp_path / "data",
        quiet_seconds=5.0,
        receiver=ReceiverSettings(
            networks=("10.0.1.0/24",),
            certificate=tmp_path / "node.crt",
            key=tmp_path / "node.key",
            peers=(Peer("PACS", ("10.0.0.5",)),),
        ),
        results=ResultSettings(organs=False),
        delivery=DeliverySettings(retry_seconds=1.5),
        destinations=(Destination("pacs", "10.0.0.5", 4242, "PACS"),),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('ae_tittle = "X"', ["unknown key ae_tittle", "did you mean ae_title?"]),
        ("[delivery]\nretry = 1", ["unknown key delivery.retry", "delivery.retry_seconds"]),
        ('port = "104"', ["port = '104'", "whole number"]),
        ("port = true", ["port = True", "whole number"]),
        ("port = 0", ["port = 0", "1 to 65535"]),
        ('quiet_seconds = "soon"', ["quiet_seconds", "a number"]),
        ("quiet_seconds = nan", ["quiet_seconds", "more than 0"]),
        ("quiet_seconds = -1", ["quiet_seconds = -1", "more than 0"]),
        ('ae_title = "SEVENTEEN-LETTERS"', ["ae_title", "1 to 16"]),
        ('ae_title = "   "', ["ae_title", "1 to 16"]),
        ('address = "0.0.0.0"', ["address", "calling_ae_titles"]),
        ('address = "0.0.0.0"\ncalling_ae_titles = ["PACS"]', ["receiver.networks", "[[receiver.peer]]"]),
        ('[receiver]\nnetworks = ["PACS"]', ["receiver.networks", "'PACS' is no IP address"]),
        ('[[receiver.peer]]\nae_title = "PACS"', ["receiver.peer.networks", "missing"]),
        ('address = "everywhere"', ["address = 'everywhere'", "IP address"]),
        ('calling_ae_titles = "PACS"', ["calling_ae_titles", "list of strings"]),
        ("archive = 3", ["archive = 3", "path"]),
        ('log_level = "LOUD"', ["log_level", "DEBUG"]),
        ("results = 1", ["results = 1", "table"]),
        ('[[destination]]\nname = "p"', ["destination.address", "missing"]),
        ('destination = "pacs"', ["destination", "tables"]),
        ("reserve_gib = -2", ["reserve_gib", "0 or more"]),
        ("port = ", ["not valid TOML"]),
    ],
)
def test_a_mistake_names_file_key_and_cure(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SightlineError) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_two_destinations_of_one_name_are_refused() -> None:
    peer = Destination("pacs", "127.0.0.1", 104, "PACS")
    with pytest.raises(SightlineError, match="occurs twice"):
        Config(destinations=(peer, dataclasses.replace(peer, port=105)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="no such configuration file"):
        load_config(tmp_path / "absent.toml")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_configuration_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("config") / "c.toml"
    path.write_bytes(content)
    message = ""
    try:
        config: Config | None = load_config(path)
    except SightlineError as error:
        config, message = None, str(error)
    assert config is not None or str(path) in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["destination.address is missing", "or url"]),
        ({"address": "h", "port": 0, "ae_title": "A"}, ["destination.port = 0"]),
        ({"url": "https://h/d", "address": "h"}, ["destination.url", "give either"]),
        ({"url": "ftp://h/d"}, ["destination.url", "https://"]),
        ({"url": "http://pacs.example/d"}, ["not encrypted", "https"]),
        ({"url": "https://user:secret@h/d"}, ["token_file"]),
        ({"address": "h", "port": 1, "ae_title": "A", "authority": Path("a")}, ["tls = true"]),
        ({"address": "h", "port": 1, "ae_title": "A", "token_file": Path("a")}, ["needs a url"]),
        ({"url": "https://h/d", "certificate": Path("a")}, ["destination.key is missing"]),
        ({"url": "https://h/d", "check_hostname": False}, ["name the peer's authority"]),
    ],
)
def test_a_destination_that_cannot_work_is_refused(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SightlineError) as caught:
        Destination("pacs", **settings)  # type: ignore[arg-type]
    for word in words:
        assert word in caught.value.message
    assert "secret" not in caught.value.message


def test_files_of_a_destination_are_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(
        '[[destination]]\nname = "web"\nurl = "https://h/d"\ntoken_file = "t"\nauthority = "/etc/ca.pem"\n'
    )
    (destination,) = load_config(tmp_path / "node.toml").destinations
    assert destination.token_file == tmp_path / "t"
    assert destination.authority == Path("/etc/ca.pem")
