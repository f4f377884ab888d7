"""Read the benchmark's patients with several checkpoints at once: ``python -m training.read_together``.

Only fills the folder of records (`training.case_store`) from which `training.calibrate`,
`training.evaluate` and `training.compare` go on; measures nothing. Checkpoints of one frozen encoder
(a grounded run, its ablations, vanilla CLIP) have each patient made and encoded once for all.
Several processes may share the patients out among them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from core_model.checkpoint import load_checkpoint
from core_model.inference import choose_device, supports_bf16
from core_model.memory import keep_memory
from core_model.reader import Reader
from training.benchmark import DEVELOPMENT_SEED, TEST_SEED
from training.calibrate import add_second_pieces
from training.case_store import read_together
from training.shared_encoder import SharedEncoder, share_encoder
from training.work_parts import add_part, share

FIRST = {"development": DEVELOPMENT_SEED, "test": TEST_SEED}


def readers_of(checkpoints: Sequence[Path], device: str | None) -> tuple[list[Reader], SharedEncoder | None]:
    """Readers of some checkpoints on one encoder; no shared one where there is a single checkpoint.

    Raises
    ------
    core_model.checkpoint.CheckpointError: if a checkpoint is missing or damaged.
    ValueError: if their encoders differ, or the device cannot be used.
    """
    where = choose_device(device)
    loaded = [load_checkpoint(c) for c in checkpoints]
    shared = share_encoder([c.model for c in loaded]) if len(loaded) > 1 else None
    return [Reader(c, where, supports_bf16(where)) for c in loaded], shared


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.read_together",
        description="Read benchmark patients with checkpoints of one frozen encoder; keep the records.",
        epilog="example, in two shells: OMP_NUM_THREADS=1 python -m training.read_together "
        "runs/heads/checkpoint runs/clip/checkpoint --patients test --n 200 "
        "--cases runs/cases --part 1/2 (and 2/2)",
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoint folders")
    parser.add_argument("--patients", choices=sorted(FIRST), required=True, help="which of the benchmark's")
    parser.add_argument("--n", type=int, default=24, help="number of patients (default: %(default)s)")
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR", help="folder that keeps records")
    parser.add_argument(
        "--mask", type=float, help="voxel threshold of lesion masks (default: that of each card)"
    )
    add_second_pieces(parser)
    add_part(parser)
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    keep_memory()
    if args.n < 1:
        parser.error(f"--n is {args.n}; needed is 1 at least")
    try:
        readers, shared = readers_of(args.checkpoints, args.device)
    except ValueError as error:
        parser.error(str(error))
    given: dict[str, Any] = {} if args.mask is None else {"mask": args.mask}
    if args.second_pieces is not None:
        given["second_pieces"] = tuple(sorted(args.second_pieces))
    thresholds = [replace(r.thresholds, **given) for r in readers]
    first = FIRST[args.patients]
    seeds = share(range(first, first + args.n), args.part)
    stream = read_together(readers, seeds, thresholds, args.cases, shared)
    for _ in track(stream, total=len(seeds), description="reading phantoms", console=Console(stderr=True)):
        pass


if __name__ == "__main__":
    main()
