"""What hostile peers send, drawn by hypothesis: broken PDUs, command sets, data sets, UIDs that are paths.

Only bytes; who sends them, to whom, and what must not come of it is `benchmarks.hostile_peers`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage

from benchmarks.raw_peer import (
    ABORT,
    CT_CONTEXTS,
    P_DATA,
    associate_request,
    command_set,
    echo_command,
    fragment,
    pdu,
    store_command,
)

AE_TITLE = "SIGHTLINE"
CT = str(CTImageStorage)
ROOT = "2.25.306"
NAMES = (
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "",
    "1..2",
    "1.2/../3",
    "1.2.3\0../../x",
    "%2e%2e/x",
    "1." * 40,
    "é",
)


def data_set(sop_instance_uid: str, study: str = f"{ROOT}.1", *, rows: int = 8) -> bytes:
    """A CT image of 8 x 8, explicit VR little endian, whatever number of rows it claims."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = CT, sop_instance_uid
    image.PatientName, image.Modality = "Nobody", "CT"
    image.StudyInstanceUID, image.SeriesInstanceUID = study, f"{ROOT}.2"
    image.Rows = image.Columns = rows
    image.BitsAllocated = 16
    image.PixelData = bytes(128)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, image)
    return bytes(buffer.getvalue())


GOOD = data_set(f"{ROOT}.3")
IMAGE_46341 = data_set(f"{ROOT}.4", rows=46341)
_SEQUENCE = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
AWKWARD = {
    "nested": (_SEQUENCE + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 4000,
    "many": b"\x08\x00\x20\x00DA\x00\x00" * 150_000,
    "long": b"\x08\x00\x05\x00UT\0\0\xf0\xff\xff\xff" + bytes(64),
    "bomb": zlib.compress(bytes(50_000_000), 9),
    "empty": b"",
}


def mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """`original` with some bytes changed, and perhaps cut off or with something put in."""

    def mutate(changes: list[tuple[int, int]], cut: int, at: int, extra: bytes) -> bytes:
        data = bytearray(original)
        for place, value in changes:
            data[place % len(data)] = value
        data[at % len(data) : at % len(data)] = extra
        return bytes(data[: len(data) - cut % len(data)])

    byte = st.integers(0, 255)
    return st.builds(
        mutate,
        st.lists(st.tuples(st.integers(0, 1 << 16), byte), max_size=8),
        st.just(0) | st.integers(0, 1 << 16),
        st.integers(0, 1 << 16),
        st.just(b"") | st.binary(max_size=16),
    )


def _fragments(context: int, control: int, size: int, value: bytes) -> bytes:
    """A presentation data value that may lie about its size."""
    return struct.pack(">LBB", size, context, control) + value


def before_association() -> st.SearchStrategy[bytes]:
    """What is sent instead of an A-ASSOCIATE-RQ, or as one."""
    lengths = st.integers(0, (1 << 32) - 1)
    return st.one_of(
        st.binary(min_size=1, max_size=300),
        st.builds(pdu, st.integers(0, 255), st.binary(max_size=100), lengths),
        mutated(associate_request(AE_TITLE)),
        mutated(associate_request(AE_TITLE, contexts=CT_CONTEXTS * 40)),
    )


def within_association() -> st.SearchStrategy[bytes]:
    """What is sent once an association is open."""
    lengths = st.integers(0, (1 << 32) - 1)
    contexts, controls = st.sampled_from((1, 3, 5, 0, 255)), st.integers(0, 7)
    commands = st.one_of(
        mutated(store_command(CT, f"{ROOT}.3")),
        mutated(echo_command()),
        st.builds(command_set, st.dictionaries(st.integers(0, 0xFFFF), st.binary(max_size=20), max_size=6)),
    )
    return st.one_of(
        st.binary(min_size=1, max_size=300),
        st.builds(pdu, st.integers(0, 255), st.binary(max_size=100), lengths),
        st.builds(
            pdu, st.just(P_DATA), st.builds(_fragments, contexts, controls, lengths, st.binary(max_size=60))
        ),
        st.builds(lambda c, k, v: pdu(P_DATA, fragment(c, k, v)), contexts, controls, commands),
        st.builds(pdu, st.just(ABORT), st.binary(max_size=8)),
    )


@dataclass(frozen=True)
class Case:
    """One visit of a hostile peer: what it sends, with an association or without, and as what.

    Attributes
    ----------
    kind: for the counts.
    raw: bytes instead of or after the association request.
    store: request UID and data set of a C-STORE, where it is one.
    """

    kind: str
    raw: bytes = b""
    store: tuple[str, bytes] | None = None
    reset: bool = False


def cases() -> st.SearchStrategy[Case]:
    """All of them, about evenly."""
    uids = st.sampled_from(NAMES) | st.text(max_size=70)
    sets = st.one_of(
        mutated(GOOD),
        mutated(IMAGE_46341),
        st.binary(max_size=400),
        st.sampled_from(sorted(AWKWARD)).map(lambda name: AWKWARD[name]),
    )
    good = st.integers(10, 10_000).map(lambda n: f"{ROOT}.{n}")
    return st.one_of(
        st.builds(Case, st.just("before an association"), before_association(), reset=st.booleans()),
        st.builds(Case, st.just("within an association"), within_association(), reset=st.booleans()),
        st.builds(lambda uid: Case("a request's UID", store=(uid, data_set(f"{ROOT}.3"))), uids),
        st.builds(
            lambda uid, study: Case(
                "a data set's UIDs", store=(uid, GOOD.replace(f"{ROOT}.1".encode(), study))
            ),
            good,
            st.sampled_from([name.encode()[:10].ljust(10, b"\0") for name in NAMES]),
        ),
        st.builds(lambda data: Case("a data set", store=(f"{ROOT}.3", data)), sets),
        st.builds(lambda uid: Case("a good instance", store=(uid, data_set(uid))), good),
    )
