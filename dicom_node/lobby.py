"""The door of the receiver: connections wait here, without a thread, until they ask for an association.

Not an upper layer: it reads one PDU, the A-ASSOCIATE-RQ, and hands the connection on. One thread serves
all that wait, so a thousand silent sockets cost a thousand file descriptors and nothing else; TLS
handshakes run here too, in pieces, so that a silent client holds up nobody. Who waits longest is shown
out first when it gets too full, and everybody after a while (the ARTIM timer of PS3.8 section 9.1.5).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dicom_node.association_policy import A_ASSOCIATE_RQ, MAXIMUM_REQUEST_BYTES

logger = logging.getLogger(__name__)

_HEAD_BYTES = 6
_TICK_SECONDS = 0.25
_OTHERS_FIRST_SECONDS = 0.005
_NO_DESCRIPTORS_PAUSE_SECONDS = 0.1
# Of requests that are under way, together.
_MAXIMUM_HELD_BYTES = 32 << 20


@dataclass
class _Visitor:
    """A connection that has not asked yet."""

    connection: socket.socket
    address: str
    arrived: float
    shaking_hands: bool
    request: bytearray = field(default_factory=bytearray)

    def missing(self) -> int:
        """How many bytes of its A-ASSOCIATE-RQ are still to come.

        Raises
        ------
        ValueError: what came is none.
        """
        if len(self.request) < _HEAD_BYTES:
            return _HEAD_BYTES - len(self.request)
        kind, length = struct.unpack_from(">BxL", self.request)
        if kind != A_ASSOCIATE_RQ or length > MAXIMUM_REQUEST_BYTES:
            raise ValueError("the first PDU is no A-ASSOCIATE-RQ, or too long")
        return int(length) + _HEAD_BYTES - len(self.request)


class Lobby:
    """Accepts connections on a listening socket.

    Parameters
    ----------
    listener: the socket; it may be shared with other processes. Closed at the end.
    may_connect: whether an IP address may come in at all.
    admit: takes a connection (blocking), its address and its A-ASSOCIATE-RQ PDU, whole.
    others_first: whether another process that shares the listener has less to do.
    tls: for connections with TLS; None for plain ones.
    maximum_waiting, request_seconds: see `ReceiverSettings`.
    """

    def __init__(
        self,
        listener: socket.socket,
        may_connect: Callable[[str], bool],
        admit: Callable[[socket.socket, str, bytes], None],
        *,
        others_first: Callable[[], bool],
        tls: ssl.SSLContext | None,
        maximum_waiting: int,
        request_seconds: float,
    ) -> None:
        self._listener = listener
        self._may_connect = may_connect
        self._admit = admit
        self._others_first = others_first
        self._tls = tls
        self._maximum_waiting = maximum_waiting
        self._request_seconds = request_seconds
        self._visitors: dict[int, _Visitor] = {}  # by descriptor, who came first first
        self._held = 0
        self._selector = selectors.DefaultSelector()
        self._stopper, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="lobby", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """Stop accepting and close what waits."""
        self._stopper.send(b"\0")
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._serve():
                self._show_out_the_late()
        finally:
            for visitor in list(self._visitors.values()):
                self._close(visitor)
            for open_one in (self._listener, self._stopper, self._stopped, self._selector):
                open_one.close()

    def _serve(self) -> bool:
        """Wait for something to happen and deal with it; False when it is time to stop."""
        for key, _events in self._selector.select(_TICK_SECONDS):
            if key.fileobj is self._stopped:
                return False
            try:
                if key.fileobj is self._listener:
                    self._accept()
                elif (visitor := self._visitors.get(key.fd)) is not None:
                    self._listen_to(visitor)
            except Exception as error:  # one visitor never closes the door for the others
                logger.error("lobby error=%s", type(error).__name__)
        return True

    def _accept(self) -> None:
        if self._others_first():
            time.sleep(_OTHERS_FIRST_SECONDS)
        try:
            connection, name = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                logger.error("no connection can be accepted error=%s", error.strerror)
                self._make_room()
                time.sleep(_NO_DESCRIPTORS_PAUSE_SECONDS)
            return  # another process took it, or the peer has left again
        address = str(name[0])
        if not self._may_connect(address):
            logger.warning("connection refused address=%s", address)
            connection.close()
            return
        if len(self._visitors) >= self._maximum_waiting:
            self._make_room()
        try:
            self._welcome(connection, address)
        except OSError:  # the peer has left again
            connection.close()

    def _welcome(self, connection: socket.socket, address: str) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        visitor = _Visitor(connection, address, time.monotonic(), shaking_hands=self._tls is not None)
        self._visitors[connection.fileno()] = visitor
        self._selector.register(connection, selectors.EVENT_READ)

    def _make_room(self) -> None:
        """Show out who waits longest."""
        for visitor in list(self._visitors.values())[:1]:
            logger.warning("connection closed address=%s reason=too many wait", visitor.address)
            self._close(visitor)

    def _show_out_the_late(self) -> None:
        now = time.monotonic()
        for visitor in list(self._visitors.values()):
            if now - visitor.arrived < self._request_seconds:
                return
            logger.warning("connection closed address=%s reason=no request came", visitor.address)
            self._close(visitor)

    def _listen_to(self, visitor: _Visitor) -> None:
        """Go on with the handshake or the request, as far as bytes have come."""
        try:
            if visitor.shaking_hands:
                self._shake_hands(visitor)
            while not visitor.shaking_hands and (missing := visitor.missing()):
                data = visitor.connection.recv(missing)
                if not data:
                    self._close(visitor)
                    return
                visitor.request += data
                self._held += len(data)
            if not visitor.shaking_hands:
                self._hand_on(visitor)
        except (BlockingIOError, ssl.SSLWantReadError):
            while self._held > _MAXIMUM_HELD_BYTES:
                self._make_room()
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else error
            logger.warning("connection closed address=%s reason=%s", visitor.address, reason)
            self._close(visitor)

    def _shake_hands(self, visitor: _Visitor) -> None:
        assert isinstance(visitor.connection, ssl.SSLSocket)
        try:
            visitor.connection.do_handshake()
        except ssl.SSLWantWriteError:
            self._selector.modify(visitor.connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return
        except ssl.SSLWantReadError:
            self._selector.modify(visitor.connection, selectors.EVENT_READ)
            return
        visitor.shaking_hands = False
        self._selector.modify(visitor.connection, selectors.EVENT_READ)

    def _hand_on(self, visitor: _Visitor) -> None:
        self._forget(visitor)
        self._admit(visitor.connection, visitor.address, bytes(visitor.request))

    def _close(self, visitor: _Visitor) -> None:
        self._forget(visitor)
        with contextlib.suppress(OSError):
            visitor.connection.close()

    def _forget(self, visitor: _Visitor) -> None:
        self._selector.unregister(visitor.connection)
        del self._visitors[visitor.connection.fileno()]
        self._held -= len(visitor.request)
