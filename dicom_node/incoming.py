"""One instance on its way from the network to the disk, and the four UIDs that its header tells.

Not a DICOM reader: the data set is written as it came, byte by byte, and only walked over as far as
(0020,000E). Nothing of it is held in memory, so an instance of gigabytes costs what a small one does.
The walk makes no objects and has a budget, because the header is an attacker's to write.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

# SOP Class, SOP Instance, Study Instance and Series Instance UID (PS3.6), in the order they come in.
_WANTED = {0x00080016: 0, 0x00080018: 1, 0x0020000D: 2, 0x0020000E: 3}
_LAST = 0x0020000E
# Explicit VRs with two reserved bytes and a length of four (PS3.5 table 7.1-1).
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
# Elements that one header may have before the series UID: the longest seen have some thousands.
_BUDGET = 100_000
_DEPTH = 32
# Writing out begins this often, so that the disk works while the network does.
_WRITE_OUT_BYTES = 1 << 18
# So much of the data set's beginning is kept in memory; a header that is longer is read from the file.
_HEAD_BYTES = 1 << 14


class UnreadableError(ValueError):
    """The data set is none, or is not what its transfer syntax says."""


@dataclass(frozen=True)
class HeaderUids:
    """The UIDs in a data set; empty where it has none."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


class IncomingFile:
    """A DICOM file (PS3.10) that grows as its data set arrives.

    Parameters
    ----------
    folder: where it lies until it is committed; nobody else writes there.
    sop_class_uid, sop_instance_uid, transfer_syntax_uid: for the file meta information.

    Raises
    ------
    OSError: it cannot be made or written (disk full, permissions).
    """

    def __init__(
        self, folder: Path, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> None:
        self.path = os.path.join(folder, f"{uuid.uuid4().hex}.part")
        self._syntax = transfer_syntax_uid
        self._head = b""
        self._digest = hashlib.sha256()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        head = file_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        self._start = self.size = self._written_out = 0
        self._append(memoryview(head))
        self._start = self.size

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the data set so far."""
        return self._digest.hexdigest()

    @property
    def data_set_size(self) -> int:
        """Bytes of the data set so far."""
        return self.size - self._start

    def write(self, data: memoryview) -> None:
        """Append to the data set."""
        if len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]
        self._append(data)
        self._digest.update(data)
        if self.size - self._written_out >= _WRITE_OUT_BYTES:
            # Starts the writing without waiting for it (Linux); fsync then finds little left to do.
            os.posix_fadvise(self._descriptor, self._written_out, 0, os.POSIX_FADV_DONTNEED)
            self._written_out = self.size

    def _append(self, data: memoryview) -> None:
        while data:
            n = os.write(self._descriptor, data)
            self.size += n
            data = data[n:]

    def header(self) -> HeaderUids:
        """The UIDs that the data set has, from its beginning or, where that is too short, from the file.

        Raises
        ------
        UnreadableError: it cannot be walked over.
        """
        with contextlib.suppress(UnreadableError):
            uids, is_whole = _uids(io.BytesIO(self._head), len(self._head), self._syntax)
            if is_whole:
                return uids
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(self._start)
            return header_uids(file, self.size, self._syntax)

    def sync(self) -> None:
        """Everything written is on disk when this returns."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file, which stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close and delete the file, if it is still there."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble and file meta information (PS3.10 section 7.1), explicit VR little endian."""
    elements = [
        _element(0x0001, b"OB", b"\x00\x01"),
        _element(0x0002, b"UI", sop_class_uid.encode("ascii")),
        _element(0x0003, b"UI", sop_instance_uid.encode("ascii")),
        _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii")),
        _element(0x0012, b"UI", PYNETDICOM_IMPLEMENTATION_UID.encode("ascii")),
        _element(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION.encode("ascii")),
    ]
    group = b"".join(elements)
    return bytes(128) + b"DICM" + _element(0x0000, b"UL", struct.pack("<L", len(group))) + group


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    length = struct.pack("<HL" if vr in _LONG_VRS else "<H", *((0,) if vr in _LONG_VRS else ()), len(value))
    return struct.pack("<HH2s", 0x0002, element, vr) + length + value


def header_uids(file: BinaryIO, end: int, transfer_syntax_uid: str) -> HeaderUids:
    """Walk over the data set that `file` stands before, up to (0020,000E).

    Parameters
    ----------
    file: binary, seekable.
    end: offset of the end of the data set in it.
    transfer_syntax_uid: how the data set is encoded (not deflated).

    Raises
    ------
    UnreadableError: it breaks off, is nested too deep, or has too many elements.
    """
    return _uids(file, end, transfer_syntax_uid)[0]


def _uids(file: BinaryIO, end: int, transfer_syntax_uid: str) -> tuple[HeaderUids, bool]:
    """The same, and whether an element beyond those that are wanted was seen."""
    walk = _Walk(file, end, transfer_syntax_uid)
    values = ["", "", "", ""]
    is_whole = False
    while not is_whole and (element := walk.element()) is not None:
        tag, length = element
        if tag > _LAST:
            is_whole = True
            continue
        place = _WANTED.get(tag)
        if place is not None and length != _UNDEFINED:
            values[place] = walk.text(length)
        else:
            walk.skip(length)
    return HeaderUids(*values), is_whole


class _Walk:
    """A position in a data set that moves from element to element."""

    def __init__(self, file: BinaryIO, end: int, transfer_syntax_uid: str) -> None:
        self._file = file
        self._end = end
        self._order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
        self._budget = _BUDGET
        start = file.read(6)
        file.seek(-len(start), os.SEEK_CUR)
        if len(start) < 6:
            raise UnreadableError("the data set is empty")
        # As pydicom does: some senders write implicit VR whatever was agreed on.
        explicit = start[4:6].isalpha() and start[4:6].isupper()
        self._explicit = explicit and transfer_syntax_uid != ImplicitVRLittleEndian
        self._vr = b""

    def element(self) -> tuple[int, int] | None:
        """Tag and length of the next element; None at the end of the data set."""
        head = self._file.read(8)
        if not head:
            return None
        self._budget -= 1
        if len(head) < 8 or self._budget < 0:
            raise UnreadableError("the header breaks off or has too many elements")
        group, number = struct.unpack(self._order + "HH", head[:4])
        self._vr = head[4:6]
        if not self._explicit or group == 0xFFFE:
            length = struct.unpack(self._order + "L", head[4:])[0]
        elif head[4:6] in _LONG_VRS:
            more = self._file.read(4)
            if len(more) < 4:
                raise UnreadableError("the header breaks off")
            length = struct.unpack(self._order + "L", more)[0]
        else:
            length = struct.unpack(self._order + "H", head[6:])[0]
        return group << 16 | number, length

    def text(self, length: int) -> str:
        """A UID's characters; whatever it cannot be is replaced, and so no UID afterwards."""
        if length > 1024:
            raise UnreadableError("a UID of more than 1024 bytes")
        return self._file.read(length).decode("ascii", "replace").rstrip("\0 ").lstrip()

    def skip(self, length: int, depth: int = 0) -> None:
        """Go past a value, item by item where its length is undefined (PS3.5 section 7.5)."""
        if length != _UNDEFINED:
            if self._file.tell() + length > self._end:
                raise UnreadableError("an element is longer than the data set")
            self._file.seek(length, os.SEEK_CUR)
            return
        if depth > _DEPTH:
            raise UnreadableError("sequences are nested too deep")
        outside = self._explicit
        self._explicit = outside and self._vr != b"UN"  # what is in an unknown value is implicit (6.2.2)
        while (element := self.element()) is not None:
            tag, inner = element
            if tag in (_SEQUENCE_END, _ITEM_END):
                self._explicit = outside
                return
            self.skip(inner, depth + 1)
        raise UnreadableError("a sequence has no end")
