"""How long a reading takes: ``python -m benchmarks.speed`` (issue 3: speed).

Reads a synthetic scan of 300 slices of 512x512, asks its stored encoding a text on one core, and
runs nnU-Net's own predictor on the same scan beside it (`benchmarks.nnunet`; optional). Every row
has a process of its own, so that its peak memory is its own. It measures time and memory, not
what is read: the scan is a simple body, and nothing is compared with a truth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.nnunet import NNUNet, Plan, missing
from core_model.encoding_file import load_encoding, save_encoding
from core_model.inference import choose_device, describe_device
from core_model.localization import Searchable
from core_model.memory import keep_memory
from core_model.ranking import localize
from core_model.reader import Reader

SMALL_PLAN = Plan(patch=(32, 32, 32), features=(8, 16, 32), classes=8)
QUERY = "There is a hypodense liver lesion."


@dataclass(frozen=True)
class Task:
    """What is measured: scan size, device, threads, and how often (the fastest counts)."""

    slices: int
    matrix: int
    device: str | None
    threads: int | None
    repeats: int
    checkpoint: Path | None = None
    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes
    ----------
    seconds: of the fastest repeat (queries: the median); None where it was skipped.
    all_seconds: of every repeat.
    peak_mib: largest resident memory of the row's process, model, scan and libraries included.
    peak_gpu_mib: largest memory that torch took on the GPU, None on the CPU.
    device: what it ran on.
    note: stages in seconds, or why it was skipped.
    """

    name: str
    seconds: float | None
    all_seconds: tuple[float, ...]
    peak_mib: float | None
    peak_gpu_mib: float | None
    device: str
    note: str


def synthetic_scan(slices: int, matrix: int, spacing_mm: tuple[float, float] = (1.5, 0.8)) -> hd.Volume:
    """HU of an elliptic body with lungs, spine, liver and noise, from feet to head.

    Parameters
    ----------
    slices, matrix: size; the body's size in mm is that of 300 slices of 512x512 whatever they are.
    spacing_mm: between slices and in plane, of 300 slices of 512x512.
    """
    z, y, x = np.meshgrid(
        np.linspace(-1, 1, slices, dtype=np.float32),
        np.linspace(-1, 1, matrix, dtype=np.float32),
        np.linspace(-1, 1, matrix, dtype=np.float32),
        indexing="ij",
        sparse=True,
    )
    hu = np.full((slices, matrix, matrix), -1000, dtype=np.float32)
    hu[np.broadcast_to((y / 0.62) ** 2 + (x / 0.85) ** 2 < 1, hu.shape)] = 40
    for side in (-0.4, 0.4):
        hu[(y / 0.42) ** 2 + ((x - side) / 0.28) ** 2 + ((z - 0.6) / 0.5) ** 2 < 1] = -830
    hu[((y + 0.05) / 0.4) ** 2 + ((x + 0.35) / 0.4) ** 2 + ((z + 0.1) / 0.25) ** 2 < 1] = 110
    hu[np.broadcast_to(((y - 0.42) / 0.12) ** 2 + (x / 0.1) ** 2 < 1, hu.shape)] = 250
    rng = np.random.default_rng(0)
    for k in range(slices):  # noise for the whole scan at once would double the memory
        hu[k] += rng.normal(0, 12, (matrix, matrix)).astype(np.float32)
    affine = np.eye(4)
    step, pixel = spacing_mm[0] * 300 / slices, spacing_mm[1] * 512 / matrix
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) @ np.diag([step, pixel, pixel])
    return hd.Volume(hu, affine, coordinate_system="PATIENT")


def sightline_rows(task: Task) -> list[Row]:
    """Reading the scan, and a text query on its stored encoding on one core."""
    device = _prepare(task)
    reader = Reader.load(task.checkpoint, str(device))
    scan = synthetic_scan(task.slices, task.matrix)
    seconds, reading = _timed(lambda: reader.read(scan), task.repeats, device)
    stages = ", ".join(f"{k} {v:.1f}" for k, v in reading.seconds.items())
    where = describe_device(device, reader.bf16)
    size = f"{task.slices} slices of {task.matrix}x{task.matrix}"
    read_row = _row(f"Sightline: encode and read {size}", seconds, device, where, stages)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoding.safetensors"
        save_encoding(reading.encoding, file)
        size_mib = file.stat().st_size / 2**20
        return [read_row, _query_row(task, file, size_mib)]


def _query_row(task: Task, file: Path, size_mib: float) -> Row:
    """On the CPU whatever the device of the reading: a query needs no GPU."""
    cores = _one_core()
    reader = Reader.load(task.checkpoint, "cpu")
    study = Searchable(load_encoding(file))  # once, as the service keeps it
    localize(study, reader.question(QUERY), by_slab=reader.by_slab)  # the first call warms caches up
    queries = [f"{QUERY} {i}" for i in range(max(task.repeats, 5))]
    seconds = []
    for text in queries:
        start = time.perf_counter()
        localize(study, reader.question(text), by_slab=reader.by_slab)
        seconds.append(time.perf_counter() - start)
    note = f"median of {len(queries)} texts; the encoding is {size_mib:.1f} MiB"
    return Row(
        "Sightline: text query on a loaded encoding",
        float(np.median(seconds)),
        tuple(seconds),
        None,
        None,
        f"cpu ({cores})",
        note,
    )


def nnunet_rows(task: Task) -> list[Row]:
    """nnU-Net's predictor on the same scan."""
    device = _prepare(task)
    model = NNUNet(task.plan, device)
    scan = synthetic_scan(task.slices, task.matrix)
    seconds, _ = _timed(lambda: model.read(scan), task.repeats, device)
    patch = "x".join(map(str, task.plan.patch))
    note = f"random weights, {task.plan.classes} classes, 3 mm, patch {patch}"
    if task.plan != Plan():
        note += "; REDUCED network: no figure to compare with"
    name = f"nnU-Net predictor: {task.slices} slices of {task.matrix}x{task.matrix}"
    return [_row(name, seconds, device, describe_device(device, False), note)]


def _prepare(task: Task) -> torch.device:
    keep_memory()  # as the programs do that read; nnU-Net's predictor gains by it as well
    if task.threads:
        torch.set_num_threads(task.threads)
    return choose_device(task.device)


def _one_core() -> str:
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return "one core"
    return "one thread"


def _timed(work: Callable[[], Any], repeats: int, device: torch.device) -> tuple[tuple[float, ...], Any]:
    """Seconds of every repeat, and what the last one gave."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return tuple(seconds), result


def _row(name: str, seconds: tuple[float, ...], device: torch.device, where: str, note: str) -> Row:
    gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return Row(name, min(seconds), seconds, _peak_mib(), gpu, where, note)


def _peak_mib() -> float:
    """Largest resident memory of this process so far (Linux counts KiB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)


def measure(task: Task, nnunet: bool = True) -> list[Row]:
    """All rows, each part in a fresh process; nnU-Net is skipped, with the reason, where it is missing."""
    rows = _alone(sightline_rows, task)
    if nnunet:
        reason = missing()
        skipped = Row("nnU-Net predictor", None, (), None, None, "-", f"skipped: {reason}")
        rows += [skipped] if reason else _alone(nnunet_rows, task)
    return rows


def _alone(part: Callable[[Task], list[Row]], task: Task) -> list[Row]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(part, task).result()


def _print(console: Console, rows: Sequence[Row]) -> None:
    table = Table("measured", "seconds", "peak memory", "GPU memory", "on", "note")
    for row in rows:
        seconds = (
            "-" if row.seconds is None else f"{row.seconds:.3f}" if row.seconds < 1 else f"{row.seconds:.1f}"
        )
        memory = ["-" if m is None else f"{m / 1024:.2f} GiB" for m in (row.peak_mib, row.peak_gpu_mib)]
        table.add_row(row.name, seconds, *memory, row.device, row.note)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Time and memory of a reading, beside nnU-Net's predictor.",
    )
    parser.add_argument("--checkpoint", type=Path, help="checkpoint folder (default: shipped)")
    parser.add_argument("--slices", type=int, default=300, help="slices (default: %(default)s)")
    parser.add_argument("--matrix", type=int, default=512, help="rows and columns (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: its own)")
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    parser.add_argument("--no-nnunet", action="store_true", help="without nnU-Net's row")
    parser.add_argument(
        "--small-plan", action="store_true", help="nnU-Net with a tiny network, only to see that it runs"
    )
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args(arguments)
    if min(args.slices, args.matrix, args.repeats) < 1 or (args.threads or 1) < 1:
        parser.error("--slices, --matrix, --repeats and --threads must be 1 or more")
    plan = SMALL_PLAN if args.small_plan else Plan()
    size = (args.slices, args.matrix, args.device, args.threads, args.repeats)
    rows = measure(Task(*size, args.checkpoint, plan), nnunet=not args.no_nnunet)
    _print(Console(), rows)
    if args.out:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        content = {"machine": machine, "torch": torch.__version__, "rows": [asdict(r) for r in rows]}
        args.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
