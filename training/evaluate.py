"""Measure a checkpoint: ``python -m training.evaluate --benchmark phantoms``.

On unseen phantoms (organs, findings, zero-shot prompts, tumours, retrieval, localization,
calibration, each with its interval) and, with ``--nifti`` and ``--labels``, organ Dice on real
CT with reference masks. It only measures: thresholds come out of the checkpoint, set by
`training.calibrate` on other seeds.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from core_model.abnormality import abnormalities
from core_model.memory import keep_memory
from core_model.reader import Reader
from training import real_ct
from training.benchmark import TEST_SEED, VERSION
from training.bootstrap import SEED, Estimate, bootstrap
from training.case_store import CaseRecord, read_cases
from training.judging import CaseResult
from training.metrics import auc, froc, ratio, reliability
from training.plots import write_plots
from training.summary import Summary
from training.tables import HEADLINES, headlines, markdown

MIN_DIAMETER_MM = 15.0


def summarise(results: Sequence[CaseResult], min_diameter_mm: float = MIN_DIAMETER_MM) -> dict[str, Any]:
    """Plain figures over patients, without intervals, ready for JSON.

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
            "sensitivity": ratio(sum(p.found for p in planted), len(planted)),
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


def _finding_figures(results: Sequence[CaseResult], name: str) -> dict[str, Any]:
    own = [f for r in results for f in r.findings if f.abnormality == name]
    positive = [f for f in own if f.truth]
    negative = [f for f in own if not f.truth]
    return {
        "positives": len(positive),
        "negatives": len(negative),
        "sensitivity": ratio(sum(f.status == "present" for f in positive), len(positive)),
        "specificity": ratio(sum(f.status != "present" for f in negative), len(negative)),
        "auc": auc([f.probability for f in positive], [f.probability for f in negative]),
    }


def benchmark_results(summary: Summary, figures: Mapping[str, Estimate], draws: int) -> dict[str, Any]:
    """All figures with intervals, what stands behind them, and the plotted curves, for JSON."""
    rate, found = froc(summary.lesions.hits, summary.lesions.false, summary.lesions.studies)
    probability, truth, _ = summary.answers()
    bins = reliability(probability, truth, np.ones(len(probability)))
    return {
        "version": VERSION,
        "first_seed": summary.records[0].image.seed,
        "draws": draws,
        "draw_seed": SEED,
        "counts": summary.counts(),
        "figures": {name: asdict(estimate) for name, estimate in figures.items()},
        "curves": {
            "froc": {"false_per_study": rate.tolist(), "sensitivity": found.tolist()},
            "reliability": {k: v.tolist() for k, v in vars(bins).items()},
        },
    }


def write_metrics(checkpoint: Path, results: Mapping[str, Any], figures: Mapping[str, Estimate]) -> None:
    """Put the main figures into a checkpoint's card, as its "metrics"; they are no part of its digest."""
    file = checkpoint / "card.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    metrics: dict[str, Any] = {}
    if "benchmark" in results:
        main_ones = {name: asdict(figures[name]) for _, name, _ in HEADLINES if name in figures}
        patients = results["benchmark"]["counts"]["patients"]
        metrics[results["benchmark"]["version"]] = {"patients": patients, **main_ones}
    if "real_ct" in results:
        cases = len(results["real_ct"]["cases"])
        metrics["real_ct"] = {"cases": cases, "mean_organ_dice": results["real_ct"]["mean_organ_dice"]}
    card["metrics"] = card.get("metrics", {}) | metrics
    file.write_text(json.dumps(card, indent=1), encoding="utf-8")


def _tables(console: Console, results: Mapping[str, Any], figures: Mapping[str, Estimate]) -> None:
    if "phantoms" in results:
        f = results["phantoms"]
        table = Table(title=f"{f['studies']} unseen phantoms ({f['benchmark']})")
        tumour = f"tumour >= {f['min_diameter_mm']:g} mm"
        for column in (tumour, "planted", "found", "Dice", "false per study"):
            table.add_column(column)
        for name, t in f["tumours"].items():
            share = "-" if t["sensitivity"] is None else f"{t['found']} ({100 * t['sensitivity']:.0f} %)"
            overlap = "-" if t["dice"] is None else f"{t['dice']:.2f}"
            table.add_row(name, str(t["planted"]), share, overlap, f"{t['false_per_study']:.2f}")
        console.print(table)
        _two_columns(console, "95 % intervals by patient", "measured", "figure", headlines(figures))
    if "real_ct" in results:
        r = results["real_ct"]
        rows = [(name, f"{value:.2f}") for name, value in r["organ_dice"].items()]
        _two_columns(console, f"real CT ({len(r['cases'])}): Dice per reading organ", "organ", "Dice", rows)
        console.print(f"mean over {len(rows)} organs present: {r['mean_organ_dice']:.3f}")


def _two_columns(
    console: Console, title: str, left: str, right: str, rows: Sequence[tuple[str, str]]
) -> None:
    table = Table(left, right, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _read(reader: Reader, n: int, store: Path | None, console: Console) -> list[CaseRecord]:
    stream = read_cases(reader, TEST_SEED, n, reader.thresholds, store)
    return list(track(stream, total=n, description="reading phantoms", console=console))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a checkpoint on unseen phantoms, and organ Dice on real CT.",
        epilog="example: python -m training.evaluate --benchmark phantoms --n 200 --folder runs/evaluation",
    )
    parser.add_argument("checkpoint", type=Path, nargs="?", help="checkpoint folder (default: shipped)")
    parser.add_argument("--benchmark", choices=["phantoms"], help="read unseen phantoms")
    parser.add_argument("--n", type=int, default=20, help="number of phantoms (default: %(default)s)")
    parser.add_argument("--nifti", type=Path, help="a real CT, or a folder of them")
    parser.add_argument(
        "--labels", type=Path, help="its TotalSegmentator v2 label map on the same grid, or a folder by name"
    )
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    parser.add_argument("--folder", type=Path, help="write figures.json, figures.md and plots there")
    parser.add_argument(
        "--cases", type=Path, help="keep what was read there and go on from it (default: FOLDER/cases)"
    )
    parser.add_argument(
        "--draws", type=int, default=1000, help="bootstrap draws of the intervals (default: %(default)s)"
    )
    parser.add_argument(
        "--into-card", action="store_true", help="put the main figures into the card of CHECKPOINT"
    )
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    return parser


def _fault(args: argparse.Namespace) -> str:
    """What is wrong with the arguments and how to mend it; empty if nothing is."""
    if args.benchmark is None and args.nifti is None:
        return "nothing to measure: give --benchmark phantoms, or --nifti with --labels"
    if (args.nifti is None) != (args.labels is None):
        return "--nifti and --labels belong together"
    if args.n < 1 or args.draws < 0:
        return f"--n is {args.n} and --draws {args.draws}; needed are 1 and 0 at least"
    if args.into_card and args.checkpoint is None:
        return "--into-card rewrites a card; name the CHECKPOINT"
    return ""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(arguments)
    keep_memory()
    fault = _fault(args)
    if fault:
        parser.error(fault)
    try:
        files = real_ct.pairs(args.nifti, args.labels) if args.nifti else []
    except (OSError, ValueError) as error:
        parser.error(str(error))
    console = Console()
    reader = Reader.load(args.checkpoint, args.device)
    results: dict[str, Any] = {"model": vars(reader.identity)}
    figures: dict[str, Estimate] = {}
    summary = None
    if args.benchmark:
        store = args.cases or (args.folder / "cases" if args.folder else None)
        records = _read(reader, args.n, store, console)
        detection = reader.card.get("calibration", {}).get("detection_thresholds")
        summary = Summary(records, reader.thresholds, detection)
        figures = bootstrap(summary.figures, len(records), args.draws)
        results["phantoms"] = summarise(summary.verdicts)
        results["benchmark"] = benchmark_results(summary, figures, args.draws)
    if files:
        steps = track(files, description="reading CT", console=console)
        dice = {name: real_ct.real_ct_dice(reader, image, labels) for name, image, labels in steps}
        results["real_ct"] = real_ct.summarise(dice, args.draws)
    _tables(console, results, figures)
    if args.into_card:
        write_metrics(args.checkpoint, results, figures)
    for out in filter(None, (args.out, args.folder / "figures.json" if args.folder else None)):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if args.folder:
        plots = write_plots(summary, args.folder) if summary else []
        text = markdown(results, figures, [p.name for p in plots])
        (args.folder / "figures.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
