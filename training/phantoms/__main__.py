"""The phantom generator's command line; the only place of this package that prints or exits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from training.phantoms.contact_sheet import write_sheet
from training.phantoms.disorders import disorders
from training.phantoms.lesions import lesion_kinds
from training.phantoms.procedural import COVERAGE
from training.phantoms.scanner import PHASES
from training.phantoms.study import make_phantom, write_study
from training.phantoms.tissues import Phantom


def _without_size() -> list[str]:
    return [d.abnormality for d in disorders() if d.diameter_mm is None]


def lesion_argument(text: str) -> tuple[str, float]:
    """``liver_tumour:25mm`` as a name and a diameter in mm; diffuse ones need no size.

    Raises
    ------
    ValueError: if it is not of that form.

    >>> lesion_argument("liver_tumour:25mm"), lesion_argument("pleural_effusion")
    (('liver_tumour', 25.0), ('pleural_effusion', 0.0))
    """
    name, colon, size = text.partition(":")
    if name in _without_size():
        return name, 0.0
    known = [*(k.abnormality for k in lesion_kinds()), *(d.abnormality for d in disorders())]
    if name not in known:
        raise ValueError(f"lesion {name!r} is not known; choose of {', '.join(known)}")
    try:
        diameter_mm = float(size.removesuffix("mm"))
    except ValueError:
        diameter_mm = 0.0
    if not colon or not 2 <= diameter_mm <= 150:
        raise ValueError(f"lesion {text!r} needs a diameter of 2 to 150 mm, as in {name}:25mm")
    return name, diameter_mm


def seeds_argument(text: str) -> list[int]:
    """``0..3`` or ``1,5,9`` as a list of seeds.

    Raises
    ------
    ValueError: if it is neither.

    >>> seeds_argument("0..3"), seeds_argument("7")
    ([0, 1, 2, 3], [7])
    """
    first, dots, last = text.partition("..")
    try:
        seeds = list(range(int(first), int(last) + 1)) if dots else [int(s) for s in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds {text!r}: give a range such as 0..11, or a list such as 1,5,9")
    return seeds


def parser() -> argparse.ArgumentParser:
    """The arguments of both commands."""
    top = argparse.ArgumentParser(
        prog="python -m training.phantoms",
        description="Synthetic CT studies with known truth. Same seed and arguments, same study.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sized = [(k.abnormality, k.diameter_mm) for k in lesion_kinds()]
    sized += [(d.abnormality, d.diameter_mm) for d in disorders() if d.diameter_mm]
    kinds = ", ".join(f"{name} ({low:.0f}-{high:.0f} mm)" for name, (low, high) in sized)
    study = commands.add_parser(
        "study",
        help="write one study: DICOM series, truth, report",
        description="Writes dicom/*.dcm, truth.json, truth_lesions.nii.gz, truth_organs.nii.gz, report.txt.",
        epilog=f"Lesions: {kinds}; without a size: {', '.join(_without_size())}. "
        "Example: python -m training.phantoms study --seed 7 --out study7 --slices 300 --matrix 512 "
        "--lesion liver_tumour:25mm",
    )
    study.add_argument("--seed", type=int, required=True, help="which phantom, 0 or more")
    study.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the study")
    study.add_argument("--slices", type=int, help="number of images (default: the phantom's own)")
    study.add_argument("--matrix", type=int, help="rows and columns (default: the phantom's own)")
    study.add_argument("--lesion", action="append", metavar="NAME:SIZE", help="plant this; may be repeated")
    study.add_argument("--healthy", action="store_true", help="plant nothing")
    study.add_argument("--phase", choices=PHASES, help="contrast phase (default: drawn)")
    study.add_argument("--spacing", type=float, default=2.0, metavar="MM", help="phantom voxel (default 2.0)")
    study.add_argument("--coverage", choices=sorted(COVERAGE), help="part of the body (default: all)")
    study.add_argument("--height", type=float, metavar="MM", help="scan length (default: neck to thigh)")
    sheet = commands.add_parser(
        "sheet",
        help="write a PNG contact sheet of several phantoms",
        description="One row per seed: four axial cuts, one through the largest lesion, and three others.",
    )
    sheet.add_argument("--seeds", required=True, metavar="A..B", help="range 0..11 or list 1,5,9")
    sheet.add_argument("--out", type=Path, required=True, metavar="PNG")
    sheet.add_argument("--spacing", type=float, default=3.0, metavar="MM", help="voxel size (default 3.0)")
    return top


def run_study(arguments: argparse.Namespace, console: Console) -> None:
    """The command ``study``."""
    wanted = [lesion_argument(text) for text in arguments.lesion or []] or None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=1.0) for name in ("phantom", "images", "truth")}
        study = write_study(
            arguments.seed,
            arguments.out,
            lesions=[] if arguments.healthy else wanted,
            slices=arguments.slices,
            matrix=arguments.matrix,
            phase=arguments.phase,
            spacing_mm=arguments.spacing,
            height_mm=arguments.height,
            coverage=arguments.coverage,
            progress=lambda stage, share: bar.update(tasks[stage], completed=share),
        )
    print(f"{len(study.series.files)} images, {study.phantom.phase}, in {arguments.out}")
    for lesion in study.truth["planted"]:
        where = f", image {lesion['image_number']}" if "image_number" in lesion else ""
        size = f" {lesion['diameter_mm']:.0f} mm" if lesion["diameter_mm"] else ""
        print(f"  {lesion['side']} {lesion['abnormality']}{size}{where}".replace("   ", "  "))


def run_sheet(arguments: argparse.Namespace, console: Console) -> None:
    """The command ``sheet``."""
    seeds = seeds_argument(arguments.seeds)
    phantoms: list[tuple[str, Phantom]] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for seed in bar.track(seeds, description="phantoms"):
            phantom = make_phantom(seed, spacing_mm=arguments.spacing)
            names = ", ".join(dict.fromkeys(p.abnormality for p in phantom.planted)) or "healthy"
            phantoms.append((f"seed {seed}, {phantom.phase}: {names}", phantom))
    write_sheet(phantoms, arguments.out)
    print(f"{len(phantoms)} phantoms in {arguments.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, or 2 with a one-line reason on standard error."""
    arguments = parser().parse_args(argv)
    console = Console(stderr=True)
    try:
        (run_study if arguments.command == "study" else run_sheet)(arguments, console)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
