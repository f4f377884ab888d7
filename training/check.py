"""Look at a data set before training on it: what was found, what is missing, and three samples as pictures.

Reads, and writes pictures; it changes nothing of the set. What training does with it is decided elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from training.check_pictures import write_picture
from training.datasets.catalogue import ADAPTERS, open_dataset
from training.datasets.sample import DataSet, Record, Sample
from training.datasets.tally import Tally, samples
from training.datasets.traps import traps
from training.mining.organ_sentences import organ_sentences

TRIES = 4  # samples that are tried for each that is wanted


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 1 where nothing can be used, or 2 with a line that says what is wrong."""
    args = _parser().parse_args(arguments)
    try:
        if args.samples < 0:
            raise ValueError(f"--samples is {args.samples}; 0 or more samples can be read")
        dataset = open_dataset(args.folder, args.kind)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(soft_wrap=True, highlight=False)
    _say_what_is_listed(dataset, console)
    if not dataset.records():
        console.print("nothing of this set can be used")
        return 1
    tally = Tally()
    read = _read(dataset, args.samples, console, tally)
    _say_what_was_read(dataset, read, tally, console)
    for sample in read:
        path = args.out / f"{sample.record.name}.png"
        write_picture(sample, path)
        console.print(f"picture: {path}")
    return 0 if read or args.samples == 0 else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.check",
        description="Says what a data set holds and what is wrong with it, and draws some samples.",
        epilog="Example: python -m training.datasets.miniature ct-rate mini && python -m training.check mini",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the set, or the file of a table")
    parser.add_argument(
        "--kind", choices=sorted(ADAPTERS), metavar="KIND", help=f"{', '.join(ADAPTERS)} (default: by layout)"
    )
    parser.add_argument("--samples", type=int, default=3, help="that are read and drawn (default 3)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("check"),
        metavar="DIR",
        help="receives the pictures (default: check)",
    )
    return parser


def _say_what_is_listed(dataset: DataSet, console: Console) -> None:
    """Counts per split, labels with their prevalence, and problems by kind."""
    records = dataset.records()
    table = Table(title=f"{dataset.name}: {len(records)} samples", title_justify="left")
    table.add_column("split")
    for column in ("samples", "patients", "reports", "organ sentences", "labelled"):
        table.add_column(column, justify="right")
    for split in dict.fromkeys(r.split for r in records):
        members = [r for r in records if r.split == split]
        table.add_row(
            split or "none",
            *(
                str(n)
                for n in (
                    len(members),
                    len({r.patient for r in members}),
                    sum(bool(r.report) for r in members),
                    sum(len(r.sentences) for r in members),
                    sum(bool(r.labels) for r in members),
                )
            ),
        )
    console.print(table)
    for warning in _set_traps(records, dataset):
        console.print(f"warning: {warning}")
    _say_labels(records, dataset, console)
    listed = Tally(len(records), list(dataset.problems()))
    console.print(f"listed: {listed.summary()}")


def _say_labels(records: Sequence[Record], dataset: DataSet, console: Console) -> None:
    if not dataset.vocabulary:
        return
    table = Table(title="labels", title_justify="left")
    for column, justify in (("label", "left"), ("known", "right"), ("present", "right"), ("share", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    known = Counter(name for r in records for name in r.labels)
    present = Counter(name for r in records for name, there in r.labels.items() if there)
    for name in dataset.vocabulary:
        share = f"{present[name] / known[name]:.3f}" if known[name] else "-"
        table.add_row(name, str(known[name]), str(present[name]), share)
    console.print(table)


def _set_traps(records: Sequence[Record], dataset: DataSet) -> list[str]:
    """What looks wrong with the set as a whole."""
    found = []
    splits: dict[str, set[str]] = {}
    for record in records:
        splits.setdefault(record.patient, set()).add(record.split)
    twice = sum(len(s) > 1 for s in splits.values())
    if twice:
        found.append(f"{twice} patients are in more than one split: split by patient before you compare")
    if records and dataset.vocabulary and not any(r.labels for r in records):
        found.append("no sample has a label")
    if records and dataset.vocabulary:
        constant = [
            name
            for name in dataset.vocabulary
            if len(records) >= 20 and len({r.labels[name] for r in records if name in r.labels}) == 1
        ]
        if constant:
            found.append(f"the same everywhere: {', '.join(constant)}")
    reports = Counter(r.report for r in records if r.report)
    shared = sum(n for n in reports.values() if n > 1)
    if shared:
        found.append(f"{shared} samples share their report with another: duplicates count in retrieval")
    return found


def _read(dataset: DataSet, count: int, console: Console, tally: Tally) -> list[Sample]:
    """Up to `count` samples from all over the set; some more are tried where some cannot be used."""
    records = dataset.records()
    wanted = min(len(records), count * TRIES)
    order = np.linspace(0, len(records) - 1, num=wanted).round().astype(int) if wanted else []
    # First the ones that lie apart, then those between.
    chosen = [records[i] for i in dict.fromkeys([*order[::TRIES], *order])]
    found: list[Sample] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("samples", total=count)
        for sample in samples(dataset, chosen, tally):
            found.append(sample)
            bar.advance(task)
            if len(found) >= count:
                break
    return found


def _say_what_was_read(dataset: DataSet, read: Sequence[Sample], tally: Tally, console: Console) -> None:
    """Masks and snippets of the samples that were read, and what looks wrong with each."""
    if not (read or tally.skipped):
        return
    console.print(f"read: {tally.summary()}")
    for sample in read:
        hu, record = sample.volume.array, sample.record
        organs = [] if sample.organs is None else [n for n in np.unique(sample.organs) if 0 < n < 255]
        facts = [
            f"{' x '.join(map(str, sample.volume.spatial_shape))} voxels",
            f"HU {np.percentile(hu, 1):.0f} to {np.percentile(hu, 99):.0f}",
            f"{len(organs)} organs" if organs else "no organ mask",
            f"{0 if sample.finding_masks is None else len(sample.finding_masks)} finding masks",
            "no tumours outlined"
            if sample.tumours is None
            else f"{int((sample.tumours > 0).sum())} tumour voxels",
            f"{len(sample.snippets)} snippets",
            f"{len(record.sentences) or sum(bool(s.organs) for s in organ_sentences(record.report))} organ "
            f"sentences {'given' if record.sentences else 'mined'}",
        ]
        console.print(f"  {record.name}: {', '.join(facts)}")
        for warning in traps(dataset, sample):
            console.print(f"    warning: {warning}")


if __name__ == "__main__":
    sys.exit(main())
