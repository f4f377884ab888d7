"""Fuzz a real query service with schemathesis: ``python -m benchmarks.fuzz_service --minutes 10``.

Starts the service on loopback with an archive of its own (empty unless ``--archive`` names one, which
corrections would be written into), sends it what schemathesis makes of its OpenAPI, over and over with
another seed, and watches its memory. Fails on any 5xx and when the service dies. Needs the test extra.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.running_service import running_service

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def resident_mib(pid: int) -> float:
    """Resident memory of a process, MiB (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def fuzz(archive: Path, minutes: float, examples: int, checkpoint: Path | None) -> int:
    """Run until the minutes are over; the exit status."""
    with running_service(archive, checkpoint) as service:
        pid = service.process.pid
        before, rounds, end = resident_mib(pid), 0, time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            rounds += 1
            status = _round(service.port, service.token, rounds, examples)
            if service.process.poll() is not None:
                print(f"the service died with {service.process.returncode}")
                return 1
            print(f"round {rounds}: status {status}, {resident_mib(pid):.0f} MiB", flush=True)
            if status:
                return status
        print(f"{rounds} rounds; memory {before:.0f} to {resident_mib(pid):.0f} MiB")
        defects = service.log.read_text(encoding="utf-8").count(" defect ")
        print(f"{defects} defects in the log")
        return 1 if defects else 0


def _round(port: int, token: str, seed: int, examples: int) -> int:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run"),
        f"http://127.0.0.1:{port}/api/1/openapi.json",
        *("--header", f"Authorization: Bearer {token}"),
        *("--checks", CHECKS),
        *("--max-examples", str(examples)),
        *("--seed", str(seed)),
    ]
    return subprocess.run(command, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_service", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--examples", type=int, default=50, help="per path and round")
    parser.add_argument("--archive", type=Path, help="an archive with studies, so that more than 404 is seen")
    parser.add_argument("--checkpoint", type=Path, help="model (default: the shipped one)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        archive = given.archive or Path(name) / "archive"
        return fuzz(archive, given.minutes, given.examples, given.checkpoint)


if __name__ == "__main__":
    sys.exit(main())
