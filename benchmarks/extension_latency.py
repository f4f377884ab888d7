"""From Enter to the jump, and how long the window stands still: ``python -m benchmarks.extension_latency``.

A phantom of 512 x 512 x 300, stored as DICOM and read by the node, the real service in a process of its own,
and the 3D Slicer extension in its test harness. The queries are measured alone and while other clients ask
the service without a pause; every text is new, so that none is answered from a cache ("asked_again" repeats
ten). The window is judged by the widest gap between two ticks of a 10 ms timer, and, where the machine is
shared, by the most processor time that its thread took in one ("most_work_ms"); the service by its processor
time per question. Needs the slicer extra.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.read_studies import archive_folder, read_waiting
from benchmarks.running_service import running_service
from core_model.reader import Reader
from dicom_node.archive import Archive
from dicom_node.config import Config
from training.phantoms.study import write_study

SEED = 11
MATRIX, SLICES = 512, 300


def prepare(work: Path, checkpoint: Path | None) -> str:
    """Make, archive and read the phantom where `work` has none yet; its Study Instance UID."""
    done = work / "study.txt"
    if not done.exists():
        made = write_study(
            SEED,
            work / "phantom",
            lesions=[("liver_tumour", 40.0), ("lung_nodule", 25.0)],
            matrix=MATRIX,
            slices=SLICES,
            spacing_mm=3.0,
        )
        config = Config(archive=work / "archive", checkpoint=checkpoint)
        archive = Archive.open(config)
        archive_folder(archive, work / "phantom" / "dicom")
        read_waiting(archive, config, Reader.load(checkpoint, "cpu"))
        archive.index.close()
        done.write_text(made.series.study_instance_uid, encoding="ascii")
    return done.read_text(encoding="ascii")


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def crowd(clients: int, port: int, token: str, study: str) -> Iterator[list[int]]:
    """So many clients that ask texts that nobody asked before, one after the other, as long as entered.

    What is entered is a list of one number per answer, for its length.
    """
    stop = threading.Event()
    answered: list[int] = []

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        number = 0
        while not stop.is_set():
            body = json.dumps({"text": f"lesion {number} of client {client}", "k": 5})
            connection.request("POST", f"/api/1/studies/{study}/query", body, headers)
            connection.getresponse().read()
            answered.append(number)
            number += 1
        connection.close()

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def measure(work: Path, port: int, questions: int, *more: str) -> Any:
    """What the extension in the harness measures."""
    command = [sys.executable, "-m", "tests.slicer.harness.measure_latency", str(work / "phantom" / "dicom")]
    command += ["--url", f"http://127.0.0.1:{port}", "--token", str(work / "archive" / "service.token")]
    command += ["--questions", str(questions), *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extension_latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the study")
    parser.add_argument("--clients", type=int, default=8, help="others that ask at the same time")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--checkpoint", type=Path, help="model (default: the shipped one)")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    study = prepare(given.work, given.checkpoint)
    archive = given.work / "archive"
    with running_service(archive, given.checkpoint) as service:
        alone = measure(given.work, service.port, given.questions)
    with running_service(archive, given.checkpoint) as service:
        pid = service.process.pid
        before = processor_seconds(pid)
        with crowd(given.clients, service.port, service.token, study) as answered:
            beside = measure(given.work, service.port, given.questions, "--queries-only")
        asked = len(answered) + given.questions
        beside["service_processor_ms_per_question"] = round(
            1000 * (processor_seconds(pid) - before) / asked, 1
        )
    beside.pop("operations")
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"alone": alone, f"beside_{given.clients}": beside, "load": load}, indent=1))


if __name__ == "__main__":
    main()
