"""Receiving, beside others in one run: ``python -m benchmarks.receive --out receive.json``.

The node's receiver (every instance fsynced and indexed before it is acknowledged), a plain pynetdicom SCP,
Orthanc and DCMTK's storescp, each sent the same CT images by 1, 4 and 8 DCMTK storescu at once; then the
node again with 20 idle associations. Needs Debian's ``dcmtk`` and ``orthanc``. Every figure is the median
of the rounds; the rounds go through all receivers in turn, so that a busy machine is busy for all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from benchmarks.raw_peer import RawPeer

# DCMTK waits 40 ms for a delayed acknowledgement at each C-STORE otherwise.
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
_ROWS = 512
_AE_TITLE = "BENCHMARK"


@dataclass(frozen=True)
class Measured:
    """One receiver with some senders and idle associations, over the rounds.

    Attributes
    ----------
    instances_per_second, cpu_ms: of each round; CPU time of the receiver alone, per instance, which a
        busy machine changes least.
    """

    receiver: str
    senders: int
    idle: int
    instances_per_second: list[float]
    cpu_ms: list[float]


def write_images(folder: Path, n: int) -> None:
    """One CT series of `n` images, 512 x 512 x 16 bit, as files."""
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    noise = np.random.default_rng(0).integers(-1000, 1000, (_ROWS, _ROWS), dtype=np.int16)
    for k in range(n):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientName, image.PatientID, image.Modality = "Benchmark", "BENCHMARK", "CT"
        image.SeriesNumber, image.InstanceNumber = 1, k + 1
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, k], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [0.8, 0.8], 1
        image.Rows = image.Columns = _ROWS
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleIntercept, image.RescaleSlope = 0, 1
        image.PixelData = np.roll(noise, k, 0).tobytes()
        image.save_as(folder / f"{k:05d}.dcm", enforce_file_format=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def node_command(processes: int) -> Callable[[int, Path], list[str]]:
    """How to start the node's receiver with so many processes on a port, with its archive in a folder."""

    def command(port: int, folder: Path) -> list[str]:
        config = folder / "node.toml"
        config.write_text(
            f'ae_title = "{_AE_TITLE}"\nport = {port}\narchive = "{folder / "archive"}"\nreserve_gib = 0.0\n'
            f"maximum_associations = 64\n[receiver]\nprocesses = {processes}\nmaximum_per_address = 64\n",
            encoding="utf-8",
        )
        return [sys.executable, "-m", "dicom_node.processes", "receiver", "--config", str(config)]

    return command


def plain_command(port: int, folder: Path) -> list[str]:
    """The plain pynetdicom SCP."""
    return [sys.executable, "-m", "benchmarks.plain_scp", str(port), str(folder)]


def orthanc_command(port: int, folder: Path) -> list[str]:
    """Orthanc with its defaults (SQLite, files fsynced), no HTTP server."""
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "DicomAet": _AE_TITLE,
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomAlwaysAllowStore": True,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    return ["Orthanc", str(folder / "orthanc.json")]


def storescp_command(port: int, folder: Path) -> list[str]:
    """DCMTK's storescp, a process for each association, writing as it came."""
    return ["storescp", "--fork", "--bit-preserving", "--max-pdu", "131072", "-od", str(folder), str(port)]


@dataclass(frozen=True)
class Running:
    """A receiver that listens on a port; `pid` is of its first process."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time so far of all its processes, those that have ended included (Linux)."""
        ticks, family = 0, {self.pid}
        for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                fields = (path / "stat").read_text("utf-8").rpartition(")")[2].split()
                if int(path.name) in family or int(fields[1]) in family:
                    family.add(int(path.name))
                    ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(command: Callable[[int, Path], list[str]], folder: Path) -> Iterator[Running]:
    """A receiver on a free port, which is yielded once it listens; killed and wiped at the end."""
    port = _free_port()
    folder.mkdir(parents=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command(port, folder), stdout=log, stderr=log, env=_ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it does not listen: {(folder / 'log').read_text('utf-8', 'replace')}")
            time.sleep(0.05)
        time.sleep(0.5)  # storescp and Orthanc listen before they are ready
        yield Running(port, process.pid)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def send(port: int, folders: Sequence[Path]) -> float:
    """Seconds that as many storescu as there are folders need to send them all at once.

    Raises
    ------
    RuntimeError: if one was not wholly accepted.
    """
    start = time.perf_counter()
    senders = [
        subprocess.Popen(
            ["storescu", "+sd", "-aec", _AE_TITLE, "127.0.0.1", str(port), str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
        )
        for folder in folders
    ]
    if any([sender.wait() for sender in senders]):
        raise RuntimeError("a sender was refused")
    return time.perf_counter() - start


@contextlib.contextmanager
def idle_associations(port: int, n: int) -> Iterator[None]:
    """`n` associations that do nothing; without threads here, which would be what is measured."""
    with contextlib.ExitStack() as stack:
        for _ in range(n):
            peer = stack.enter_context(RawPeer(port))
            if not peer.associate(_AE_TITLE):
                raise RuntimeError("an idle association was refused")
        yield


def run(
    folder: Path, n: int, senders: Sequence[int], rounds: int, processes: Sequence[int]
) -> list[Measured]:
    """Measure every receiver with every number of senders; `n` images are shared among the senders."""
    receivers: dict[str, Callable[[int, Path], list[str]]] = {
        f"node, {count} process{'es' * (count > 1)}": node_command(count) for count in processes
    }
    receivers |= {"plain pynetdicom": plain_command, "Orthanc": orthanc_command, "storescp": storescp_command}
    cases = [(name, count, 0) for name in receivers for count in senders]
    cases += [
        (name, count, idle)
        for name in list(receivers)[: len(processes)]
        for count in (1, 4)
        for idle in (20,)
    ]
    for count in senders:
        for k in range(count):
            write_images(folder / f"images{count}" / str(k), n // count)
    measured = {case: Measured(*case, [], []) for case in cases}
    for _ in range(rounds):
        for name, count, idle in cases:
            images = sorted((folder / f"images{count}").iterdir())
            sent = n // count * count
            with (
                running(receivers[name], folder / "receiver") as receiver,
                idle_associations(receiver.port, idle),
            ):
                cpu = receiver.cpu_seconds()
                rate = sent / send(receiver.port, images)
                cpu_ms = 1000 * (receiver.cpu_seconds() - cpu) / sent
            measured[name, count, idle].instances_per_second.append(round(rate, 1))
            measured[name, count, idle].cpu_ms.append(round(cpu_ms, 2))
    return list(measured.values())


def table(measured: Sequence[Measured]) -> str:
    """Rows of receivers, columns of senders: instances per second, CPU, the node's ratio to the others."""
    rates = {(m.receiver, m.senders, m.idle): statistics.median(m.instances_per_second) for m in measured}
    senders = sorted({m.senders for m in measured})
    lines = ["| receiver | " + " | ".join(f"{count} sender{'s' * (count > 1)}" for count in senders) + " |"]
    lines.append("|---" * (len(senders) + 1) + "|")
    for name, idle in dict.fromkeys((m.receiver, m.idle) for m in measured):
        cells = ["" for _ in senders]
        for one in (m for m in measured if (m.receiver, m.idle) == (name, idle)):
            rate = rates[name, one.senders, idle]
            cell = f"{rate:.0f}/s, {statistics.median(one.cpu_ms):.1f} ms CPU"
            if name.startswith("node"):
                others = ("plain pynetdicom", "Orthanc", "storescp")
                cell += "".join(f", {rate / rates[other, one.senders, 0]:.2f} x {other}" for other in others)
            cells[senders.index(one.senders)] = cell
        lines.append(f"| {name}{f', {idle} idle associations' * bool(idle)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receive", description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON with every round")
    parser.add_argument(
        "--instances", type=int, default=240, help="for each measurement, all senders together"
    )
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of the node")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the temporary folder)")
    given = parser.parse_args(arguments)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        measured = run(Path(name), given.instances, given.senders, given.rounds, given.processes)
    print(table(measured))
    print(f"{given.rounds} rounds in {time.monotonic() - start:.0f} s; instances per second, median")
    if given.out is not None:
        document = {
            "cores": os.cpu_count(),
            "instances": given.instances,
            "measured": [asdict(m) for m in measured],
        }
        given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
