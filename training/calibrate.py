"""Set a checkpoint's thresholds and temperature on development phantoms.

``python -m training.calibrate CHECKPOINT`` writes them into the card: lesion thresholds and
the temperature for the reader, thresholds of zero-shot prompts for `training.evaluate`. Test
seeds are never read here (`training.benchmark` keeps the two apart).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy.optimize import minimize_scalar

from core_model.abnormality import abnormalities
from core_model.reader import Reader, Thresholds
from training.benchmark import DEVELOPMENT_SEED
from training.case_store import CaseRecord, read_cases
from training.judging import CaseResult, ReportedResult, bare, verdict
from training.metrics import youden_threshold

FALSE_PER_STUDY = 0.1  # allowed per tumour type on the development set; our choice
LOWEST_SCORE = 0.55  # of a reported lesion, where voxels belong to lesions from 0.5


def lesion_thresholds(
    results: Sequence[CaseResult], lowest: float = LOWEST_SCORE, false_per_study: float = FALSE_PER_STUDY
) -> dict[str, float]:
    """Per tumour type the lowest score that keeps false lesions per study within the allowance."""
    chosen = {}
    allowed = int(false_per_study * len(results))
    for entry in abnormalities():
        if entry.tumour:
            own = [q for r in results for q in r.reported if q.abnormality == entry.name]
            chosen[entry.name] = _threshold(own, allowed, lowest)
    return chosen


def _threshold(reported: Sequence[ReportedResult], allowed: int, lowest: float) -> float:
    false = sorted((q.score for q in reported if not q.true), reverse=True)
    if len(false) <= allowed:
        return lowest
    return round(max(lowest, float(np.nextafter(false[allowed], 1)) + 0.005), 4)


def temperature(results: Sequence[CaseResult]) -> float:
    """The temperature that minimises the log loss of all findings; 1 means well calibrated."""
    pairs = [(f.probability, f.truth) for r in results for f in r.findings]
    probability = np.clip(np.array([p for p, _ in pairs]), 1e-5, 1 - 1e-5)
    logit = np.log(probability / (1 - probability))
    sign = np.where([t for _, t in pairs], 1.0, -1.0)

    def log_loss(log_t: float) -> float:
        return float(np.logaddexp(0, -sign * logit / np.exp(log_t)).mean())

    found = minimize_scalar(log_loss, bounds=(np.log(0.2), np.log(5)), method="bounded")
    return round(float(np.exp(found.x)), 3)


def prompt_thresholds(records: Sequence[CaseRecord]) -> dict[str, dict[str, float]]:
    """Youden thresholds of zero-shot prompts, for organ embeddings and for whole scans.

    Returns
    -------
    {"organ": {abnormality: threshold}, "scan": {...}}, without abnormalities that all or none of
    the development patients have.
    """
    chosen: dict[str, dict[str, float]] = {"organ": {}, "scan": {}}
    for entry in abnormalities():
        truth = [entry.name in r.image.abnormalities for r in records]
        for level, scores in (
            ("organ", [r.words.organ_scores.get(entry.name, np.nan) for r in records]),
            ("scan", [r.words.scan_scores.get(entry.name, np.nan) for r in records]),
        ):
            threshold = youden_threshold(scores, truth)
            if threshold is not None:
                chosen[level][entry.name] = round(threshold, 5)
    return chosen


def calibrate(
    checkpoint: Path,
    n: int,
    device: str | None,
    console: Console,
    mask: float = 0.5,
    *,
    false_per_study: float = FALSE_PER_STUDY,
    cases: Path | None = None,
) -> dict[str, Any]:
    """Read `n` development phantoms and write thresholds into the checkpoint's card.

    Parameters
    ----------
    mask: voxel probability above which a voxel belongs to a lesion; lesion scores depend on it.
    false_per_study: false lesions per development study that each tumour type may have.
    cases: folder that keeps what was read, to go on from it (`training.case_store`).

    Returns
    -------
    The thresholds as written.
    """
    reader = Reader.load(checkpoint, device)
    plain = bare(Thresholds(mask=mask))
    stream = read_cases(reader, DEVELOPMENT_SEED, n, plain, cases)
    records = list(track(stream, total=n, description="reading development phantoms", console=console))
    results = [verdict(r.image, plain) for r in records]
    found = replace(
        plain,
        lesion=lesion_thresholds(results, mask + 0.05, false_per_study),
        temperature=temperature(results),
        raise_findings=True,
    )
    thresholds = asdict(found)
    card_file = checkpoint / "card.json"
    card = json.loads(card_file.read_text(encoding="utf-8"))
    card["thresholds"] = thresholds
    card["calibration"] = {
        "development_phantoms": n,
        "first_seed": DEVELOPMENT_SEED,
        "false_per_study": false_per_study,
        "prompt_thresholds": prompt_thresholds(records),
    }
    card_file.write_text(json.dumps(card, indent=1), encoding="utf-8")
    return thresholds


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate",
        description="Set thresholds and temperature of a checkpoint on development phantoms.",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder; its card is rewritten")
    parser.add_argument("--n", type=int, default=24, help="number of phantoms (default: %(default)s)")
    parser.add_argument(
        "--mask", type=float, default=0.5, help="voxel threshold of lesion masks (default: %(default)s)"
    )
    parser.add_argument(
        "--false-per-study",
        type=float,
        default=FALSE_PER_STUDY,
        help="false lesions per study that each tumour type may have (default: %(default)s)",
    )
    parser.add_argument("--cases", type=Path, help="keep what was read there and go on from it")
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    if args.n < 1 or args.false_per_study < 0:
        parser.error(
            f"--n is {args.n} and --false-per-study {args.false_per_study}; needed: 1 and 0 at least"
        )
    console = Console()
    thresholds = calibrate(
        args.checkpoint,
        args.n,
        args.device,
        console,
        args.mask,
        false_per_study=args.false_per_study,
        cases=args.cases,
    )
    console.print_json(data=thresholds)


if __name__ == "__main__":
    main()
