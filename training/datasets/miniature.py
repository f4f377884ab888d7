"""Miniatures of public sets: a few small phantoms, written in exactly the layout that a set is published in.

For tests and for trying each stage of training without the set itself. Nothing of a set is in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from training.datasets.miniature_abdomen import write_abdomen_atlas, write_merlin, write_table
from training.datasets.miniature_chest import (
    write_inspect,
    write_rad_chestct,
    write_radgenome,
    write_rexgrounding,
)
from training.datasets.miniature_ct_rate import write_ct_rate, write_legacy

# kind -> writer(folder, patients, seed)
MINIATURES: dict[str, Callable[[Path, int, int], None]] = {
    "ct-rate": write_ct_rate,
    "ct-rate-legacy": write_legacy,
    "radgenome": write_radgenome,
    "rexgrounding": write_rexgrounding,
    "rad-chestct": write_rad_chestct,
    "merlin": write_merlin,
    "inspect": write_inspect,
    "abdomen-atlas": write_abdomen_atlas,
    "table": write_table,
}


def write_miniature(kind: str, folder: Path, *, patients: int = 6, seed: int = 0) -> None:
    """Write a miniature; the same arguments give the same files.

    Parameters
    ----------
    kind: of `MINIATURES`.
    folder: new or empty.
    patients: 2 to 100.
    seed: not negative.

    Raises
    ------
    ValueError: if an argument is out of range.
    FileExistsError: if the folder holds something.
    """
    if kind not in MINIATURES:
        raise ValueError(f"kind {kind!r} has no miniature; choose of {', '.join(MINIATURES)}")
    if not 2 <= patients <= 100 or seed < 0:
        raise ValueError(f"patients {patients} must be 2 to 100 and seed {seed} not negative")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    MINIATURES[kind](folder, patients, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 with a line that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m training.datasets.miniature",
        description="Writes a few small phantoms in exactly the layout of a public set.",
        epilog="Example: python -m training.datasets.miniature ct-rate mini && python -m training.check mini",
    )
    parser.add_argument("kind", choices=sorted(MINIATURES), metavar="KIND", help=", ".join(MINIATURES))
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new or empty")
    parser.add_argument("--patients", type=int, default=6, help="2 to 100 (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same files (default 0)")
    args = parser.parse_args(arguments)
    try:
        write_miniature(args.kind, args.folder, patients=args.patients, seed=args.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    files = [p for p in args.folder.rglob("*") if p.is_file()]
    print(f"{args.kind}: {len(files)} files of {args.patients} patients in {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
