"""Peers that mean no good, against a real receiver: ``python -m benchmarks.hostile_peers --cases 10000``.

hypothesis makes the cases: broken PDUs, command sets and data sets, UIDs that are paths, headers of images
that fit into no memory, deflate bombs, connections cut anywhere. Then come the sieges: a thousand silent
sockets, silent TLS clients, PDUs that announce 4 GiB, and with ``--files`` a folder of malformed DICOM
files. All the while the receiver must answer C-ECHO, stay below 64 MiB of further memory and write nothing
but its archive. Needs the test extra. ``tests/dicom_node/test_receiver_hostile.py`` is the short form.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import re
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage

from benchmarks.raw_peer import (
    ABORT,
    CT_CONTEXTS,
    P_DATA,
    RawPeer,
    associate_request,
    command_set,
    echo_command,
    fragment,
    pdu,
    store_command,
)
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.index import Instance

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
# The memory that one association may take beyond its PDU, and what Python itself may grow by meanwhile.
MAXIMUM_GROWTH_MIB = 64


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


@dataclass
class Siege:
    """A receiver in a process of its own, what was done to it, and how it stood it.

    Attributes
    ----------
    counts: cases by kind and answer.
    echo_seconds: of every C-ECHO that was asked for in between.
    """

    config: Config
    folder: Path
    process: subprocess.Popen[bytes]
    counts: Counter[str] = field(default_factory=Counter)
    echo_seconds: list[float] = field(default_factory=list)
    started_with_mib: float = 0.0

    def visit(self, case: Case) -> None:
        """Let one hostile peer in."""
        with RawPeer(self.config.port, 30) as peer, contextlib.suppress(ConnectionError):
            if case.kind != "before an association":
                assert peer.associate(AE_TITLE), "an ordinary association was refused"
            if case.store is not None:
                status = peer.store(CT, *case.store)
                self.counts[f"{case.kind}: {'ended' if status is None else f'0x{status:04X}'}"] += 1
                assert case.kind != "a good instance" or status == 0, f"a good instance got {status}"
                return
            self.counts[case.kind] += 1
            peer.send(case.raw)
            if case.reset:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            with contextlib.suppress(OSError):  # the receiver was faster
                peer.socket.shutdown(socket.SHUT_WR)
            while peer.receive()[0]:
                pass

    def echo(self, timeout: float = 30.0) -> None:
        """Ask for a C-ECHO over an association of its own and note how long that took."""
        start = time.perf_counter()
        with RawPeer(self.config.port, timeout) as peer:
            assert peer.associate(AE_TITLE), "an ordinary association was refused"
            assert peer.echo(), "C-ECHO was not answered"
        self.echo_seconds.append(time.perf_counter() - start)

    def check(self) -> None:
        """Alive, no larger than allowed, and nothing written that is not the archive's.

        Raises
        ------
        AssertionError: one of these does not hold.
        """
        log = (self.folder / "log").read_text("utf-8", "replace")
        assert self.process.poll() is None, f"the receiver died: {log[-2000:]}"
        assert "Traceback" not in log, log[log.index("Traceback") - 200 :][:4000]
        growth = self.peak_mib() - self.started_with_mib
        assert growth < MAXIMUM_GROWTH_MIB, f"the receiver grew by {growth:.0f} MiB"
        assert {path.name for path in self.folder.iterdir()} <= {"archive", "log", "node.toml"}
        allowed = re.compile(
            r"instances/[0-9a-f]{2}/[0-9a-f]{64}\.dcm|index\.sqlite(-wal|-shm)?|incoming/[0-9a-f]{16}/[0-9a-f]{32}\.part"
            r"|log\.key|audit/\d{4}-\d\d-\d\d\.xml-lines"
        )
        for path in self.config.archive.rglob("*"):
            if path.is_file():
                assert allowed.fullmatch(str(path.relative_to(self.config.archive))), path

    def check_archive(self) -> int:
        """Every row has its file with its bytes, and every file its row; how many there are."""
        archive = Archive.open(self.config)
        with archive.index.reading() as session:
            kept = list(session.scalars(sa.select(Instance)))
        archive.index.close()
        for row in kept:
            content = archive.path(row.sop_instance_uid).read_bytes()
            start = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
            assert hashlib.sha256(content[start:]).hexdigest() == row.sha256
        files = list(self.config.archive.glob("instances/*/*"))
        assert len(files) == len(kept)
        return len(kept)

    def summary(self) -> str:
        """How fast it answered and how large it grew, in a line."""
        seconds = sorted(self.echo_seconds)
        return (
            f"C-ECHO {len(seconds)} times, median {1000 * seconds[len(seconds) // 2]:.0f} ms, longest "
            f"{1000 * seconds[-1]:.0f} ms, longer than a second {sum(s > 1 for s in seconds)}; memory "
            f"{self.started_with_mib:.0f} MiB at the start, {self.peak_mib():.0f} MiB at most"
        )

    def peak_mib(self) -> float:
        """The receiver's largest resident memory so far, MiB (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


@contextlib.contextmanager
def besieged(folder: Path, receiver: str = "") -> Iterator[Siege]:
    """A receiver with an archive in `folder`, ready, and ended with it.

    Parameters
    ----------
    receiver: further lines of its ``[receiver]`` table.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = Config(ae_title=AE_TITLE, port=port, archive=folder / "archive")
    (folder / "node.toml").write_text(
        f'port = {port}\narchive = "archive"\nreserve_gib = 0.0\nassociation_idle_seconds = 5\n'
        f"[receiver]\n{receiver}",
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "dicom_node.processes",
        "receiver",
        "--config",
        str(folder / "node.toml"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while b"receiver ready" not in (folder / "log").read_bytes():
            assert process.poll() is None, (folder / "log").read_text("utf-8")
            assert time.monotonic() < deadline, "the receiver does not become ready"
            time.sleep(0.1)
        yield Siege(config, folder, process)
    finally:
        process.kill()
        process.wait()


def visits(siege: Siege, n: int, seed: int) -> None:
    """`n` cases, a C-ECHO after every tenth, and everything checked after every hundredth.

    Raises
    ------
    AssertionError: from the smallest case that shows it, which hypothesis prints.
    """
    done = 0
    siege.echo()
    siege.visit(Case("a good instance", store=(f"{ROOT}.9", data_set(f"{ROOT}.9"))))
    siege.started_with_mib = siege.peak_mib()

    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases())
    def visit(case: Case) -> None:
        nonlocal done
        done += 1
        siege.visit(case)
        if done % 10 == 0:
            siege.echo()
        if done % 100 == 0:
            siege.check()
        if done % 500 == 0:
            print(f"{done} cases: {siege.summary()}", flush=True)

    seeded = hypothesis_seed(seed)(visit)
    seeded()
    siege.check()


def silent_sockets(siege: Siege, n: int) -> None:
    """`n` connections that say nothing, or only the beginning of a request, and C-ECHO among them."""
    with contextlib.ExitStack() as stack:
        for k in range(n):
            peer = stack.enter_context(RawPeer(siege.config.port, 30))
            if k % 3 == 0:
                with contextlib.suppress(ConnectionError):
                    peer.send(associate_request(AE_TITLE)[: 1 + k % 70])
            if k % 50 == 0:
                siege.echo()
        for _ in range(20):
            siege.echo()
    siege.counts["silent sockets"] += n
    siege.check()


def giant_pdus(siege: Siege, n: int) -> None:
    """PDUs that announce up to 4 GiB and then send as fast as they may, before and in an association."""
    for k in range(n):
        with RawPeer(siege.config.port, 30) as peer, contextlib.suppress(ConnectionError):
            if k % 2:
                assert peer.associate(AE_TITLE)
            peer.send(struct.pack(">BxL", P_DATA if k % 2 else 1, 0xFFFFFFF0 >> k % 8))
            for _ in range(256):
                peer.send(bytes(1 << 18))
            raise AssertionError("64 MiB of a PDU were taken that is longer than any may be")
        siege.echo()
    siege.counts["giant PDUs"] += n
    siege.check()


def malformed_files(siege: Siege, folder: Path) -> None:
    """Every file of a folder as the data set of a C-STORE: the whole file, and what pydicom makes of it."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        uid = f"{ROOT}.{int(hashlib.sha256(content).hexdigest()[:12], 16)}"
        siege.visit(Case("a malformed file, whole", store=(uid, content)))
        with contextlib.suppress(Exception):  # as a sender that trusts its own file would send it
            image = pydicom.dcmread(path, force=True)
            start = content.find(b"DICM") + 4
            siege.visit(Case("a malformed file", store=(str(image.SOPInstanceUID), content[start:])))
        siege.echo()
    siege.check()


def fill_an_association(siege: Siege, mib: int) -> None:
    """One instance of `mib` MiB over one association: it goes to the disk, not into memory."""
    uid = f"{ROOT}.8"
    head = data_set(uid)
    with RawPeer(siege.config.port, 60) as peer:
        assert peer.associate(AE_TITLE)
        peer.send(pdu(P_DATA, fragment(3, 3, store_command(CT, uid))) + pdu(P_DATA, fragment(3, 0, head)))
        for _ in range(mib * 8):
            peer.send(pdu(P_DATA, fragment(3, 0, bytes(1 << 17))))
        siege.echo()
        peer.send(pdu(P_DATA, fragment(3, 2, b"")))
        assert peer.status() == 0
    siege.counts[f"an instance of {mib} MiB"] += 1
    siege.check()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_peers", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--files", type=Path, help="folder of malformed DICOM files")
    given_arguments = parser.parse_args(arguments)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (4096, max(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    )
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name, besieged(Path(name)) as siege:
        print(f"seed {given_arguments.seed}", flush=True)
        visits(siege, given_arguments.cases, given_arguments.seed)
        sieges: list[Callable[[], None]] = [
            lambda: silent_sockets(siege, 1000),
            lambda: giant_pdus(siege, 50),
            lambda: fill_an_association(siege, 256),
        ]
        if given_arguments.files is not None:
            folder = given_arguments.files
            sieges.append(lambda: malformed_files(siege, folder))
        for one in sieges:
            one()
        kept = siege.check_archive()
        for kind, count in sorted(siege.counts.items()):
            print(f"{count:6d}  {kind}")
        print(
            f"{sum(siege.counts.values())} visits in {time.monotonic() - start:.0f} s, {kept} instances kept"
        )
        print(siege.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
