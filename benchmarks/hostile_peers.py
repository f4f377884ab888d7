"""Peers that mean no good, against a real receiver: ``python -m benchmarks.hostile_peers --cases 10000``.

hypothesis makes the cases (`benchmarks.hostile_cases`): broken PDUs, command sets and data sets, UIDs that
are paths, headers of images that fit into no memory, deflate bombs, connections cut anywhere. Then come the
sieges: a thousand silent sockets, silent TLS clients, PDUs that announce 4 GiB, and with ``--files`` a folder
of malformed DICOM files. All the while the receiver must answer C-ECHO, stay below 64 MiB of further memory
and write nothing but its archive. Needs the test extra. ``tests/dicom_node/test_receiver_hostile.py`` is the
short form.
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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed

from benchmarks.hostile_cases import (
    AE_TITLE,
    CT,
    ROOT,
    Case,
    cases,
    data_set,
)
from benchmarks.raw_peer import (
    P_DATA,
    RawPeer,
    associate_request,
    fragment,
    pdu,
    store_command,
)
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.index import Instance

# The memory that one association may take beyond its PDU, and what Python itself may grow by meanwhile.
MAXIMUM_GROWTH_MIB = 64


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
        f"[receiver]\nrefuse_above_percent = 100.0\naccept_below_percent = 100.0\n{receiver}",
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
