"""Receiving, beside others in one run: ``python -m benchmarks.receive --out receive.json``.

The node's receiver (every instance fsynced and indexed before it is acknowledged), a plain pynetdicom SCP,
Orthanc and DCMTK's storescp, each sent the same CT images by 1, 4 and 8 DCMTK storescu at once; then the
node again with 20 idle associations. Needs Debian's ``dcmtk`` and ``orthanc``. Every figure is the median
of the rounds; the rounds go through all receivers in turn, so that a busy machine is busy for all.

What is measured is the steady state, for all receivers alike: each is first sent some images that do not
count, by more senders than it has processes; then the clock runs from when every sender has had its first
`_WARM` answers until the first sender has had its last one, by the time stamps of storescu's own log. How
long an association takes to be agreed on (storescu proposes 128 presentation contexts) is told apart.
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
from rich.progress import track

from benchmarks.raw_peer import RawPeer

# DCMTK waits 40 ms for a delayed acknowledgement at each C-STORE otherwise.
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
_ROWS = 512
_AE_TITLE = "BENCHMARK"
_WARM = 20  # answers of each association before the clock starts
_IDLE_SENDERS = (1, 4)  # that are measured with idle associations beside them
_WARMING_SENDERS = 4
_SAMPLE_SECONDS = 0.2
_LOG_FORMAT = """log4cplus.rootLogger = INFO, out
log4cplus.appender.out = log4cplus::ConsoleAppender
log4cplus.appender.out.logToStdErr = true
log4cplus.appender.out.layout = log4cplus::PatternLayout
log4cplus.appender.out.layout.ConversionPattern = %D{%s.%q} %m%n
"""


@dataclass(frozen=True)
class Measured:
    """One receiver with some senders and idle associations, over the rounds.

    Attributes
    ----------
    instances_per_second, cpu_ms: of each round; CPU time of the receiver alone, per instance, which a
        busy machine changes least.
    set_up_ms: of each round, how long an association took to be agreed on: the median of its senders.
    """

    receiver: str
    senders: int
    idle: int
    instances_per_second: list[float]
    cpu_ms: list[float]
    set_up_ms: list[float]


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
            f"maximum_associations = 64\n[receiver]\nprocesses = {processes}\nmaximum_per_address = 64\n"
            "refuse_above_percent = 100.0\naccept_below_percent = 100.0\n",  # however full this disk is
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


@dataclass(frozen=True)
class Receiver:
    """How to start a receiver on a port with its files in a folder; `processes` say in its log when they can
    serve (of the node)."""

    command: Callable[[int, Path], list[str]]
    processes: int = 0


@contextlib.contextmanager
def running(kind: Receiver, folder: Path) -> Iterator[Running]:
    """A receiver on a free port, which is yielded once it can serve; killed and wiped at the end.

    The disk has nothing left to write when it begins, whatever the receiver before it left unwritten.
    """
    os.sync()
    port = _free_port()
    folder.mkdir(parents=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(kind.command(port, folder), stdout=log, stderr=log, env=_ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while True:
            ready = (folder / "log").read_text("utf-8", "replace").count("receiver ready")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                if ready >= kind.processes:
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


@dataclass(frozen=True)
class Sent:
    """What the senders' logs and the receiver's CPU time tell of the steady state.

    Attributes
    ----------
    rate: instances per second.
    cpu_ms: CPU time of the receiver per instance.
    set_up_ms: until an association was agreed on; the median of the senders.
    """

    rate: float
    cpu_ms: float
    set_up_ms: float


def send(port: int, shares: Sequence[Sequence[Path]], logs: Sequence[Path]) -> Iterator[None]:
    """Send the images of each share by a storescu of its own, all at once; each writes one of the logs.

    Yields again and again until all are done.

    Raises
    ------
    RuntimeError: if one was not wholly accepted.
    """
    layout = logs[0].with_name("log4cplus.cfg")
    layout.write_text(_LOG_FORMAT, encoding="ascii")
    storescu = ["storescu", "--log-config", str(layout), "-aec", _AE_TITLE, "127.0.0.1", str(port)]
    senders = []
    for share, log in zip(shares, logs, strict=True):
        with log.open("wb") as out:
            command = [*storescu, *map(str, share)]
            senders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=out, env=_ENVIRONMENT))
    while any([sender.poll() is None for sender in senders]):
        time.sleep(_SAMPLE_SECONDS)
        yield
    if any(sender.returncode for sender in senders):
        raise RuntimeError("a sender was refused")


def measure(receiver: Running, shares: Sequence[Sequence[Path]], folder: Path) -> Sent:
    """Send, and measure the steady state.

    Parameters
    ----------
    receiver: where to.
    shares: the files of each sender, more than `_WARM`.
    folder: where logs are kept meanwhile.

    Raises
    ------
    RuntimeError: if one was not wholly accepted, or they never sent at the same time.
    """
    clock, cpu = [time.time()], [receiver.cpu_seconds()]
    logs = [folder / f"sender{k}.log" for k in range(len(shares))]
    for _ in send(receiver.port, shares, logs):
        cpu.append(receiver.cpu_seconds())
        clock.append(time.time())
    answers = [_times(log, "Received Store Response (Success)") for log in logs]
    if any(len(times) != len(share) for times, share in zip(answers, shares, strict=True)):
        raise RuntimeError("an instance was refused")
    start, end = max(times[_WARM - 1] for times in answers), min(times[-1] for times in answers)
    steady = sum(start < time <= end for times in answers for time in times)
    if not steady:
        raise RuntimeError("the senders did not send at the same time: give more --instances")
    set_up = [
        _times(log, "Association Accepted")[0] - _times(log, "Requesting Association")[0] for log in logs
    ]
    seconds = float(np.interp(end, clock, cpu) - np.interp(start, clock, cpu))
    return Sent(steady / (end - start), 1000 * seconds / steady, 1000 * statistics.median(set_up))


def _times(log: Path, message: str) -> list[float]:
    """When storescu said something, in seconds since the epoch."""
    lines = (line.partition(" ") for line in log.read_text("utf-8", "replace").splitlines())
    return [float(when) for when, _, what in lines if what.startswith(message)]


@contextlib.contextmanager
def idle_associations(port: int, n: int) -> Iterator[None]:
    """`n` associations that do nothing; without threads here, which would be what is measured."""
    with contextlib.ExitStack() as stack:
        for _ in range(n):
            peer = stack.enter_context(RawPeer(port))
            if not peer.associate(_AE_TITLE):
                raise RuntimeError("an idle association was refused")
        yield


def _share(images: Sequence[Path], senders: int) -> list[Sequence[Path]]:
    """As many for each sender; what does not divide is left out."""
    size = len(images) // senders
    return [images[k * size : (k + 1) * size] for k in range(senders)]


def run(
    folder: Path, n: int, senders: Sequence[int], rounds: int, processes: Sequence[int]
) -> Iterator[list[Measured]]:
    """Measure every receiver with every number of senders; `n` images are shared among the senders.

    Yields what was measured so far after each round.
    """
    receivers = {
        f"node, {count} process{'es' * (count > 1)}": Receiver(node_command(count), count)
        for count in processes
    }
    receivers["plain pynetdicom"] = Receiver(plain_command)
    receivers["Orthanc"] = Receiver(orthanc_command)
    receivers["storescp"] = Receiver(storescp_command)
    cases = [(name, count, 0) for name in receivers for count in senders]
    cases += [
        (name, count, idle)
        for name in list(receivers)[: len(processes)]
        for count in senders
        if count in _IDLE_SENDERS
        for idle in (20,)
    ]
    write_images(folder / "images", n)
    write_images(folder / "warm", _WARMING_SENDERS * 2 * _WARM)
    images, warming = (sorted((folder / name).iterdir()) for name in ("images", "warm"))
    measured = {case: Measured(*case, [], [], []) for case in cases}
    for number in range(rounds):
        for name, count, idle in track(cases, f"round {number + 1} of {rounds}"):
            with (
                running(receivers[name], folder / "receiver") as receiver,
                idle_associations(receiver.port, idle),
            ):
                warmed = _share(warming, _WARMING_SENDERS)
                for _ in send(receiver.port, warmed, [folder / f"warm{k}.log" for k in range(len(warmed))]):
                    pass
                sent = measure(receiver, _share(images, count), folder)
            one = measured[name, count, idle]
            one.instances_per_second.append(round(sent.rate, 1))
            one.cpu_ms.append(round(sent.cpu_ms, 2))
            one.set_up_ms.append(round(sent.set_up_ms, 1))
        yield list(measured.values())


def table(measured: Sequence[Measured]) -> str:
    """Rows of receivers, columns of senders: rate, CPU time, set-up, and the node's ratio to the others."""
    rates = {(m.receiver, m.senders, m.idle): statistics.median(m.instances_per_second) for m in measured}
    senders = sorted({m.senders for m in measured})
    lines = ["| receiver | " + " | ".join(f"{count} sender{'s' * (count > 1)}" for count in senders) + " |"]
    lines.append("|---" * (len(senders) + 1) + "|")
    for name, idle in dict.fromkeys((m.receiver, m.idle) for m in measured):
        cells = ["" for _ in senders]
        for one in (m for m in measured if (m.receiver, m.idle) == (name, idle)):
            rate = rates[name, one.senders, idle]
            cell = f"{rate:.0f}/s, {statistics.median(one.cpu_ms):.1f} ms CPU"
            cell += f", set up in {statistics.median(one.set_up_ms):.0f} ms"
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
        "--instances", type=int, default=1200, help="for each measurement, all senders together"
    )
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of the node")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the temporary folder)")
    given = parser.parse_args(arguments)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        rounds = run(Path(name), given.instances, given.senders, given.rounds, given.processes)
        for number, measured in enumerate(rounds, 1):
            print(table(measured))
            print(f"{number} rounds in {time.monotonic() - start:.0f} s, median", flush=True)
            if given.out is not None:
                document = {
                    "cores": os.cpu_count(),
                    "instances": given.instances,
                    "measured": [asdict(m) for m in measured],
                }
                given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
