"""What a peer sends, taken from its socket in few system calls and without copies.

No protocol: it hands out so many bytes as it is asked for, as views of one buffer, and reads from the
socket what is missing. Each call into the kernel costs a thread its GIL; measured, a CT slice took 18
reads and 25 polls before there was this buffer, and takes about one read for each PDU now.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time

_BUFFER_BYTES = 1 << 19
# The most that one call may ask for: as much again may have been read ahead.
MAXIMUM_TAKEN_BYTES = _BUFFER_BYTES // 2


class Inlet:
    """The receiving end of one connection, for one thread.

    Parameters
    ----------
    connection: the socket, connected; it is made blocking.
    idle_seconds: how long the peer may be silent, and how long it may take over one PDU.
    """

    def __init__(self, connection: socket.socket, idle_seconds: float) -> None:
        self._connection = connection
        self._idle_seconds = idle_seconds
        self._deadline = time.monotonic() + idle_seconds
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        # TLS has no flags for a read, and polls in any case.
        self._whole = 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_WAITALL
        connection.settimeout(idle_seconds)
        if self._whole:
            # The kernel's own time-out; with Python's, each read and write begins with a poll.
            timeout = struct.pack("@ll", int(idle_seconds), int(idle_seconds % 1 * 1e6))
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)

    def holds_some(self) -> bool:
        """Whether there are bytes that no poll of the socket would tell of."""
        if self._end > self._start:
            return True
        return isinstance(self._connection, ssl.SSLSocket) and self._connection.pending() > 0

    def begin_pdu(self) -> None:
        """The peer may take its time over a PDU from now on."""
        self._deadline = time.monotonic() + self._idle_seconds

    def take(self, n: int, following: int = 0) -> memoryview:
        """The next `n` bytes, which stand in the view until the next call.

        Parameters
        ----------
        n: at most `MAXIMUM_TAKEN_BYTES`.
        following: so many more will come for sure; they are waited for in the same call to the kernel.
            Without them whatever has come is taken.

        Raises
        ------
        OSError: the peer has closed the connection, or is silent, or takes too long.
        """
        if self._end - self._start < n:
            self._read(n, following)
        start = self._start
        self._start += n
        return self._view[start : self._start]

    def _read(self, n: int, following: int) -> None:
        held = self._end - self._start
        if held == 0:
            self._start = self._end = 0
        elif self._start + n > _BUFFER_BYTES:
            self._view[:held] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, held
        flags = self._whole if following else 0
        goal = self._start + n
        limit = min(goal + following, _BUFFER_BYTES) if flags else _BUFFER_BYTES
        while self._end < goal:
            if not flags:
                got = self._connection.recv_into(self._view[self._end : limit])
            else:
                got = self._connection.recv_into(self._view[self._end : limit], limit - self._end, flags)
            if got == 0:
                raise ConnectionResetError("the peer closed the connection")
            self._end += got
            if self._end < goal and time.monotonic() > self._deadline:
                raise TimeoutError("the peer took too long over a PDU")
