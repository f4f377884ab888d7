"""The short way of a C-STORE request: from the socket to a file, without a DIMSE message in between.

Not a DIMSE provider: only C-STORE-RQ is understood (PS3.7 section 9.3.1), every other message is handed
to pynetdicom whole. pynetdicom 3.0.4 holds an instance in memory several times over and hops threads
for each PDU; measured, its receiving of nothing at all is slower than what is asked of this node with
every instance fsynced (`benchmarks.receive`). Here the fragments of PS3.8 annex E go straight to disk.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dicom_node.inlet import MAXIMUM_TAKEN_BYTES, Inlet

# Command fields (PS3.7 table E.1-1).
_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001
_NO_DATA_SET = 0x0101
_COMMAND, _LAST = 0x01, 0x02  # bits of the message control header (PS3.8 annex E.2)
_MAXIMUM_COMMAND_BYTES = 1 << 16
_PDV_HEAD = struct.Struct(">LBB")


class ProtocolError(Exception):
    """The peer sent what PS3.7 or PS3.8 does not allow; the association ends with an A-ABORT."""


class Message(Protocol):
    """One C-STORE request under way; what becomes of its data set."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the data set. Never raises for what is only wrong with this instance."""

    def finish(self) -> int:
        """The data set is whole: keep it and return the status of the response."""

    def discard(self) -> None:
        """The association ended first: leave nothing behind."""


@dataclass(frozen=True)
class StoreRequest:
    """The command set of a C-STORE-RQ.

    Attributes
    ----------
    context_id: of the presentation context.
    message_id: to be named in the response.
    sop_class_uid, sop_instance_uid: as they came, unchecked.
    """

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


class StoreRequests:
    """The DIMSE messages of one association, fed from its P-DATA-TF PDUs.

    Parameters
    ----------
    inlet: what the peer sends.
    send: sends bytes.
    begin: called with each C-STORE request; returns what takes its data set.
    hand_over: called with P-DATA-TF bytes of every message that is no C-STORE request.
    maximum_other_bytes: the longest such message.
    """

    def __init__(
        self,
        inlet: Inlet,
        send: Callable[[bytes], None],
        begin: Callable[[StoreRequest], Message],
        hand_over: Callable[[bytes], None],
        maximum_other_bytes: int,
    ) -> None:
        self._inlet = inlet
        self._send = send
        self._begin = begin
        self._hand_over = hand_over
        self._maximum_other_bytes = maximum_other_bytes
        self._command = b""
        self._request: StoreRequest | None = None
        self._message: Message | None = None
        self._other_bytes = 0  # of a message that is none of ours

    def is_under_way(self) -> bool:
        """Whether an instance has begun and is not finished, so that more of it is due."""
        return self._message is not None

    def read_pdu(self, length: int) -> None:
        """Take the body of a P-DATA-TF PDU of `length` bytes (PS3.8 section 9.3.5).

        Raises
        ------
        ProtocolError: its items do not add up, or do not make messages.
        """
        while length:
            if length < 6:
                raise ProtocolError("a P-DATA-TF PDU ends within an item")
            size, context_id, control = _PDV_HEAD.unpack(self._inlet.take(6, length - 6))
            size -= 2
            length -= 6 + size
            if size < 0 or length < 0:
                raise ProtocolError("a presentation data value is longer than its PDU")
            if control & _COMMAND:
                self._read_command(size, context_id, bool(control & _LAST))
            else:
                self._read_data(size, context_id, bool(control & _LAST), length)

    def close(self) -> None:
        """The association ended; leave nothing of an unfinished instance."""
        if self._message is not None:
            self._message.discard()
            self._message = None

    def _read_command(self, size: int, context_id: int, last: bool) -> None:
        if self._message is not None or self._other_bytes:
            raise ProtocolError("a command came where a data set was due")
        if len(self._command) + size > _MAXIMUM_COMMAND_BYTES:
            raise ProtocolError("a command set of more than 64 KiB")
        self._command += bytes(self._inlet.take(size))
        if not last:
            return
        command, self._command = self._command, b""
        elements = command_elements(command)
        self._request = store_request(elements, context_id)
        if self._request is not None:
            self._message = self._begin(self._request)
            return
        self._hand_over(p_data(context_id, _COMMAND | _LAST, command))
        self._other_bytes = int(has_data_set(elements))

    def _read_data(self, size: int, context_id: int, last: bool, following: int) -> None:
        if self._other_bytes:
            self._read_other(size, context_id, last)
            return
        if self._message is None or self._request is None or context_id != self._request.context_id:
            raise ProtocolError("a data set came without its command")
        while size:
            n = min(size, MAXIMUM_TAKEN_BYTES)
            size -= n
            self._message.write(self._inlet.take(n, size + following))
        if last:
            status = self._message.finish()
            self._message = None
            self._send(store_response(self._request, status))

    def _read_other(self, size: int, context_id: int, last: bool) -> None:
        self._other_bytes += size
        if self._other_bytes > self._maximum_other_bytes:
            raise ProtocolError("a message that stores nothing is too long")
        fragment = bytearray()
        while len(fragment) < size:
            fragment += self._inlet.take(min(size - len(fragment), MAXIMUM_TAKEN_BYTES))
        self._hand_over(p_data(context_id, _LAST if last else 0, bytes(fragment)))
        if last:
            self._other_bytes = 0


def command_elements(command: bytes) -> dict[int, bytes]:
    """Element number -> value of a command set (group 0000, implicit VR little endian, PS3.7 6.3.1).

    Raises
    ------
    ProtocolError: it is none.
    """
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(command):
        if at + 8 > len(command):
            raise ProtocolError("a command set breaks off")
        group, element, length = struct.unpack_from("<HHL", command, at)
        at += 8 + length
        if group or at > len(command):
            raise ProtocolError("a command set holds what is no command element")
        elements[element] = command[at - length : at]
    return elements


def store_request(elements: dict[int, bytes], context_id: int) -> StoreRequest | None:
    """The C-STORE request that the elements of a command set are, or None where it is another message.

    Raises
    ------
    ProtocolError: a C-STORE request that lacks what it must have.
    """
    if _number(elements, 0x0100) != _C_STORE_RQ:
        return None
    message_id = _number(elements, 0x0110)
    if message_id is None or not has_data_set(elements):
        raise ProtocolError("a C-STORE request without Message ID or data set")
    return StoreRequest(context_id, message_id, _uid(elements, 0x0002), _uid(elements, 0x1000))


def has_data_set(elements: dict[int, bytes]) -> bool:
    """Whether a data set follows a command set (PS3.7 section E.1, Command Data Set Type)."""
    return _number(elements, 0x0800) not in (None, _NO_DATA_SET)


def store_response(request: StoreRequest, status: int) -> bytes:
    """The P-DATA-TF PDU of a C-STORE-RSP (PS3.7 table 9.3-2)."""
    group = b"".join(
        (
            _element(0x0002, _padded(request.sop_class_uid)),
            _element(0x0100, struct.pack("<H", _C_STORE_RSP)),
            _element(0x0120, struct.pack("<H", request.message_id)),
            _element(0x0800, struct.pack("<H", _NO_DATA_SET)),
            _element(0x0900, struct.pack("<H", status)),
            _element(0x1000, _padded(request.sop_instance_uid)),
        )
    )
    command = _element(0x0000, struct.pack("<L", len(group))) + group
    return p_data(request.context_id, _COMMAND | _LAST, command)


def p_data(context_id: int, control: int, value: bytes) -> bytes:
    """A P-DATA-TF PDU of one presentation data value (PS3.8 table 9-22, annex E)."""
    item = struct.pack(">LBB", len(value) + 2, context_id, control) + value
    return struct.pack(">BxL", 0x04, len(item)) + item


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, element, len(value)) + value


def _number(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(elements: dict[int, bytes], element: int) -> str:
    """Undecodable bytes become what is no UID; the archive's own check follows."""
    return elements.get(element, b"").decode("ascii", "replace").rstrip("\0 ")


def _padded(uid: str) -> bytes:
    value = uid.encode("ascii", "replace")
    return value + b"\0" * (len(value) % 2)
