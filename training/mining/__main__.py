"""``python -m training.mining``: sentences, labels, references and a dictionary out of reports, and how well.

The only module here that prints. Reports come from a CSV, a text file or a folder of text files.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from training.mining import dictionary, evaluate, instruct
from training.mining.concepts import CT_RATE, concepts
from training.mining.labels import Label, labels
from training.mining.organ_sentences import organ_sentences
from training.mining.references import referring_sentences
from training.mining.reports import ReportText, read_reports

VALUES = {"present": 1, "absent": 0, "uncertain": -1, "unknown": -1}  # as training reads them: -1 is not used


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(arguments)
    commands = {
        "sentences": _sentences,
        "labels": _labels,
        "references": _references,
        "dictionary": _dictionary,
        "evaluate": _evaluate,
    }
    try:
        commands[args.command](args)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.mining", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "sentences": "organ sentences, one report per line of JSON",
        "labels": "CT-RATE's 18 labels as CSV: 1 present, 0 absent, -1 uncertain or not mentioned",
        "references": "references to images and what was dropped, one report per line of JSON",
        "dictionary": "the abnormality dictionary with the corpus's wordings, as an abnormality.csv",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("reports", type=Path, help="a CSV, a text file or a folder of *.txt")
        command.add_argument("--columns", nargs=2, metavar=("ID", "TEXT"), help="of a CSV of another layout")
        command.add_argument("--out", type=Path, help="a file; the terminal unless given")
        if name == "sentences":
            command.add_argument(
                "--model", type=Path, help="folder of a local instruction model; rules unless given"
            )
            command.add_argument("--device", default="cpu", help="for the model")
        if name == "labels":
            command.add_argument(
                "--evidence", type=Path, help="a file for the sentences that decided, as JSON"
            )
        if name == "dictionary":
            command.add_argument("--least", type=int, default=3, help="reports in which a wording must occur")
            command.add_argument(
                "--most", type=int, default=20, help="wordings that are added per abnormality"
            )
    measure = commands.add_parser(
        "evaluate", help="measure on a CSV with the truth", description=evaluate.__doc__
    )
    measure.add_argument("csv", type=Path)
    measure.add_argument(
        "--halves", action="store_true", help="also on the half that rules may be developed on"
    )
    return parser


@contextmanager
def _writing(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        yield file


def _reports(args: argparse.Namespace) -> Iterator[ReportText]:
    """The reports; says at the end how many there were and how many are empty."""
    count, empty = 0, []
    for report in read_reports(args.reports, tuple(args.columns) if args.columns else None):
        count += 1
        if not report.text.strip():
            empty.append(report.name)
            continue
        yield report
    said = f"{count} reports"
    if empty:
        first = ", ".join(empty[:5]) + (" ..." if len(empty) > 5 else "")
        said += f", {len(empty)} of them empty and left out: {first}"
    sys.stderr.write(f"{said}\n")


def _sentences(args: argparse.Namespace) -> None:
    method: dict[str, str] = {"organs_by": "rules"}
    ask = None
    if args.model is not None:
        ask, identity = instruct.load(args.model, args.device)
        method = {"organs_by": "model", **asdict(identity)}
    with _writing(args.out) as file:
        for report in _reports(args):
            mined = organ_sentences(report.text)
            if ask is not None:
                mined = instruct.by_model(mined, ask)
            record = {"report": report.name, "method": method, "sentences": [asdict(s) for s in mined]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _labels(args: argparse.Namespace) -> None:
    names = [c.name for c in concepts(CT_RATE)]
    evidence: dict[str, list[Label]] = {}
    with _writing(args.out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["report", *names])
        for report in _reports(args):
            read = labels(report.text)
            writer.writerow([report.name, *(VALUES[x.presence] for x in read)])
            evidence[report.name] = [x for x in read if x.evidence]
    if args.evidence is not None:
        with _writing(args.evidence) as file:
            json.dump({name: [asdict(x) for x in read] for name, read in evidence.items()}, file, indent=1)


def _references(args: argparse.Namespace) -> None:
    with _writing(args.out) as file:
        for report in _reports(args):
            found = [asdict(r) for r in referring_sentences(report.text)]
            if found:
                file.write(json.dumps({"report": report.name, "sentences": found}, ensure_ascii=False) + "\n")


def _dictionary(args: argparse.Namespace) -> None:
    grown = dictionary.grow((r.text for r in _reports(args)), least=args.least, most=args.most)
    with _writing(args.out) as file:
        file.write(dictionary.table(grown))
    sys.stderr.write(f"{len(grown)} wordings added\n")


def _evaluate(args: argparse.Namespace) -> None:
    rows = evaluate.read_truth(args.csv)
    console = Console(width=110)
    if {"sentence", "references"} <= set(rows[0]):
        score = evaluate.reference_score(rows)
        console.print(_table("references", [score]))
        print(f"precision {score.precision:.4f} recall {score.recall:.4f}")
        return
    if args.halves:
        for name, half in evaluate.halves(rows).items():
            if half:
                console.print(_table(f"{name}, {len(half)} reports", evaluate.label_scores(half)))
    scores = evaluate.label_scores(rows)
    console.print(_table(f"{len(rows)} reports", scores))
    print(f"macro F1 {evaluate.macro_f1(scores):.4f}")


def _table(title: str, scores: Sequence[evaluate.Score]) -> Table:
    table = Table("label", "present", "found", "false", "missed", "precision", "recall", "F1", title=title)
    for s in scores:
        counts = [str(n) for n in (s.true + s.missed, s.true, s.false, s.missed)]
        shares = [f"{x:.3f}" for x in (s.precision, s.recall, s.f1)] if s.occurs else ["-"] * 3
        table.add_row(s.name, *counts, *shares)
    if len(scores) > 1 and any(s.occurs for s in scores):
        table.add_row("macro", *[""] * 6, f"{evaluate.macro_f1(scores):.3f}")
    return table


if __name__ == "__main__":
    main()
