"""Two checkpoints on the same patients, a grounded one against its baseline or against an ablation of it.

Vanilla CLIP draws no masks, so each is measured by what it has: the grounded reader's findings against
the baseline's prompts on the whole scan (CT-GLIP's zero-shot comparison, model.md section 1). With
``--ablation`` both are grounded and measured by the same figures. Differences are paired by patient. It reads
what the folder of cases lacks, and trains nothing. Called as ``python -m training.compare``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from core_model.abnormality import abnormalities
from core_model.reader import Reader
from training.benchmark import TEST_SEED, VERSION
from training.bootstrap import Estimate, Figures, Weights, bootstrap
from training.case_store import CaseRecord, read_together
from training.metrics import macro
from training.read_together import readers_of
from training.summary import Summary
from training.tables import show

TUMOURS = "zero_shot_scan/tumours/auc"
VECTORS = "retrieval_embedding/text_to_volume/r10"


@dataclass(frozen=True)
class Row:
    """One comparison: the figure of each side, its unit, and whether less is better."""

    label: str
    grounded: str
    baseline: str
    unit: str = ""
    less: bool = False


ROWS = (
    Row("abnormality detection, F1", "detection/macro/f1", "zero_shot_scan/macro/f1"),
    Row("abnormality detection, AUC", "findings/macro/auc", "zero_shot_scan/macro/auc"),
    Row("zero-shot prompts, F1", "zero_shot/macro/f1", "zero_shot_scan/macro/f1"),
    Row("zero-shot prompts, AUC", "zero_shot/macro/auc", "zero_shot_scan/macro/auc"),
    Row("tumour detection, AUC (mean over types)", "tumour_detection/macro/auc", TUMOURS),
    Row(  # who draws no masks has a Dice of 0
        "tumour Dice, mean over types",
        "tumour_segmentation/macro/dice",
        "tumour_segmentation/macro/dice",
    ),
    Row("report to scan, R@10", "retrieval/text_to_volume/r10", "retrieval/text_to_volume/r10", unit="share"),
    Row("scan to report, R@10", "retrieval/volume_to_text/r10", "retrieval/volume_to_text/r10", "share"),
    Row("report to scan by one vector of each, R@10", VECTORS, VECTORS, "share"),
    Row(
        "snippet localization, mean absolute error",
        "localization/localize/mae_mm",
        "localization/localize/mae_mm",
        "mm",
        less=True,
    ),
    Row(
        "snippets within 24 mm",
        "localization/localize/within_24_mm",
        "localization/localize/within_24_mm",
        "share",
    ),
)


ABLATION_ROWS = (
    *(replace(row, baseline=row.grounded) for row in ROWS),
    Row("organ recognition, top-1", "organ_recognition/top1", "organ_recognition/top1", "share"),
)


def side(summary: Summary) -> Figures:
    """A summary's figures and what only a comparison asks: zero-shot AUC of tumours on the whole scan."""
    tumours = [a.name for a in abnormalities() if a.tumour]

    def figures(weights: Weights) -> dict[str, float | None]:
        found = summary.figures(weights)
        return found | {TUMOURS: macro(found[f"zero_shot_scan/{name}/auc"] for name in tumours)}

    return figures


def compared(
    grounded: Summary, baseline: Summary, draws: int, rows: Sequence[Row] = ROWS
) -> list[tuple[Row, dict[str, Estimate | None]]]:
    """Every row with "grounded", "baseline" and "difference", intervals by patient.

    Raises
    ------
    ValueError: if the two saw different patients.
    """
    seeds = [[r.image.seed for r in s.records] for s in (grounded, baseline)]
    if seeds[0] != seeds[1]:
        raise ValueError(f"grounded has {len(seeds[0])} patients, baseline {len(seeds[1])}; compare the same")
    left, right = side(grounded), side(baseline)

    def figures(weights: Weights) -> dict[str, float | None]:
        one, other = left(weights), right(weights)
        found: dict[str, float | None] = {}
        for row in rows:
            a, b = one.get(row.grounded), other.get(row.baseline)
            found[f"{row.label}/grounded"], found[f"{row.label}/baseline"] = a, b
            found[f"{row.label}/difference"] = None if a is None or b is None else a - b
        return found

    estimates = bootstrap(figures, len(grounded.records), draws)
    sides = ("grounded", "baseline", "difference")
    return [(row, {s: estimates.get(f"{row.label}/{s}") for s in sides}) for row in rows]


def markdown(
    rows: Sequence[tuple[Row, dict[str, Estimate | None]]], names: tuple[str, str], patients: int
) -> str:
    """The comparison as a Markdown table."""
    head = ("measured", *names, "difference")
    lines = [
        f"# {names[0]} against {names[1]}",
        "",
        f"{patients} unseen phantoms ({VERSION}); "
        "in brackets the 95 % interval by patient, of differences paired.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * 4)),
    ]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(rows)]
    return "\n".join([*lines, ""])


def _cells(rows: Sequence[tuple[Row, dict[str, Estimate | None]]]) -> list[tuple[str, ...]]:
    return [
        (
            row.label + (" (less is better)" if row.less else ""),
            *(show(found[s], row.unit) for s in ("grounded", "baseline", "difference")),
        )
        for row, found in rows
    ]


def _summary(reader: Reader, records: Sequence[CaseRecord]) -> Summary:
    return Summary(records, reader.thresholds, reader.card.get("calibration", {}).get("detection_thresholds"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare",
        description="Compare a checkpoint with its baseline on unseen phantoms, patient by patient. "
        "Calibrate both before (training.calibrate): thresholds come from development patients.",
        epilog="example: python -m training.compare runs/heads/checkpoint runs/clip/checkpoint --n 200 "
        "--cases runs/cases --out runs/comparison.json",
    )
    parser.add_argument("grounded", type=Path, help="checkpoint folder")
    parser.add_argument("baseline", type=Path, help="checkpoint folder on the same frozen encoder")
    parser.add_argument("--n", type=int, default=200, help="number of phantoms (default: %(default)s)")
    parser.add_argument(
        "--cases", type=Path, required=True, metavar="DIR", help="keep what was read there; go on from it"
    )
    parser.add_argument("--out", type=Path, help="write JSON there, and the table beside it as Markdown")
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="the baseline is a grounded one too (training.pretrain --without): same figures on both sides",
    )
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws (default: %(default)s)")
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    if args.n < 1 or args.draws < 0:
        parser.error(f"--n is {args.n} and --draws {args.draws}; needed are 1 and 0 at least")
    console = Console()
    try:
        readers, shared = readers_of([args.grounded, args.baseline], args.device)
    except ValueError as error:
        parser.error(str(error))
    seeds = range(TEST_SEED, TEST_SEED + args.n)
    stream = read_together(readers, seeds, [r.thresholds for r in readers], args.cases, shared)
    pairs = list(track(stream, total=args.n, description="reading phantoms", console=console))
    summaries = [_summary(r, [p[i] for p in pairs]) for i, r in enumerate(readers)]
    rows = compared(summaries[0], summaries[1], args.draws, ABLATION_ROWS if args.ablation else ROWS)
    names = (readers[0].identity.name, readers[1].identity.name)
    table = Table("measured", *names, "difference", title=f"{args.n} unseen phantoms ({VERSION})")
    for cells in _cells(rows):
        table.add_row(*cells)
    console.print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(_plain(rows, readers, args.n), indent=1), encoding="utf-8")
        args.out.with_suffix(".md").write_text(markdown(rows, names, args.n), encoding="utf-8")


def _plain(
    rows: Sequence[tuple[Row, dict[str, Estimate | None]]], readers: Sequence[Reader], n: int
) -> dict[str, Any]:
    """For JSON."""
    return {
        "version": VERSION,
        "patients": n,
        "models": [vars(r.identity) for r in readers],
        "rows": {row.label: {s: asdict(e) if e else None for s, e in found.items()} for row, found in rows},
    }


if __name__ == "__main__":
    main()
