"""``python -m training.protocols``: public evaluations by name, on a checkpoint and a folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.datasets.catalogue import ADAPTERS, open_dataset
from training.datasets.rad_chestct import RadChestCt
from training.datasets.sample import DataSet
from training.protocols.encoder import Encoder
from training.protocols.outcome import Outcome, PublicProtocol
from training.protocols.pictures import draw
from training.protocols.registry import find, protocols
from training.protocols.runner import DRAWS, run_protocol
from training.protocols.selection import DEVELOPMENT_SHARE


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(arguments)
    console = Console()
    if args.command == "list":
        _list(console)
        return
    if args.draws < 0 or (args.limit is not None and args.limit < 1):
        parser.error(f"--draws is {args.draws} and --limit {args.limit}; needed are 0 and 1 at least")
    try:
        _run(args, console)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def _run(args: argparse.Namespace, console: Console) -> None:
    protocol = find(args.name)
    dataset = opened(protocol, args.folder, args.kind)
    develop = None if args.dev is None else open_dataset(args.dev)
    if develop is not None and develop.name != "CT-RATE":
        raise ValueError(f"--dev is {develop.name}; development patients are of CT-RATE's train split")

    def steps(work: Iterable[Any], count: int, what: str) -> Iterable[Any]:
        return track(work, description=what, total=count, console=console)

    outcome, measured = run_protocol(
        protocol,
        Encoder(args.checkpoint, args.device),
        dataset,
        args.out / "encoded",
        develop=develop,
        share=args.dev_share,
        limit=args.limit,
        draws=args.draws,
        track=steps,
    )
    folder = args.out / protocol.name.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(outcome.document(), indent=1), encoding="utf-8")
    pictures = draw(measured.pictures, folder)
    (folder / "result.md").write_text(outcome.markdown([p.name for p in pictures]), encoding="utf-8")
    _print(console, outcome, folder)


def opened(protocol: PublicProtocol, folder: Path, kind: str | None = None) -> DataSet:
    """The set in a folder, its labels mapped as a protocol asks for.

    Raises
    ------
    ValueError: as `open_dataset`.
    """
    dataset = open_dataset(folder, kind)
    if protocol.mapping and isinstance(dataset, RadChestCt):
        return RadChestCt(folder, protocol.mapping)
    return dataset


def _print(console: Console, outcome: Outcome, folder: Path) -> None:
    table = Table(
        "measured", "figure (95 % interval)", title=f"{outcome.protocol}: {outcome.facts['items']} items"
    )
    for row in outcome.table():
        table.add_row(*row)
    console.print(table)
    for said in outcome.deviations:
        console.print(f"not as published: {said}")
    console.print(outcome.tally.summary(), highlight=False, markup=False)
    if outcome.left_out.skipped:
        kinds = {kind: len(problems) for kind, problems in outcome.left_out.kinds().items()}
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        console.print(f"left out by the set: {said}", highlight=False, markup=False)
    console.print(f"written to {folder}", highlight=False, markup=False)


def _list(console: Console) -> None:
    table = Table(
        "what", "published in", box=None, title="A name may end in the number of items", expand=True
    )
    table.columns[0].ratio, table.columns[1].ratio = 3, 2
    every = protocols()
    for name in sorted(n for n in every if not n.rsplit("/", 1)[1].isdigit()):
        counts = sorted((n for n in every if n.rsplit("/", 1)[0] == name), key=lambda n: -every[n].published)
        others = f" [dim]({', '.join('/' + n.rsplit('/', 1)[1] for n in counts)})[/dim]" if counts else ""
        table.add_row(f"[bold]{name}[/bold]{others}\n  {every[name].title}", every[name].source)
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.protocols",
        description="Public evaluation protocols, each by name and as published (docs/protocols.md).",
        epilog="example: python -m training.protocols run ct-rate/ct-clip runs/mine data/CT-RATE",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names, what they are and where they are published")
    run = commands.add_parser(
        "run",
        help="measure a checkpoint",
        description="Encode each volume once, score, and write JSON, Markdown and plots. Goes on where an "
        "earlier run was cut off. Bad volumes are named, counted and skipped.",
        epilog="example: python -m training.protocols run rad-chestct/radfinder-standard runs/mine "
        "data/Rad-ChestCT --dev data/CT-RATE",
    )
    run.add_argument("name", help="of the list")
    run.add_argument("checkpoint", type=Path, help="checkpoint folder")
    run.add_argument("folder", type=Path, help="of the data set")
    run.add_argument("--kind", choices=sorted(ADAPTERS), help="of the data set (default: told by its layout)")
    run.add_argument("--dev", type=Path, help="CT-RATE with train volumes, for thresholds (default: FOLDER)")
    run.add_argument(
        "--dev-share",
        type=float,
        default=DEVELOPMENT_SHARE,
        help="share of the train patients that thresholds are developed on (default: %(default)s)",
    )
    run.add_argument("--limit", type=int, help="use so many items at most")
    run.add_argument(
        "--out", type=Path, default=Path("runs/protocols"), help="folder of results (default: %(default)s)"
    )
    run.add_argument("--draws", type=int, default=DRAWS, help="bootstrap draws (default: %(default)s)")
    run.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    return parser


if __name__ == "__main__":
    main()
