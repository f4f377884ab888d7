"""Set a checkpoint's thresholds and temperature on development phantoms.

``python -m training.calibrate CHECKPOINT`` writes them into the card: lesion thresholds and
the temperature for the reader, detection thresholds for `training.evaluate`. Test
seeds are never read here (`training.benchmark` keeps the two apart).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from scipy.optimize import minimize

from core_model.abnormality import abnormalities
from core_model.memory import keep_memory
from core_model.reader import Reader
from core_model.thresholds import MOST_CERTAIN, Thresholds
from training.benchmark import DEVELOPMENT_SEED
from training.case_store import CaseRecord, read_cases
from training.judging import CaseResult, ReportedResult, bare, scored, verdict
from training.metrics import youden_threshold

FALSE_PER_STUDY = 0.1  # allowed per tumour type on the development set; our choice
LOWEST_SCORE = 0.2  # lesions less probable than this are never reported; our choice
OFFSET_SD = 3.0  # how far offsets of findings are expected from zero; our choice
TEMPERATURE_SD = 0.5  # the same of the logarithm of a tumour type's temperature
STEEPEST = 5.0  # the factor of 1 that a temperature stays within; our choice


def lesion_thresholds(
    results: Sequence[CaseResult],
    lowest: float = LOWEST_SCORE,
    false_per_study: float = FALSE_PER_STUDY,
    allow: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Per tumour type the lowest score that keeps false lesions per study within the allowance.

    Parameters
    ----------
    allow: the allowance of some types, instead of `false_per_study`.
    """
    chosen = {}
    for entry in abnormalities():
        if entry.tumour:
            allowed = int((allow or {}).get(entry.name, false_per_study) * len(results))
            own = [q for r in results for q in r.reported if q.abnormality == entry.name]
            chosen[entry.name] = _threshold(own, allowed, lowest)
    return chosen


def _threshold(reported: Sequence[ReportedResult], allowed: int, lowest: float) -> float:
    false = sorted((q.score for q in reported if not q.true), reverse=True)
    if len(false) <= allowed:
        return lowest
    return round(max(lowest, float(np.nextafter(false[allowed], 1)) + 0.005), 4)


def lesion_scale(results: Sequence[CaseResult]) -> tuple[dict[str, float], dict[str, float]]:
    """Offset and temperature of each tumour type that minimise the log loss of its bare candidates.

    Held near none because development patients are few, as those of findings. So scores of different types
    are probabilities that can be compared: of a colon tumour 0.99 may mean what 0.9 means of a nodule.
    """
    offsets: dict[str, float] = {}
    temperatures: dict[str, float] = {}
    reported = [q for r in results for q in r.reported]
    for name in sorted({q.abnormality for q in reported}):
        said = [(name, q.score, q.true) for q in reported if q.abnormality == name]
        own, temperatures[name] = _platt(said, expected=TEMPERATURE_SD)
        offsets |= own
    return offsets, temperatures


def finding_scale(results: Sequence[CaseResult]) -> tuple[dict[str, float], float]:
    """Offsets and the temperature that minimise the log loss of all bare findings (Platt scaling).

    One slope for all abnormalities, one offset for each, held near zero because development
    patients are few: our choice. No offset and 1 mean well calibrated.
    """
    found = [f for r in results for f in r.findings]
    return _platt([(f.abnormality, f.probability, f.truth) for f in found])


def _platt(
    said: Sequence[tuple[str, float, bool]], expected: float = math.inf
) -> tuple[dict[str, float], float]:
    """Offsets by name, and the temperature.

    Parameters
    ----------
    said: (name, probability, truth).
    expected: standard deviation of the logarithm of the temperature, as known before; it is within
        `STEEPEST` of 1 in any case.
    """
    names = sorted({name for name, _, _ in said})
    index = np.array([names.index(name) for name, _, _ in said], dtype=int)
    probability = np.clip(np.array([p for _, p, _ in said]), MOST_CERTAIN, 1 - MOST_CERTAIN)
    logit = np.log(probability / (1 - probability))
    sign = np.where([truth for _, _, truth in said], 1.0, -1.0)

    def loss(x: npt.NDArray[np.float64]) -> float:
        scaled = (logit + x[1:][index]) / np.exp(x[0])
        far = (x[1:] ** 2).sum() / (2 * OFFSET_SD**2) + (x[0] / expected) ** 2 / 2
        return float(np.logaddexp(0, -sign * scaled).sum() + far)

    bounds = [(-np.log(STEEPEST), np.log(STEEPEST)), *[(-9.0, 9.0)] * len(names)]
    best = minimize(loss, np.zeros(1 + len(names)), method="L-BFGS-B", bounds=bounds).x
    offsets = {name: round(float(b), 3) for name, b in zip(names, best[1:], strict=True)}
    return offsets, round(float(np.exp(best[0])), 3)


def priors(results: Sequence[CaseResult]) -> dict[str, float]:
    """Mean probability of each finding, over the patients of whom its organ is in view."""
    said: dict[str, list[float]] = {}
    for result in results:
        for f in result.findings:
            said.setdefault(f.abnormality, []).append(f.probability)
    return {name: round(float(np.mean(said[name])), 4) for name in sorted(said)}


def detection_thresholds(
    records: Sequence[CaseRecord], thresholds: Thresholds
) -> dict[str, dict[str, float]]:
    """Youden thresholds of all that a patient's abnormalities can be detected by.

    Findings' own probability, and zero-shot prompts on organ embeddings and on whole scans. What the
    reader reports as present is more cautious: it asks for a probability (`Thresholds.present_from`).

    Parameters
    ----------
    thresholds: that findings are reported with.

    Returns
    -------
    {"finding": {abnormality: threshold}, "organ": {...}, "scan": {...}}, without abnormalities that
    all or none of the development patients have.
    """
    chosen: dict[str, dict[str, float]] = {"finding": {}, "organ": {}, "scan": {}}
    found = [{f.abnormality: f.probability for f in verdict(r.image, thresholds).findings} for r in records]
    for entry in abnormalities():
        truth = [entry.name in r.image.abnormalities for r in records]
        for level, scores in (
            ("finding", [f.get(entry.name, np.nan) for f in found]),
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
    allow: Mapping[str, float] | None = None,
    first_masks: Sequence[str] | None = None,
    second_pieces: Sequence[str] | None = None,
    cases: Path | None = None,
) -> dict[str, Any]:
    """Read `n` development phantoms and write thresholds into the checkpoint's card.

    Parameters
    ----------
    mask: voxel probability above which a voxel belongs to a lesion; lesion scores depend on it.
    false_per_study: false lesions per development study that each tumour type may have.
    allow: the same for some types.
    first_masks: abnormalities that are not to be drawn again (`Thresholds.first_masks`); None: the card's.
    second_pieces: those whose candidates are pieces of the second look's masks (`Thresholds.second_pieces`);
        None: the card's.
    cases: folder that keeps what was read, to go on from it (`training.case_store`).

    Returns
    -------
    The thresholds as written.
    """
    reader = Reader.load(checkpoint, device)
    own = reader.thresholds
    plain = bare(
        Thresholds(
            mask=mask,
            first_masks=own.first_masks if first_masks is None else tuple(sorted(first_masks)),
            second_pieces=own.second_pieces if second_pieces is None else tuple(sorted(second_pieces)),
        )
    )
    stream = read_cases(reader, DEVELOPMENT_SEED, n, plain, cases)
    records = list(track(stream, total=n, description="reading development phantoms", console=console))
    offsets, temperatures = lesion_scale([verdict(r.image, plain) for r in records])
    plain = replace(plain, lesion_offset=offsets, lesion_temperature=temperatures)
    records = [replace(r, image=scored(r.image, plain)) for r in records]
    results = [verdict(r.image, plain) for r in records]
    offset, temperature = finding_scale(results)
    found = replace(
        plain,
        lesion=lesion_thresholds(results, false_per_study=false_per_study, allow=allow),
        offset=offset,
        temperature=temperature,
        raise_findings=True,
    )
    found = replace(found, prior=priors([verdict(r.image, found) for r in records]))
    thresholds = asdict(found)
    card_file = checkpoint / "card.json"
    card = json.loads(card_file.read_text(encoding="utf-8"))
    card["thresholds"] = thresholds
    card["calibration"] = {
        "development_phantoms": n,
        "first_seed": DEVELOPMENT_SEED,
        "false_per_study": false_per_study,
        "allow": dict(allow or {}),
        "detection_thresholds": detection_thresholds(records, found),
    }
    card_file.write_text(json.dumps(card, indent=1), encoding="utf-8")
    return thresholds


def allowance(text: str) -> tuple[str, float]:
    """``liver_tumour=0.4`` as a tumour type and a number.

    Raises
    ------
    argparse.ArgumentTypeError: if it is not of that form.

    >>> allowance("liver_tumour=0.4")
    ('liver_tumour', 0.4)
    """
    name, _, value = text.partition("=")
    known = [a.name for a in abnormalities() if a.tumour]
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if name not in known or not number >= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TYPE=VALUE with 0 or more; types: {', '.join(known)}"
        )
    return name, number


def add_second_pieces(parser: argparse.ArgumentParser) -> None:
    """The option by which programs that read patients are told of `Thresholds.second_pieces`."""
    parser.add_argument(
        "--second-pieces",
        nargs="*",
        choices=[a.name for a in abnormalities() if a.tumour],
        metavar="NAME",
        help="tumours whose candidates are pieces of what the second look draws, not of their first masks "
        "(default: those of the card)",
    )


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
    parser.add_argument(
        "--allow",
        type=allowance,
        action="append",
        default=[],
        metavar="TYPE=VALUE",
        help="another number for one tumour type; may be repeated",
    )
    parser.add_argument(
        "--first-masks",
        nargs="+",
        choices=[a.name for a in abnormalities()],
        metavar="NAME",
        help="abnormalities that are not drawn again by the second look (default: those of the card)",
    )
    add_second_pieces(parser)
    parser.add_argument("--cases", type=Path, help="keep what was read there and go on from it")
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    keep_memory()
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
        allow=dict(args.allow),
        first_masks=args.first_masks,
        second_pieces=args.second_pieces,
        cases=args.cases,
    )
    console.print_json(data=thresholds)


if __name__ == "__main__":
    main()
