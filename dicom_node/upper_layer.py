"""pynetdicom's acceptor, waiting instead of polling and reading no PDU before it knows its length.

Not an upper layer of its own: states, timers, negotiation and every PDU but P-DATA-TF are pynetdicom's
(PS3.8 section 9). Three things are replaced. The two threads of an association block until there is
something to do; pynetdicom 3.0.4 wakes each a thousand times a second. The length of a PDU is checked
against what was announced before its body is read. C-STORE requests go the short way
(`dicom_node.store_requests`). The A-ASSOCIATE-RQ was read before there was a thread (`dicom_node.lobby`).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.inlet import MAXIMUM_TAKEN_BYTES, Inlet
from dicom_node.store_requests import Message, ProtocolError, StoreRequest, StoreRequests

logger = logging.getLogger(__name__)

# Announced to peers; the short way needs none of it in memory, pynetdicom's way all of it.
MAXIMUM_PDU_BYTES = 1 << 18
P_DATA_TF = 0x04
ABORT = struct.pack(">BxLxxBB", 0x07, 4, 2, 0)  # A-ABORT by the service provider (PS3.8 9.3.8)
_PDU_HEAD = struct.Struct(">BxL")
# Every other PDU that may come after the A-ASSOCIATE-RQ has this length (PS3.8 9.3.6 to 9.3.8).
_OTHER_PDU_BYTES = 4
# Some peers count the PDU's own head of six bytes, or an item's, into the length they may send.
_SLACK_BYTES = 12
# A wake-up that is missed, whatever the reason, costs no more than this.
_LOOK_AGAIN_SECONDS = 0.5
_MAXIMUM_OTHER_MESSAGE_BYTES = 4 << 20
_LINGER_SECONDS, _LINGER_BYTES = 0.2, 1 << 20


class _WakingQueue(queue.Queue[Any]):
    """A queue whose reader waits for sockets."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put, and wake the reader."""
        super().put(item, block, timeout)
        self._wake()


class UpperLayer(DULServiceProvider):
    """The DUL service provider of one accepted association.

    Parameters
    ----------
    assoc: the association.
    request: its A-ASSOCIATE-RQ PDU, whole.
    begin: see `StoreRequests`.
    """

    def __init__(
        self, assoc: StoreAssociation, request: bytes, begin: Callable[[StoreRequest], Message]
    ) -> None:
        super().__init__(assoc)
        self.daemon = True
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self.to_provider_queue = _WakingQueue(self.wake)
        self._request = request
        self._begin = begin
        self._is_called = False
        self._connection: socket.socket
        self._inlet: Inlet
        self._stores: StoreRequests

    @property
    def assoc(self) -> StoreAssociation:
        """The association."""
        return cast(StoreAssociation, self._assoc)

    def wake(self) -> None:
        """Have the thread look what there is to do."""
        self._is_called = True
        # Full: it has not looked at the wake-ups before this one yet. Closed: it has ended.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def kill_dul(self) -> None:
        """End the thread."""
        super().kill_dul()
        self.wake()

    def stop_dul(self) -> bool:
        """End the thread if the association is over, and wait for it."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        if threading.current_thread() is not self:
            self.join()
        return True

    def run_reactor(self) -> None:
        """The thread: one primitive or one PDU after the other until the association is over."""
        self._connection = self._association_socket()
        self._inlet = Inlet(self._connection, float(self.assoc.ae.network_timeout or 60.0))
        self._stores = StoreRequests(
            self._inlet, self._send_bytes, self._begin, self._take, _MAXIMUM_OTHER_MESSAGE_BYTES
        )
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        self._idle_timer.start()
        self.assoc._dul_ready.set()
        try:
            while not self._kill_thread:
                self._step(poll)
        except Exception as error:  # whatever a peer provokes ends with its association
            logger.warning("association aborted error=%s", type(error).__name__)
            with contextlib.suppress(OSError):
                self._send_bytes(ABORT)
            self.assoc.is_aborted, self.assoc.is_established = True, False
            self.assoc._kill = self._kill_thread = True
        finally:
            self._stores.close()
            # mypy sees this queue's type from a cache alone: an "ignore" is needed or unused by turns.
            waiting: Any = self.to_user_queue
            waiting.put(None)  # who still waits gets nothing
            self.assoc.wake()
            self._waker.close()
            self._woken.close()
            self._connection.close()

    def _association_socket(self) -> socket.socket:
        assert self.socket is not None
        assert self.socket.socket is not None
        return self.socket.socket

    def _step(self, poll: select.poll) -> None:
        """Take what comes first (an event, a primitive to send, a PDU) and do what the state asks for."""
        state = self.state_machine.current_state
        if self.artim_timer.expired:
            self.event_queue.put("Evt18")
        elif not self.event_queue.empty() or self._process_recv_primitive():
            pass
        elif state == "Sta2":
            request, self._request = self._request, b""
            self._guarded(lambda: self._take(request))
        elif state == "Sta13":
            self._drop_connection()
        elif self._has_input(poll):
            self._guarded(self._read_pdus)
        self._act()

    def _act(self) -> None:
        """Do what the events that have come in call for, one after the other (PS3.8 table 9-10)."""
        while not self._kill_thread:
            try:
                event = self.event_queue.get_nowait()
            except queue.Empty:
                return
            self.state_machine.do_action(event)
            self.assoc.wake()

    def _guarded(self, read: Callable[[], None]) -> None:
        """Read, and turn what goes wrong into the event that it is."""
        try:
            read()
        except ProtocolError as error:
            logger.warning("association aborted error=%s", error)
            self.event_queue.put("Evt19")  # unrecognised or invalid PDU
        except OSError:  # closed, reset, or silent in the middle of a PDU
            self.event_queue.put("Evt17")  # transport connection closed

    def _has_input(self, poll: select.poll) -> bool:
        """Wait for the peer or a wake-up; whether the peer has sent something."""
        holds_some = self._inlet.holds_some()
        if holds_some and not self._is_called:
            return True
        self._is_called = False
        wait = 0.0 if holds_some else _LOOK_AGAIN_SECONDS
        ready = {descriptor for descriptor, _event in poll.poll(wait * 1000)}
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
            ready.discard(self._woken.fileno())
        return bool(ready) or holds_some

    def _read_pdus(self) -> None:
        """Read one PDU, and the rest of the instance that it begins, unless there is something else to do."""
        self._read_pdu()
        while self._stores.is_under_way() and not self._is_called:
            self._read_pdu()

    def _read_pdu(self) -> None:
        """Read one PDU, once its length is known to be possible."""
        self._inlet.begin_pdu()
        head = bytes(self._inlet.take(_PDU_HEAD.size))
        kind, length = _PDU_HEAD.unpack(head)
        self._read_body(head, kind, length)
        self._idle_timer.restart()

    def _read_body(self, head: bytes, kind: int, length: int) -> None:
        if kind == P_DATA_TF:
            if length > MAXIMUM_PDU_BYTES + _SLACK_BYTES:
                raise ProtocolError("a P-DATA-TF PDU is longer than announced")
            if self.state_machine.current_state == "Sta6":
                self._stores.read_pdu(length)
                return
        elif kind not in range(0x01, 0x08) or length != _OTHER_PDU_BYTES:
            raise ProtocolError("a PDU of a type or length that cannot be")
        body = bytearray()
        while len(body) < length:
            body += self._inlet.take(min(length - len(body), MAXIMUM_TAKEN_BYTES))
        self._take(head + bytes(body))

    def _take(self, pdu: bytes) -> None:
        """Have pynetdicom decode a PDU whose length was checked, and act on it."""
        try:
            decoded, event = self._decode_pdu(bytearray(pdu))
        except Exception as error:  # its decoders raise whatever the bytes lead them to
            raise ProtocolError(f"a PDU cannot be decoded ({type(error).__name__})") from error
        self._recv_pdu.put(decoded)
        self.event_queue.put(event)
        self._act()

    def _drop_connection(self) -> None:
        """Sta13. What the peer still sends is read and dropped, or TCP would take back our last PDU."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(_LINGER_SECONDS)
            deadline, left = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
            while left > 0 and time.monotonic() < deadline and (n := len(self._connection.recv(1 << 16))):
                left -= n
        assert self.socket is not None
        self.socket.close()

    def _send_bytes(self, data: bytes) -> None:
        self._connection.sendall(data)


class StoreAssociation(Association):
    """One accepted association. Start it as the thread it is.

    Parameters
    ----------
    ae: of the receiver.
    connection: the peer's socket, connected, blocking, with a time-out; closed at the end.
    request: the peer's A-ASSOCIATE-RQ PDU, whole.
    contexts: what may be negotiated.
    begin: called with each C-STORE request and this association.
    ended: called when it is over.
    """

    dul: UpperLayer

    def __init__(
        self,
        ae: AE,
        connection: socket.socket,
        request: bytes,
        *,
        contexts: Sequence[PresentationContext],
        begin: Callable[[StoreRequest, StoreAssociation], Message],
        ended: Callable[[StoreAssociation], None],
    ) -> None:
        super().__init__(ae, "acceptor")
        self._ended = ended
        self._wake = threading.Event()
        self._agreed: dict[int, tuple[str, str]] = {}
        self.dul = UpperLayer(self, request, lambda store: begin(store, self))
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout  # for its timers
        self.set_socket(AssociationSocket(self, client_socket=connection))
        acceptor = self.acceptor
        acceptor.maximum_length = ae.maximum_pdu_size
        acceptor.ae_title = ae.ae_title
        acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        acceptor.implementation_class_uid = ae.implementation_class_uid
        acceptor.implementation_version_name = ae.implementation_version_name
        acceptor.supported_contexts = list(contexts)
        self.requestor.address_info = AddressInformation.from_tuple(connection.getpeername())

    def wake(self) -> None:
        """Have the thread look what there is to do."""
        self._wake.set()

    def context(self, context_id: int) -> tuple[str, str] | None:
        """Abstract and transfer syntax of an accepted presentation context, or None."""
        agreed = self._agreed.get(context_id)
        if agreed is None and (found := self._accepted_cx.get(context_id)) is not None:
            agreed = (str(found.abstract_syntax), str(found.transfer_syntax[0]))
            self._agreed[context_id] = agreed  # each look at pynetdicom's makes new UIDs
        return agreed

    def run_reactor(self) -> None:
        """The thread: negotiate, serve, and tell when it is over, however it ends."""
        try:
            super().run_reactor()
        except Exception as error:  # pynetdicom's negotiation raises on some requests that it could decode
            logger.warning("association aborted error=%s", type(error).__name__)
            self.dul.kill_dul()
        finally:
            self._ended(self)

    def _run_reactor(self) -> None:
        """Serve messages that are no C-STORE until the association ends, as pynetdicom's own does."""
        while not self._kill:
            if self.dimse.msg_queue.empty():
                self._wake.wait(_LOOK_AGAIN_SECONDS)
            self._wake.clear()
            context_id, message = self.dimse.get_msg(block=False)
            if message is not None:
                self._serve_request(message, cast(int, context_id))
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released, self.is_established = True, False
                evt.trigger(self, evt.EVT_RELEASED, {})
                self.kill()
            elif self.acse.is_aborted():
                self.dul.receive_pdu(wait=False)
                self.is_aborted, self.is_established = True, False
                evt.trigger(self, evt.EVT_ABORTED, {})
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired():
                self.abort()
                self.kill()
