"""Measure a checkpoint: ``python -m training.evaluate --benchmark phantoms``.

On unseen phantoms (lesion sensitivity, false lesions, findings, organ Dice) and, with
``--nifti`` and ``--labels``, organ Dice on a real CT with reference masks. It only measures:
thresholds come out of the checkpoint, set by `training.calibrate` on other seeds.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from core_model.abnormality import abnormalities
from core_model.anatomy import v2_to_reading
from core_model.reader import Reader
from core_model.volume import canonical
from training.benchmark import TEST_SEED, VERSION, CaseResult, organ_dice, read_cases

MIN_DIAMETER_MM = 15.0
MIN_ORGAN_ML = 1.0


def summarise(results: Sequence[CaseResult], min_diameter_mm: float = MIN_DIAMETER_MM) -> dict[str, Any]:
    """Figures over patients, ready for JSON.

    Returns
    -------
    "tumours": per type {planted, found, sensitivity, dice, false_per_study}; "false_per_study";
    "findings": per abnormality {positives, sensitivity, specificity, auc}; "organ_dice": mean per
    organ; "mean_organ_dice".
    """
    n = max(1, len(results))
    tumours = {}
    for entry in abnormalities():
        if not entry.tumour:
            continue
        planted = [
            p
            for r in results
            for p in r.planted
            if p.abnormality == entry.name and p.diameter_mm >= min_diameter_mm
        ]
        false = [q for r in results for q in r.reported if q.abnormality == entry.name and not q.true]
        tumours[entry.name] = {
            "planted": len(planted),
            "found": sum(p.found for p in planted),
            "sensitivity": _ratio(sum(p.found for p in planted), len(planted)),
            "dice": float(np.mean([p.dice for p in planted])) if planted else None,
            "false_per_study": len(false) / n,
        }
    per_organ = defaultdict(list)
    for r in results:
        for name, value in r.organ_dice.items():
            per_organ[name].append(value)
    means = {name: float(np.mean(values)) for name, values in sorted(per_organ.items())}
    return {
        "benchmark": VERSION,
        "studies": len(results),
        "min_diameter_mm": min_diameter_mm,
        "tumours": tumours,
        "false_per_study": sum(t["false_per_study"] for t in tumours.values()),
        "findings": {a.name: _finding_figures(results, a.name) for a in abnormalities()},
        "organ_dice": means,
        "mean_organ_dice": float(np.mean(list(means.values()))) if means else None,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _finding_figures(results: Sequence[CaseResult], name: str) -> dict[str, Any]:
    own = [f for r in results for f in r.findings if f.abnormality == name]
    positive = [f for f in own if f.truth]
    negative = [f for f in own if not f.truth]
    return {
        "positives": len(positive),
        "negatives": len(negative),
        "sensitivity": _ratio(sum(f.status == "present" for f in positive), len(positive)),
        "specificity": _ratio(sum(f.status != "present" for f in negative), len(negative)),
        "auc": auc([f.probability for f in positive], [f.probability for f in negative]),
    }


def auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Area under the ROC curve (Mann-Whitney); None where a side is empty.

    >>> auc([0.9, 0.4], [0.1, 0.4])
    0.875
    """
    if not positive or not negative:
        return None
    p, q = np.array(positive)[:, None], np.array(negative)[None]
    return float(((p > q) + 0.5 * (p == q)).mean())


def real_ct_dice(reader: Reader, image_path: Path, labels_path: Path) -> dict[str, float]:
    """Dice per reading organ on a NIfTI CT with TotalSegmentator v2 labels on the same grid.

    Raises
    ------
    ValueError: if image and labels do not share their grid.
    """
    import nibabel  # noqa: PLC0415 - only here

    image, labels = (cast(nibabel.Nifti1Image, nibabel.load(p)) for p in (image_path, labels_path))
    if image.shape != labels.shape or not np.allclose(image.affine, labels.affine, atol=1e-2):
        raise ValueError(f"{labels_path.name} lies on another grid than {image_path.name}; resample it first")
    table = np.zeros(256, dtype=np.uint8)
    for value, label in v2_to_reading().items():
        table[value] = label
    truth = table[np.asanyarray(labels.dataobj).astype(np.uint8)]
    hu = np.asarray(image.dataobj, dtype=np.float32)
    volume, reference = (
        canonical(hd.Volume.from_nibabel(nibabel.Nifti1Image(a, image.affine)))  # type: ignore[no-untyped-call]
        for a in (hu, truth)
    )
    reading = reader.read(volume)
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    return organ_dice(
        reading.organ_mask.array, reference.array, min_voxels=max(1, round(MIN_ORGAN_ML / voxel_ml))
    )


def _tables(console: Console, figures: dict[str, Any]) -> None:
    if "phantoms" in figures:
        f = figures["phantoms"]
        table = Table(title=f"{f['studies']} unseen phantoms ({f['benchmark']})")
        tumour = f"tumour >= {f['min_diameter_mm']:g} mm"
        for column in (tumour, "planted", "found", "Dice", "false per study"):
            table.add_column(column)
        for name, t in f["tumours"].items():
            share = "-" if t["sensitivity"] is None else f"{t['found']} ({100 * t['sensitivity']:.0f} %)"
            overlap = "-" if t["dice"] is None else f"{t['dice']:.2f}"
            table.add_row(name, str(t["planted"]), share, overlap, f"{t['false_per_study']:.2f}")
        console.print(table)
        console.print(f"false lesions per study: {f['false_per_study']:.2f}")
        console.print(f"mean organ Dice: {f['mean_organ_dice']:.3f}")
    if "real_ct" in figures:
        r = figures["real_ct"]
        table = Table(title="real CT: Dice per reading organ")
        table.add_column("organ")
        table.add_column("Dice")
        for name, value in r["organ_dice"].items():
            table.add_row(name, f"{value:.2f}")
        console.print(table)
        console.print(f"mean over {len(r['organ_dice'])} organs present: {r['mean_organ_dice']:.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a checkpoint on unseen phantoms, and organ Dice on a real CT.",
        epilog="example: python -m training.evaluate --benchmark phantoms --n 20 --out figures.json",
    )
    parser.add_argument("checkpoint", type=Path, nargs="?", help="checkpoint folder (default: shipped)")
    parser.add_argument("--benchmark", choices=["phantoms"], help="read unseen phantoms")
    parser.add_argument("--n", type=int, default=20, help="number of phantoms (default: %(default)s)")
    parser.add_argument("--nifti", type=Path, help="a real CT")
    parser.add_argument("--labels", type=Path, help="its TotalSegmentator v2 label map on the same grid")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    if args.benchmark is None and args.nifti is None:
        parser.error("nothing to measure: give --benchmark phantoms, or --nifti with --labels")
    if (args.nifti is None) != (args.labels is None):
        parser.error("--nifti and --labels belong together")
    console = Console()
    reader = Reader.load(args.checkpoint, args.device)
    figures: dict[str, Any] = {"model": vars(reader.identity)}
    if args.benchmark:
        stream = read_cases(reader, TEST_SEED, args.n)
        results = list(track(stream, total=args.n, description="reading phantoms", console=console))
        figures["phantoms"] = summarise(results)
    if args.nifti:
        per_organ = real_ct_dice(reader, args.nifti, args.labels)
        figures["real_ct"] = {
            "organ_dice": per_organ,
            "mean_organ_dice": float(np.mean(list(per_organ.values()))),
        }
    _tables(console, figures)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
