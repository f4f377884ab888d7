"""Every failure is one sentence that a person can act on; the panel goes on afterwards."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from SightlineLib.address import parseAddress
from SightlineLib.failures import fromStatus

from tests.slicer.harness import phantom
from tests.slicer.harness.operator import Operator
from tests.slicer.harness.server import SERIES, ContractServer
from tests.slicer.harness.waiting import wait_until

GRID = phantom.grid(spacing=20.0)


@pytest.fixture
def server():
    with ContractServer(GRID) as running:
        yield running


@pytest.fixture
def user(widget, scene, server):
    operator = Operator(widget, server.url)
    operator.choose(phantom.add_volume(GRID, SERIES))
    return operator


def ask(user):
    user.ask("lesion")
    user.wait()
    return user.says


@pytest.mark.parametrize(
    ("typed", "url", "loopback"),
    [
        ("127.0.0.1:8765", "http://127.0.0.1:8765", True),
        (" http://localhost:1/ ", "http://localhost:1", True),
        ("https://ct.example.org///", "https://ct.example.org", False),
        ("[::1]:80", "http://[::1]:80", True),
        ("http://10.0.0.5:8765/api/1/", "http://10.0.0.5:8765", False),
        ("http://host/sightline/", "http://host/sightline", False),
    ],
)
def test_an_address_is_made_one_that_can_be_called(typed, url, loopback):
    address = parseAddress(typed)
    assert (address.url, address.loopback) == (url, loopback)
    assert address.encrypted == url.startswith("https")


@pytest.mark.parametrize("typed", ["http://0.0.0.0:8765", "0.0.0.0:8765", "[::]:8765"])
def test_an_address_to_listen_on_is_refused_with_the_cure(typed):
    with pytest.raises(ValueError, match=r"type 127\.0\.0\.1:8765"):
        parseAddress(typed)


@pytest.mark.parametrize(
    "typed", ["ftp://host", "http://", "a b", "http://host:99999", "http://me:pw@host", "http://host?x=1"]
)
def test_what_is_no_address_is_said_so(typed):
    with pytest.raises(ValueError, match="is not an address of a server"):
        parseAddress(typed)


def test_no_address(user):
    user.ui.addressLine.setText(" ")
    assert ask(user).startswith("The server address is empty.")


def test_server_down(user):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    user.ui.addressLine.setText(f"127.0.0.1:{port}")
    assert ask(user) == (
        f"No Sightline server answers at http://127.0.0.1:{port}. "
        "Start it with 'sightline serve', or correct the address."
    )
    assert user.ui.serverLabel.text() == "Not connected"


def test_wrong_version(user, server):
    server.health["api"] = 2
    server.health["version"] = "0.9.0"
    assert ask(user) == (
        "The server (Sightline 0.9.0) speaks version 2 of the interface and this extension version 1. "
        "Update the older of the two."
    )
    assert not server.asked("/query")


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>router</html>"), (200, b"[]"), (200, b"{}"), (404, b""), (302, b"")]
)
def test_somebody_else_answers(user, server, status, body):
    server.overrides["/health"] = (status, body)
    assert ask(user).endswith("is not a Sightline server. Correct the address or its port.")


def test_wrong_token(user, server):
    server.token = "right"
    user.ui.tokenLine.setText("wrong")
    assert ask(user).startswith("The server does not accept the token.")
    user.click("testButton")
    user.wait()
    assert user.says.startswith("The server does not accept the token.")
    user.ui.tokenLine.setText("right")
    assert ask(user).startswith("Place 1")


def test_servers_can_be_changed_again_and_again(user, server):
    """The network of a server that is left must not go down with its last call."""
    for turn in range(20):
        user.ui.tokenLine.setText(str(turn))
        assert ask(user).startswith("Place 1")


def test_study_unknown(user, server):
    ask(user)
    # The study has gone from the archive since.
    server.known.clear()
    assert ask(user).endswith("is not in the archive. Send it to the node first.")
    # The server is asked anew who holds the series, and the user may send it.
    ask(user)
    assert len(server.asked(f"/series/{SERIES}")) == 2
    assert user.ui.consentFrame.isVisible()


def test_timeout(user, server):
    user.panel.session._patienceS = 1
    server.delays["/query"] = 3.0
    assert ask(user) == (
        f"The server at {server.url} did not answer within 1 s. It may be busy: ask again in a while."
    )


def test_connection_broken(user):
    """A server that promises more than it sends."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    user.ui.addressLine.setText(f"127.0.0.1:{listening.getsockname()[1]}")
    assert "broke before the answer was complete" in ask(user)
    thread.join()
    listening.close()


def test_refused_in_the_servers_own_words(user, server):
    server.overrides["/query"] = (
        422,
        json.dumps({"error": "It is <b>long</b>.", "cure": "Cut\nit."}).encode(),
    )
    assert ask(user) == "It is <b>long</b>. Cut it."


def test_server_failed(user, server):
    server.overrides["/query"] = (500, b"Traceback (most recent call last) ...")
    assert ask(user) == ("The server failed (HTTP 500). Its log says why; try again or tell whoever runs it.")


def test_answer_is_no_json(user, server):
    server.overrides["/query"] = (200, b"hello")
    assert ask(user).startswith("The answer of the server could not be understood.")


def test_answer_does_not_keep_the_contract(user, server, raised):
    server.overrides["/query"] = (200, b'{"places": []}')
    assert ask(user).startswith("The answer of the server could not be understood.")
    # For the log; the user sees the sentence alone.
    assert "does not keep the contract" in str(raised.pop())


def test_what_is_no_image_is_said_so(user, server):
    server.overrides["/heatmap"] = (200, b"not an image")
    assert ask(user) == "What the server sent is not an image that Slicer can read. Ask again."


def test_not_read_with_its_reason(user, server):
    server.state, server.reason = "refused", "The gantry is tilted."
    assert ask(user) == "The server has not read this CT: The gantry is tilted."


def test_job_failed(user, server):
    server.job_error = "The disk is full."
    user.ask("lesion")
    wait_until(lambda: user.ui.statusLabel.property("text") == "The disk is full.")


def test_nothing_asked(user, server):
    user.ask("   ")
    assert user.says == "Type what to look for, such as 'hypodense liver lesion'."
    assert server.requests == []


def test_heat_map_chosen_as_ct(user):
    ask(user)
    # The server is known, so that another CT is looked up at once.
    user.choose(user.panel.results.find("heatMap"))
    assert user.says == "'CT' has no CT in it. Choose the volume of the patient."


def test_no_place_found(user, server):
    server.positions = []
    assert ask(user) == "The server found no place for this."
    assert user.rows("hitsTable") == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "token"), (404, "unknown"), (409, "notReady"), (400, "refused"), (503, "broken"), (302, "broken")],
)
def test_each_status_without_words_has_a_sentence(status, kind):
    for body in (b"", b"[1]", b'{"error": 3}', b"\xff"):
        failure = fromStatus(status, body)
        assert failure.kind == kind
        assert len(failure.sentence) > 20
        assert "\n" not in failure.sentence


def test_a_long_answer_is_cut():
    assert len(fromStatus(400, json.dumps({"error": "x" * 9999}).encode()).sentence) < 400
