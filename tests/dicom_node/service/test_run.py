"""The service as a process behind a real socket: with its token, with TLS, and refusing to be open."""

from __future__ import annotations

import dataclasses
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from dicom_node.config import Config, ServiceSettings, load_config
from dicom_node.errors import SightlineError
from dicom_node.service.access import access_token
from dicom_node.service.run import run_service
from tests.dicom_node.network import free_port, running_node, wait_until
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("run")
    tiny_checkpoint(folder / "checkpoint")
    return Config(archive=folder / "archive", checkpoint=folder / "checkpoint")


@contextmanager
def serving(base: Config, **settings: Any) -> Iterator[Config]:
    """The service in a thread, ready; its configuration."""
    config = dataclasses.replace(base, service=ServiceSettings(port=free_port(), **settings))
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=run_service, args=(config, stop, ready.set))
    thread.start()
    try:
        wait_until(lambda: ready.is_set() or not thread.is_alive(), 120, "the service")
        assert ready.is_set()
        yield config
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_without_settings_a_token_is_drawn_for_its_owner_only(base: Config) -> None:
    with serving(base) as config:
        url = f"http://127.0.0.1:{config.service.port}/api/1"
        path = config.archive / "service.token"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        token = path.read_text("ascii").strip()
        assert httpx.get(f"{url}/health").json()["service"] == "sightline"
        assert httpx.get(f"{url}/studies").status_code == 401
        answer = httpx.get(f"{url}/studies", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.headers["x-sightline-api"]) == (200, "1")
        assert "server" not in answer.headers
        with socket.create_connection(("127.0.0.1", config.service.port), timeout=10) as raw:
            raw.sendall(b"\x16\x03\x01 no http at all\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
        with pytest.raises(SightlineError, match=f"service.port = {config.service.port}: cannot listen"):
            run_service(config, threading.Event(), lambda: None)
    assert access_token(base) == token  # the same after a restart


def test_tls_with_client_certificates_needs_no_token(base: Config, tmp_path: Path) -> None:
    authority, clients = trustme.CA(), trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), clients.issue_cert("workstation")
    names = {"certificate": "a.crt", "key": "a.key", "client_authority": "clients.crt"}
    paths = {setting: tmp_path / name for setting, name in names.items()}
    server.cert_chain_pems[0].write_to_path(paths["certificate"])
    server.private_key_pem.write_to_path(paths["key"])
    clients.cert_pem.write_to_path(paths["client_authority"])
    with serving(base, **paths) as config:
        url = f"https://127.0.0.1:{config.service.port}/api/1/studies"
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=trusting)
        client.configure_cert(trusting)
        assert httpx.get(url, verify=trusting).status_code == 200


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "ASCII"), ("short", "16 or more"), ("with some spaces in it", "spaces"), ("ü" * 20, "ASCII")],
)
def test_a_token_that_is_none_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "token"
    path.write_text(content, encoding="utf-8")
    config = Config(archive=tmp_path, service=ServiceSettings(token_file=path))
    with pytest.raises(SightlineError, match=words):
        access_token(config)
    path.unlink()
    with pytest.raises(SightlineError, match="cannot be read"):
        access_token(config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('address = "0.0.0.0"', ["service.address", "token_file"]),
        ('address = "here"', ["service.address", "IP address"]),
        ("port = 0", ["service.port", "1 to 65535"]),
        ("cache_mib = 0", ["service.cache_mib", "more than 0"]),
        ('certificate = "a"', ["service.key", "missing"]),
        ('client_authority = "a"', ["service.client_authority", "HTTPS"]),
        ('tokenfile = "a"', ["service.tokenfile", "service.token_file"]),
    ],
)
def test_a_mistake_in_the_settings_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f"[service]\n{text}\n", encoding="utf-8")
    with pytest.raises(SightlineError) as caught:
        load_config(path)
    assert all(word in str(caught.value) for word in words)


def test_elsewhere_than_loopback_with_a_token_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[service]\naddress = "0.0.0.0"\ntoken_file = "token"\n', encoding="utf-8")
    assert load_config(path).service.token_file == tmp_path / "token"


def test_the_supervisor_runs_it_as_a_child_of_its_own(base: Config, tmp_path: Path) -> None:
    config = Config(port=free_port(), archive=tmp_path / "archive")
    config = dataclasses.replace(config, service=ServiceSettings(port=free_port()))
    with running_node(config, tmp_path, ["service"]):
        answer = httpx.get(f"http://127.0.0.1:{config.service.port}/api/1/health")
        assert answer.json()["research_only"] is True
    log = (tmp_path / "node.log").read_text("utf-8")
    assert "service ready" in log
    assert "health status=200" in log
