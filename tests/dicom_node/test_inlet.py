"""Whatever pieces bytes come in, the same bytes are taken; who stays silent is left."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.inlet import MAXIMUM_TAKEN_BYTES, Inlet

_LENGTHS = st.lists(st.integers(0, 3000) | st.just(MAXIMUM_TAKEN_BYTES), min_size=1, max_size=12)


@settings(deadline=None, max_examples=50)
@given(_LENGTHS, st.lists(st.integers(1, 90_000), min_size=1, max_size=6), st.booleans())
def test_what_is_taken_is_what_was_sent(lengths: list[int], pieces: list[int], known: bool) -> None:
    sent = bytes(n % 251 for n in range(sum(lengths)))
    ours, peers = socket.socketpair()

    def send() -> None:
        at = turn = 0
        while at < len(sent):
            size = max(pieces[turn % len(pieces)], len(sent) // 100)
            peers.sendall(sent[at : at + size])
            at, turn = at + size, turn + 1

    sender = threading.Thread(target=send)
    with ours, peers:
        inlet = Inlet(ours, 60.0)
        sender.start()
        taken, left = b"", len(sent)
        for length in lengths:
            left -= length
            taken += bytes(inlet.take(length, left if known else 0))
        sender.join()
        assert taken == sent
        assert not inlet.holds_some()


def test_bytes_that_were_read_ahead_are_told_of() -> None:
    ours, peers = socket.socketpair()
    with ours, peers:
        inlet = Inlet(ours, 10.0)
        peers.sendall(b"headbody")
        assert bytes(inlet.take(4)) == b"head"
        assert inlet.holds_some()
        assert bytes(inlet.take(4)) == b"body"


@pytest.mark.parametrize("following", [0, 100])
def test_a_silent_peer_is_an_error_and_so_is_one_that_has_closed(following: int) -> None:
    ours, peers = socket.socketpair()
    with ours, peers:
        inlet = Inlet(ours, 0.05)
        peers.sendall(b"abc")
        with pytest.raises(OSError):  # noqa: PT011  it is the kernel's time-out or ours
            inlet.take(4, following)
    ours, peers = socket.socketpair()
    with ours:
        inlet = Inlet(ours, 10.0)
        peers.sendall(b"abc")
        peers.close()
        with pytest.raises(ConnectionResetError):
            inlet.take(4, following)
