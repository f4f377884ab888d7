"""Grounded pretraining: ``python -m training.pretrain --out runs/first``. The command line only.

The loop is `training.run`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from training.parallel import PRECISIONS, STRATEGIES, Placement
from training.run import Run, follow
from training.settings import Settings, Switches

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "pretrain.toml"


def run_command(
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    change: Callable[[Settings, bool], Settings] | None = None,
) -> None:
    """The command line of a run from a config.

    Parameters
    ----------
    change: what makes another run of the config's; told whether its encoder stays as it is.
    """
    parser = _parser(prog, description)
    args = parser.parse_args(arguments)
    try:
        settings = _settings(args)
        settings = settings if change is None else change(settings, args.windows is not None)
        placement = Placement(
            args.device, args.devices, args.nodes, args.strategy, args.accumulate, args.precision
        )
        run = Run(
            settings,
            args.out,
            args.label_maps,
            placement,
            init=args.init,
            windows=args.windows,
            shards=args.shards,
        )
    except ValueError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    follow(run)


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{description} Interrupt it at will: the same command goes on.",
        epilog=f"examples: {prog} --out runs/first --label-maps path/to/label_maps; {prog} --shards "
        "shards/ct-rate --batch 64 --devices 8 --out runs/ct-rate",
    )
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="TOML file (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log and checkpoint")
    parser.add_argument(
        "--label-maps",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of TotalSegmentator v2 label maps (*.nii.gz); may be repeated",
    )
    parser.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from an earlier stage")
    parser.add_argument(
        "--windows",
        type=Path,
        metavar="DIR",
        help="of training.stored_windows, for a config that freezes the encoder of --init",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=list(Switches.__dataclass_fields__),
        help="turn a switch of the config off, for an ablation; may be repeated",
    )
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the config's")
    parser.add_argument("--seed", type=int, help="of weights and data, instead of the config's")
    parser.add_argument(
        "--shards",
        type=Path,
        metavar="DIR",
        help="train on a data set (of training.cache) instead of on phantoms",
    )
    where = parser.add_argument_group("processes and devices (training.parallel, docs/scaling.md)")
    where.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:N (default: %(default)s)",
    )
    where.add_argument("--devices", type=int, default=1, help="processes on each node (default: %(default)s)")
    where.add_argument("--nodes", type=int, default=1, help="machines (default: %(default)s)")
    where.add_argument(
        "--strategy", choices=STRATEGIES, default="auto", help="of several processes (default: %(default)s)"
    )
    where.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="K",
        help="pass a process's share of a batch through the model in K goes; losses keep the whole batch",
    )
    where.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="auto: bf16 where it is fast and right"
    )
    where.add_argument("--batch", type=int, help="crops of a step, all processes together")
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    """The config with what the command line sets.

    Raises
    ------
    ValueError: if the config is not right, or has no such switch.
    """
    settings = _without(Settings.from_file(args.config), args.without)
    given = {"steps": args.steps, "batch": args.batch}
    optimiser = {name: value for name, value in given.items() if value is not None}
    settings = replace(settings, optimiser={**settings.optimiser, **optimiser})
    if args.seed is not None:
        settings = replace(settings, data={**settings.data, "seed": args.seed})
    return settings


def _without(settings: Settings, switches: Sequence[str]) -> Settings:
    if not switches:
        return settings
    name = "-".join([settings.name, "without", *switches])
    return replace(settings, name=name, switches={**settings.switches, **dict.fromkeys(switches, False)})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    run_command(arguments, prog="python -m training.pretrain", description="Pretrain the model on phantoms.")


__all__ = ["DEFAULT_CONFIG", "main", "run_command"]


if __name__ == "__main__":
    main()
