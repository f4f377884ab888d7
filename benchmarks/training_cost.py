"""What one training step costs, wherever it runs: ``python -m benchmarks.training_cost`` (docs/scaling.md).

Counts, not timings: floating-point operations of a step (PyTorch's counter), bytes that the backward pass
keeps, parameters and optimiser state, and bytes that processes exchange. With ``--crops-per-second`` of one
device (logged by every run, or of `benchmarks.training_feed`) it says how long CT-RATE takes on 1, 8 and 64.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from training.crop_views import view
from training.objective import losses_of
from training.plan import draw_step
from training.run import Run
from training.samples import Crop, collate
from training.settings import Settings

CONFIG = Path(__file__).parent.parent / "training" / "configs" / "grounded.toml"
VOLUMES = 47_149  # CT-RATE's training split (model card)
EPOCHS = 10  # RadFinder's
GPUS = (1, 8, 64)


def kept_bytes(work: Any) -> tuple[Any, int]:
    """The outcome of some work, and the bytes that its backward pass would keep, each storage once."""
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outcome = work()
    return outcome, sum(seen.values())


def measure(settings: Settings, crops: int) -> dict[str, Any]:
    """Costs per crop of a step on `crops` phantoms' crops."""
    settings = replace(settings, optimiser={**settings.optimiser, "batch": crops})
    with tempfile.TemporaryDirectory() as name:
        run = Run(settings, Path(name), [], "cpu")
        loader = DataLoader(run.data(), batch_size=crops, collate_fn=collate)
        batch: Crop = next(iter(loader))
        bank, rng = run.text_bank(), run.rng(0)
        drawn = draw_step(bank, batch.findings, rng, run.plan)
        counter = FlopCounterMode(display=False)
        with counter, run.precision():
            views, kept = kept_bytes(lambda: view(run.model, bank, batch, drawn, run.plan))
            losses = losses_of(run.model, bank, views, drawn, rng=rng, plan=run.plan)
            run.total(losses).backward()  # type: ignore[no-untyped-call]
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    return {
        "config": settings.name,
        "window": list(settings.model["window"]),
        "flops_per_crop": counter.get_total_flops() / crops,
        "kept_bytes_per_crop": kept / crops,
        "gathered_bytes_per_crop": sum(v.numel() * v.element_size() for v in views.values()) / crops,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "trained_parameters": trained,
        "state_bytes": trained * 4 * 4,  # weights, average, two moments
        "gradient_bytes": trained * 4,
    }


def hours(volumes: int, epochs: int, crops_per_second: float, devices: int) -> float:
    """Of one crop per volume and epoch, if devices add up."""
    return volumes * epochs / (crops_per_second * devices) / 3600


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_cost", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--crops", type=int, default=2, help="of the measured step (default: %(default)s)")
    parser.add_argument("--crops-per-second", type=float, help="of one device, for the hours")
    parser.add_argument("--out", type=Path, help="JSON")
    given = parser.parse_args(arguments)
    found = measure(Settings.from_file(given.config), given.crops)
    print(f"a crop of {' x '.join(map(str, found['window']))} voxels, {found['config']}")
    print(f"  operations, forward and backward   {found['flops_per_crop'] / 1e12:.2f} TFLOP")
    print(f"  kept for the backward pass         {found['kept_bytes_per_crop'] / 2**20:.0f} MiB")
    print(f"  exchanged of it between processes  {found['gathered_bytes_per_crop'] / 2**10:.0f} KiB")
    trained, whole = found["trained_parameters"] / 1e6, found["parameters"] / 1e6
    print(f"model: {trained:.1f} M trained of {whole:.1f} M parameters")
    print(f"  weights, average, optimiser        {found['state_bytes'] / 2**20:.0f} MiB")
    print(f"  gradients exchanged in a step      {found['gradient_bytes'] / 2**20:.0f} MiB")
    if given.crops_per_second:
        for n in GPUS:
            print(
                f"CT-RATE, {EPOCHS} epochs of {VOLUMES} volumes on {n}: "
                f"{hours(VOLUMES, EPOCHS, given.crops_per_second, n):.1f} hours at "
                f"{given.crops_per_second:g} crops/s each, if they add up"
            )
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
