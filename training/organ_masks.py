"""Organ masks for a whole data set, by TotalSegmentator or by the model's own organ head.

What comes out is one label map per CT, on the CT's own voxels, and ``labels.json`` that says what the
numbers mean and who drew them. Not a data set of its own, and nothing is downloaded.

    python -m training.organ_masks cts --out masks --with own
    python -m training.organ_masks cts --out masks --with totalsegmentator --fast --device cuda
    python -m training.organ_masks cts --out masks --with own --part 2/8     # the second of eight machines

A mask that is there is not drawn again, so that a run that was cut off is continued by the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import highdicom as hd
import nibabel as nib
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core_model.anatomy import organs
from core_model.reader import Reader
from core_model.reading import ModelIdentity
from core_model.totalsegmentator_masks import TOTAL, TotalSegmentatorMasks
from training.datasets.catalogue import open_dataset
from training.datasets.files import NIFTI, niftis, read_ct, read_nifti, stem
from training.datasets.mask_files import save_mask
from training.datasets.sample import DataSet, Record, UnusableSampleError
from training.datasets.tally import Tally
from training.whole_files import whole_file
from training.work_parts import add_part, share

SCHEMA = "sightline-organ-masks/1"
LABELS = "labels.json"
METHODS = ("own", "totalsegmentator")


class Draws(Protocol):
    """Something that draws organs.

    Attributes
    ----------
    model: who it is.
    labels: what its numbers mean.
    """

    model: ModelIdentity
    labels: Mapping[int, str]

    def draw(self, volume: hd.Volume) -> hd.Volume:
        """uint8 labels on exactly the geometry of `volume`; raises ValueError where it cannot."""
        ...


class OwnHead:
    """The model's own organ head (`Reader.draw_organs`): reading organs.

    Parameters
    ----------
    checkpoint: folder; the shipped one unless given.
    device: CUDA where there is any, unless given.
    """

    def __init__(self, checkpoint: Path | None = None, device: str | None = None) -> None:
        self._reader = Reader.load(checkpoint, device)
        self.model = self._reader.identity
        self.labels: Mapping[int, str] = {o.label: o.name for o in organs()}

    def draw(self, volume: hd.Volume) -> hd.Volume:
        """As `Draws.draw`."""
        return self._reader.draw_organs(volume)


class Structures:
    """TotalSegmentator: v2 ids of the task "total", or the ids of another of its tasks."""

    def __init__(self, masks: TotalSegmentatorMasks) -> None:
        self._masks = masks
        self.model = masks.model
        self.labels = masks.labels

    def draw(self, volume: hd.Volume) -> hd.Volume:
        """As `Draws.draw`."""
        return self._masks.structures(volume)


@dataclass(frozen=True)
class Task:
    """One CT to draw on.

    Attributes
    ----------
    name: of the sample, or the file's path in its folder without ending; the mask is called so too.
    load: reads the CT; raises `UnusableSampleError`.
    """

    name: str
    load: Callable[[], hd.Volume]


def tasks(source: Path, kind: str | None = None) -> list[Task]:
    """The CTs of a data set, or of a folder of NIfTI files.

    Parameters
    ----------
    source: folder of a set that `training.datasets.catalogue` knows, or any folder with ``*.nii[.gz]``.
    kind: of data set; told by the layout unless given.

    Raises
    ------
    ValueError: if the folder is missing or holds neither.
    """
    if not source.exists():
        raise ValueError(f"folder {source} does not exist; name the folder of the CTs")
    try:
        dataset = open_dataset(source, kind)
    except ValueError:
        if kind is not None:
            raise
    else:
        # By the set's own reader, which knows what its files leave out: rescaling, padding, a wrong affine.
        return [Task(r.name, partial(_sample_volume, dataset, r)) for r in dataset.records()]
    files = niftis(source)
    if not files:
        raise ValueError(f"{source} is no data set that is known and holds no *.nii or *.nii.gz; see --help")
    return [Task(stem(p.relative_to(source).as_posix()), partial(_file_volume, p)) for p in files]


def _sample_volume(dataset: DataSet, record: Record) -> hd.Volume:
    volume = dataset.load(record).volume
    return _on_file_axes(volume, record.image) if record.image.name.endswith(NIFTI) else volume


def _file_volume(path: Path) -> hd.Volume:
    return _on_file_axes(read_ct(path), path)


def _on_file_axes(volume: hd.Volume, path: Path) -> hd.Volume:
    """A canonical volume on the axes of its file, so that masks fit also where only arrays are compared."""
    letters = "".join(nib.aff2axcodes(read_nifti(path).affine))  # type: ignore[no-untyped-call]
    return volume.to_patient_orientation(letters.translate(str.maketrans("SI", "HF")))


def run(source: Sequence[Task], out: Path, drawer: Draws, tally: Tally) -> Iterator[str]:
    """Draw what is not there yet.

    Parameters
    ----------
    source: the CTs.
    out: folder of the masks, made where it is missing.
    tally: told of each CT that was drawn and of each that cannot be.

    Yields
    ------
    The name of each CT that is dealt with, also where its mask was there before.

    Raises
    ------
    ValueError: if masks of another model lie in `out`: two kinds of numbers in one folder mix truths.
    """
    out.mkdir(parents=True, exist_ok=True)
    _agree(out / LABELS, drawer)
    for task in source:
        target = out / f"{task.name}.nii.gz"
        if not target.exists():
            try:
                save_mask(_drawn(task, drawer), target)
            except UnusableSampleError as error:
                tally.skip(task.name, error)
            else:
                tally.used += 1
        yield task.name


def _drawn(task: Task, drawer: Draws) -> hd.Volume:
    volume = task.load()
    try:
        return drawer.draw(volume)
    except (ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: torch's, memory included
        first = (str(error).splitlines() or [""])[0]
        raise UnusableSampleError("no mask could be drawn", first or type(error).__name__) from error


def _agree(path: Path, drawer: Draws) -> None:
    """Write who draws, or refuse to mix with what another has drawn."""
    said = {
        "schema": SCHEMA,
        "model": asdict(drawer.model),
        "labels": {str(value): name for value, name in sorted(drawer.labels.items())},
    }
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != said:
            model = before.get("model", {})
            raise ValueError(
                f"{path.parent} holds masks by {model.get('name')} {model.get('version')} "
                f"({str(model.get('digest'))[:12]}); give this run a folder of its own with --out"
            )
        return
    with whole_file(path) as part:
        part.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 where there were CTs and none has a mask."""
    parser = argparse.ArgumentParser(
        prog="python -m training.organ_masks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a data set, or any folder with NIfTI files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the masks")
    parser.add_argument("--with", dest="method", choices=METHODS, required=True, help="who draws")
    parser.add_argument("--kind", help="of the data set, where its layout does not tell")
    parser.add_argument("--device", help="cpu, cuda or cuda:1; CUDA where there is any, unless given")
    parser.add_argument(
        "--checkpoint", type=Path, help="own: folder of the model; the shipped one unless given"
    )
    parser.add_argument(
        "--task", default=TOTAL, help="totalsegmentator: one without licence (default: total)"
    )
    parser.add_argument("--fast", action="store_true", help="totalsegmentator: 3 mm instead of 1.5 mm")
    parser.add_argument(
        "--weights", type=Path, help="totalsegmentator: folder of its weights, if not the usual"
    )
    add_part(parser, "CT")
    args = parser.parse_args(arguments)
    tally = Tally()
    console = Console(stderr=True)
    try:
        found = share(tasks(args.folder, args.kind), args.part)
        drawer = _drawer(args)
        there = sum((args.out / f"{task.name}.nii.gz").exists() for task in found)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(f"organs by {drawer.model.name}", total=len(found))
            for _ in run(found, args.out, drawer, tally):
                progress.advance(bar)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{there} masks were there before; {tally.summary()}", file=sys.stderr)
    return 1 if found and not there and not tally.used else 0


def _drawer(args: argparse.Namespace) -> Draws:
    if args.method == "own":
        return OwnHead(args.checkpoint, args.device)
    return Structures(
        TotalSegmentatorMasks(task=args.task, fast=args.fast, device=args.device, weights=args.weights)
    )


if __name__ == "__main__":
    sys.exit(main())
