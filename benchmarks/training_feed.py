"""Does training ever wait for its data? ``python -m benchmarks.training_feed --out feed.json`` (issue 6).

Three rates on one machine: preparing CTs of CT-RATE's size (512 x 512 x 300, gzipped NIfTI with a
TotalSegmentator mask and a report) for the cache, in one process per core; crops per second that the loader
gives from that cache; and crops per second that a training step takes by itself, with the shipped config's
network. What share of its time a run does not wait is in its log. The CT is a body of noise: what is measured
is time, not learning.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch.utils.data import DataLoader

from training.cache import make_shards
from training.datasets.ct_rate import CtRate
from training.parallel import Placement
from training.run import Run
from training.samples import collate
from training.settings import Settings
from training.shard_crops import ShardCrops
from training.volume_shards import Shards, prepare

CONFIG = Path(__file__).parent.parent / "training" / "configs" / "grounded.toml"
SPACING_MM = (0.7, 0.7, 1.0)
REPORT = (
    "Trachea and both main bronchi are open. Heart size is normal. There is a nodule of 6 mm in the right "
    "upper lobe. No pleural effusion. The liver is normal. There are atherosclerotic plaques in the aorta."
)


def write_set(folder: Path, copies: int, shape: tuple[int, int, int]) -> None:
    """CT-RATE's layout with one body under several names; (columns, rows, slices) as NIfTI has them."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    body = np.where((x / 0.8) ** 2 + (y / 0.6) ** 2 < 1, 40.0, -1000.0)[..., None]
    hu = (body + rng.normal(0, 20, shape)).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 3 : shape[0] // 2, shape[1] // 3 : shape[1] // 2, : shape[2] // 3] = 5
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    data = folder / "dataset"
    (data / "radiology_text_reports").mkdir(parents=True)
    rows = ["VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN"]
    for n in range(1, copies + 1):
        place = Path(f"train_{n}") / f"train_{n}_a" / f"train_{n}_a_1.nii.gz"
        for root, array in (("train_fixed", hu), ("ts_seg/ts_total/train_fixed", mask)):
            path = data / root / place
            path.parent.mkdir(parents=True)
            first = data / root / "train_1" / "train_1_a" / "train_1_a_1.nii.gz"
            if n == 1:
                nib.save(nib.Nifti1Image(array, affine), path)  # type: ignore[no-untyped-call]
            else:
                os.link(first, path)
        rows.append(f'{place.name},Not given.,Not given.,"{REPORT}",Not given.')
    table = data / "radiology_text_reports" / "train_reports.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")


def prepare_some(folder: Path, numbers: Sequence[int]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor, that one core takes for some volumes, reading included."""
    torch.set_num_threads(1)
    dataset = CtRate(folder)
    records = dataset.records()
    prepare(dataset.load(records[numbers[0]]), 4.0)  # imports and tables of the report rules
    begin, used = time.perf_counter(), time.process_time()
    for n in numbers:
        prepare(dataset.load(records[n]), 4.0)
    return time.perf_counter() - begin, time.process_time() - used


def preparing(folder: Path, cores: int, each: int) -> tuple[float, float]:
    """Seconds per volume and core by the clock, and of the processor, with all cores at work."""
    shares = [list(range(k * each, (k + 1) * each)) for k in range(cores)]
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        took = list(pool.map(prepare_some, [folder] * cores, shares))
    clock, processor = np.mean(took, axis=0) / each
    return float(clock), float(processor)


def feeding(shards: Shards, settings: Settings, workers: int, crops: int) -> float:
    """Crops per second of the loader alone."""
    model = settings.model
    stream = ShardCrops(shards, model["window"], model["spacing_mm"], seed=1, batch=2)
    loader = iter(DataLoader(stream, batch_size=2, num_workers=workers, collate_fn=collate))
    next(loader)
    begin = time.perf_counter()
    for _ in islice(loader, crops // 2):
        pass
    return crops / (time.perf_counter() - begin)


def consuming(settings: Settings, folder: Path, shards: Path, device: str, steps: int) -> float:
    """Crops per second of training steps on two batches that lie ready."""
    few = replace(settings, optimiser={**settings.optimiser, "steps": steps + 2, "freeze": []})
    run = Run(few, folder, [], Placement(device), shards=shards)
    bank = run.text_bank()
    loader = iter(DataLoader(run.data(), batch_size=run.share, num_workers=0, collate_fn=collate))
    batches = [next(loader) for _ in range(2)]
    run.model.train()
    run.update(bank, batches[0], run.rng(0))
    begin = time.perf_counter()
    for n in range(steps):
        run.update(bank, batches[n % 2], run.rng(n + 1))
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return steps * run.share / (time.perf_counter() - begin)


def measure(device: str, cores: int, slices: int, steps: int, folder: Path) -> dict[str, Any]:
    """All rates."""
    each = 3
    write_set(folder / "set", max(2, cores * each), (512, 512, slices))
    seconds, processor = preparing(folder / "set", cores, each)
    dataset = CtRate(folder / "set")
    settings = Settings.from_file(CONFIG)
    make_shards(dataset, dataset.records()[:6], folder / "shards", spacing_mm=settings.model["spacing_mm"])
    shards = Shards(folder / "shards")
    fed = {workers: feeding(shards, settings, workers, 40) for workers in sorted({1, cores})}
    used = consuming(settings, folder / "run", folder / "shards", device, steps)
    return {
        "machine": f"{platform.machine()}, {cores} cores",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "volume": [512, 512, slices],
        "seconds_per_volume_and_core": seconds,
        "processor_seconds_per_volume": processor,
        "loader_crops_per_second": {str(k): v for k, v in fed.items()},
        "step_crops_per_second": used,
        "loader_over_step": max(fed.values()) / used,
    }


def table(found: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{found['machine']}, training on {found['device']}",
        f"preparing a volume of {' x '.join(map(str, found['volume']))}: "
        f"{found['seconds_per_volume_and_core']:.2f} s on one core (2 s aimed at), "
        f"{found['processor_seconds_per_volume']:.2f} s of the processor",
    ]
    for workers, rate in found["loader_crops_per_second"].items():
        lines.append(f"loader, {workers} worker{'s' if workers != '1' else ''}: {rate:.1f} crops/s")
    lines.append(f"training step: {found['step_crops_per_second']:.2f} crops/s")
    lines.append(f"loader over step: {found['loader_over_step']:.1f} (2 aimed at)")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_feed", description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--steps", type=int, default=6, help="training steps that are measured")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        found = measure(given.device, given.cores, given.slices, given.steps, Path(name))
    print(table(found))
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
