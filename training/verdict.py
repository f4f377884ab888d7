"""The verdict on a checkpoint by a data set: how it reads beside another one, and whether it may follow.

``python -m training.verdict BASE NEW SET`` reads patients of a set with both, at their own thresholds, as a
node reads, and writes ``verdict.json`` into NEW's folder, which `sightline promote` obeys. For a checkpoint
that was trained anew; one that was retrained on a node's corrections brings its verdict along
(`training.finetune --archive`).
The patients must not have been trained on: a set's own validation split is the default.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from core_model.abnormality import abnormalities
from core_model.reader import Reader
from core_model.verdict import Judged, Measured, Verdict, write_verdict
from training.bootstrap import Weights, bootstrap
from training.datasets.archive import CorrectedSegment, CorrectedStudy
from training.datasets.archive import Verdict as Said
from training.datasets.catalogue import ADAPTERS, open_dataset
from training.datasets.sample import DataSet, Record, Sample, UnusableSampleError
from training.datasets.tally import Tally
from training.datasets.what_is_said import ABSENT, PRESENT, what_is_said
from training.judging import organ_dice
from training.metrics import mean
from training.retraining.comparison import KEPT, PATIENTS_NEEDED, Pair, measures, score
from training.retraining.comparison_report import outcome, write_report
from training.samples import MIN_ORGAN_VOXELS

ORGANS = "organ Dice"


@dataclass(frozen=True)
class Both:
    """Both checkpoints on one sample.

    Attributes
    ----------
    pair: what they found of lesions and findings.
    organs: mean Dice of the organs that the set shows, of base and new; None where it has no organ masks.
    """

    pair: Pair
    organs: tuple[float, float] | None


def as_correction(sample: Sample) -> CorrectedStudy:
    """What a set says of a sample, in the form of a radiologist's correction."""
    said = what_is_said(sample)
    entries = list(zip(abnormalities(), said.findings, strict=True))
    segments = tuple(
        CorrectedSegment(i + 1, entry.name, entry.name, entry.organ)
        for i, (entry, _) in enumerate(entries)
        if sample.tumours is not None and bool((sample.tumours == i + 1).any())
    )
    verdicts = tuple(
        Said(entry.organ, entry.name, "undetermined", "reject", "present" if value == PRESENT else "absent")
        for entry, value in entries
        if value in (PRESENT, ABSENT)
    )
    return CorrectedStudy(sample.record.name, sample.volume, sample.tumours, segments, verdicts)


def read_both(base: Reader, new: Reader, sample: Sample) -> Both:
    """Read a sample with both.

    Raises
    ------
    ValueError: if it shows nothing that can be read.
    """
    study = as_correction(sample)
    readings = [reader.read(sample.volume) for reader in (base, new)]
    pair = Pair(sample.record.patient, *(score(reading, study) for reading in readings))
    if sample.organs is None:
        return Both(pair, None)
    dices = [
        organ_dice(r.organ_mask.array, sample.organs, min_voxels=MIN_ORGAN_VOXELS).values() for r in readings
    ]
    means = [float(np.mean([*d])) if d else np.nan for d in dices]
    return Both(pair, None if np.isnan(means).any() else (means[0], means[1]))


def measured(read: Sequence[Both], draws: int) -> list[Measured]:
    """All measures that the patients define; a model that is trained anew need not keep old answers."""
    found = [m for m in measures([b.pair for b in read], draws) if m.name != KEPT]
    organs = [(b.pair.patient, *b.organs) for b in read if b.organs is not None]
    if not organs:
        return found
    patients = sorted({o[0] for o in organs})
    where = np.array([patients.index(o[0]) for o in organs])
    sides = np.array([o[1:] for o in organs])  # (N, 2)

    def figures(weights: Weights) -> dict[str, float | None]:
        base, new = (mean(sides[:, k], weights[where]) for k in (0, 1))
        return {"base": base, "new": new, "gain": None if base is None or new is None else new - base}

    e = bootstrap(figures, len(patients), draws)
    low, high = e["gain"].low, e["gain"].high
    if e["base"].value is None or e["new"].value is None or low is None or high is None:
        return found
    return [Measured(ORGANS, e["base"].value, e["new"].value, low, high, len(patients)), *found]


def compare(
    base: Path,
    new: Path,
    dataset: DataSet,
    records: Sequence[Record],
    *,
    draws: int,
    patients_needed: int,
    device: str | None,
    console: Console,
) -> tuple[Verdict, Tally]:
    """Read the records with both checkpoints, and judge.

    Raises
    ------
    ValueError: if a checkpoint cannot be loaded, or no sample can be read.
    """
    readers = Reader.load(base, device), Reader.load(new, device)
    tally, read = Tally(), list[Both]()
    for record in track(records, description="reading with both", console=console):
        try:
            read.append(read_both(*readers, dataset.load(record)))
        except UnusableSampleError as error:
            tally.skip(record.name, error)
        except ValueError:
            tally.skip(record.name, UnusableSampleError("volume is no CT of a body"))
        else:
            tally.used += 1
    if not read:
        raise ValueError(f"no sample of {dataset.name} could be read\n{tally.summary()}")
    verdict = Verdict(
        base=Judged.of(base),
        new=Judged.of(new),
        measures=tuple(measured(read, draws)),
        patients=len({b.pair.patient for b in read}),
        patients_needed=patients_needed,
        about=f"{len(read)} samples of {dataset.name}",
    )
    return verdict, tally


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 where the verdict is against the new checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m training.verdict",
        description="Read patients of a data set with two checkpoints and say whether the new one may take "
        "the other's place. The verdict goes into the new one's folder; sightline promote obeys it.",
        epilog="example: python -m training.verdict runs/old/checkpoint runs/new/checkpoint /data/CT-RATE "
        "--split validation --limit 200, then sightline promote runs/new/checkpoint --config node.toml",
    )
    parser.add_argument("base", type=Path, help="checkpoint in use")
    parser.add_argument("new", type=Path, help="checkpoint that may follow it")
    parser.add_argument("set", type=Path, help="folder of the data set")
    parser.add_argument("--kind", choices=sorted(ADAPTERS), help="of the set (default: by its layout)")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="validation", help="default: %(default)s"
    )
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--patients-needed",
        type=int,
        default=PATIENTS_NEEDED,
        help="patients without whom nothing is promoted (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    try:
        for name in ("limit", "draws", "patients_needed"):
            if getattr(args, name) is not None and getattr(args, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; 1 is the least")
        dataset = open_dataset(args.set, args.kind)
        records = [r for r in dataset.records() if r.split == args.split][: args.limit]
        if not records:
            raise ValueError(f"{dataset.name} has no {args.split} samples; name another --split")
        verdict, tally = compare(
            args.base,
            args.new,
            dataset,
            records,
            draws=args.draws,
            patients_needed=args.patients_needed,
            device=args.device,
            console=Console(stderr=True),
        )
    except ValueError as error:
        parser.error(str(error))
    write_verdict(verdict, args.new)
    write_report(verdict, args.new)
    print(tally.summary())
    print(outcome(verdict))
    return 0 if verdict.promote else 1


if __name__ == "__main__":
    raise SystemExit(main())
