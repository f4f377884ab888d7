"""A DICOM peer made of bytes on a socket: it can be idle for nothing, and say what no library lets it say.

Not a DICOM implementation: it builds PDUs (PS3.8 section 9.3) and reads what comes back, and that is all.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from types import TracebackType

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

VERIFICATION = "1.2.840.10008.1.1"
CT_CONTEXTS = (
    (VERIFICATION, str(ExplicitVRLittleEndian)),
    (str(CTImageStorage), str(ExplicitVRLittleEndian)),
)
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
# PDU types.
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU; `length` is what it says of itself where that is not the truth."""
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def item(kind: int, body: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""
    return struct.pack(">BxH", kind, len(body)) + body


def associate_request(
    called: str,
    calling: str = "RAW",
    contexts: Sequence[tuple[str, str]] = CT_CONTEXTS,
    *,
    maximum_length: int = 16384,
) -> bytes:
    """An A-ASSOCIATE-RQ PDU that proposes (abstract syntax, transfer syntax) as contexts 1, 3, 5 ..."""
    proposed = b"".join(
        item(
            0x20,
            struct.pack(">BBBB", (2 * n + 1) & 0xFF, 0, 0, 0)
            + item(0x30, abstract.encode())
            + item(0x40, transfer.encode()),
        )
        for n, (abstract, transfer) in enumerate(contexts)
    )
    user = item(0x51, struct.pack(">L", maximum_length)) + item(0x52, b"2.25.305")
    fixed = struct.pack(">HH16s16s32x", 1, 0, called.encode().ljust(16), calling.encode().ljust(16))
    return pdu(ASSOCIATE_RQ, fixed + item(0x10, _APPLICATION_CONTEXT.encode()) + proposed + item(0x50, user))


def fragment(context_id: int, control: int, value: bytes) -> bytes:
    """A presentation data value item; `control` has bit 0 for a command and bit 1 for the last fragment."""
    return struct.pack(">LBB", len(value) + 2, context_id, control) + value


def command_set(elements: dict[int, bytes]) -> bytes:
    """A command set with its group length (PS3.7 section 6.3.1)."""
    group = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements.items())
    return struct.pack("<HHLL", 0, 0, 4, len(group)) + group


def store_command(sop_class_uid: str, sop_instance_uid: str, message_id: int = 1) -> bytes:
    """The command set of a C-STORE-RQ."""
    return command_set(
        {
            0x0002: _even(sop_class_uid),
            0x0100: struct.pack("<H", 0x0001),
            0x0110: struct.pack("<H", message_id),
            0x0700: struct.pack("<H", 0),
            0x0800: struct.pack("<H", 0),
            0x1000: _even(sop_instance_uid),
        }
    )


def echo_command(message_id: int = 1) -> bytes:
    """The command set of a C-ECHO-RQ."""
    return command_set(
        {
            0x0002: _even(VERIFICATION),
            0x0100: struct.pack("<H", 0x0030),
            0x0110: struct.pack("<H", message_id),
            0x0800: struct.pack("<H", 0x0101),
        }
    )


def _even(uid: str) -> bytes:
    value = uid.encode("utf-8", "surrogateescape")
    return value + b"\0" * (len(value) % 2)


class RawPeer:
    """A connection. A context manager."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: its type and body; (0, b"") where the peer has closed or reset the connection."""
        head = self._read(6)
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", head)
        return kind, self._read(length)

    def associate(
        self, called: str, calling: str = "RAW", contexts: Sequence[tuple[str, str]] = CT_CONTEXTS
    ) -> bool:
        """Ask for an association; whether it was accepted."""
        self.send(associate_request(called, calling, contexts))
        return self.receive()[0] == ASSOCIATE_AC

    def echo(self) -> bool:
        """C-ECHO in context 1; whether it was answered with success."""
        self.send(pdu(P_DATA, fragment(1, 3, echo_command())))
        return self.status() == 0

    def store(
        self, sop_class_uid: str, sop_instance_uid: str, data_set: bytes, context_id: int = 3
    ) -> int | None:
        """C-STORE; the status, or None where the association ended instead."""
        self.send(pdu(P_DATA, fragment(context_id, 3, store_command(sop_class_uid, sop_instance_uid))))
        for at in range(0, max(1, len(data_set)), 16000):
            last = at + 16000 >= len(data_set)
            self.send(pdu(P_DATA, fragment(context_id, 2 if last else 0, data_set[at : at + 16000])))
        return self.status()

    def status(self) -> int | None:
        """The status in the next response, or None where the association ended instead."""
        kind, body = self.receive()
        at = body.find(struct.pack("<HHL", 0, 0x0900, 2))
        return struct.unpack_from("<H", body, at + 8)[0] if kind == P_DATA and at >= 0 else None

    def _read(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            try:
                more = self.socket.recv(n - len(data))
            except ConnectionError:
                more = b""
            if not more:
                break
            data += more
        return data
