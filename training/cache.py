"""``python -m training.cache SET --out DIR``: a data set as shards on the model's grid.

The command and its loop; the format is `training.volume_shards`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from training.datasets.catalogue import ADAPTERS, open_dataset
from training.datasets.drawn_masks import DrawnMasks
from training.datasets.sample import DataSet, Problem, Record, UnusableSampleError
from training.datasets.tally import Tally
from training.pretrain import DEFAULT_CONFIG
from training.settings import Settings
from training.volume_shards import PER_SHARD, describe, prepare, shard_name, write_shard
from training.work_parts import add_part, share


def make_shards(
    dataset: DataSet,
    records: Sequence[Record],
    out: Path,
    *,
    spacing_mm: float,
    per_shard: int = PER_SHARD,
    masks: DrawnMasks | None = None,
    part: tuple[int, int] = (1, 1),
    console: Console | None = None,
) -> Tally:
    """Write the shards of some records that are not there yet.

    Parameters
    ----------
    masks: for samples whose set has no organ masks.
    part: (K, N), the K-th of N machines, from 1: each takes its share of the shards.

    Returns
    -------
    What was used and skipped this time.

    Raises
    ------
    ValueError: if `out` was begun for another set or spacing, or there is no record.
    """
    if not records:
        raise ValueError(f"{dataset.name} has no sample to read; see python -m training.check")
    describe(out, source=dataset.name, spacing_mm=spacing_mm, records=records, per_shard=per_shard)
    tally = Tally()
    groups = [(k, records[k * per_shard : (k + 1) * per_shard]) for k in range(-(-len(records) // per_shard))]
    mine = [g for g in share(groups, part) if not (out / shard_name(g[0])).with_suffix(".json").exists()]
    steps = [(number, record, record is group[-1]) for number, group in mine for record in group]
    stored, skipped = [], list[Problem]()
    for number, record, last in track(
        steps, description="preparing volumes", console=console or Console(stderr=True, quiet=True)
    ):
        try:
            sample = dataset.load(record)
            stored.append(prepare(sample if masks is None else masks.added(sample), spacing_mm))
            tally.used += 1
        except UnusableSampleError as error:
            tally.skip(record.name, error)
            skipped.append(tally.skipped[-1])
        if last:
            write_shard(out, number, stored, skipped)
            stored, skipped = [], []
    return tally


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.cache",
        description="Read a data set once and keep it on the model's grid, for training.pretrain --shards. "
        "Interrupt it at will: the same command goes on. Bad samples are named, counted and left out.",
        epilog="example: python -m training.cache /data/CT-RATE --split train --out shards/ct-rate",
    )
    parser.add_argument("set", type=Path, help="folder of the set")
    parser.add_argument("--kind", choices=sorted(ADAPTERS), help="of the set (default: by its layout)")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="only this split")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="its model's spacing (default: %(default)s)"
    )
    parser.add_argument("--per-shard", type=int, default=PER_SHARD, help="samples (default: %(default)s)")
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="of training.organ_masks, for a set without organ masks"
    )
    add_part(parser, "shard")
    args = parser.parse_args(arguments)
    try:
        if args.per_shard < 1:
            raise ValueError(f"--per-shard is {args.per_shard}; 1 is the least")
        dataset = open_dataset(args.set, args.kind)
        records = [r for r in dataset.records() if args.split in (None, r.split)]
        tally = make_shards(
            dataset,
            records,
            args.out,
            spacing_mm=float(Settings.from_file(args.config).model["spacing_mm"]),
            per_shard=args.per_shard,
            masks=None if args.masks is None else DrawnMasks(args.masks),
            part=args.part,
            console=Console(stderr=True),
        )
    except ValueError as error:
        parser.error(str(error))
    print(tally.summary())


if __name__ == "__main__":
    main()
