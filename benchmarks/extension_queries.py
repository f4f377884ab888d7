"""Does a question end on the slice of the lesion? ``python -m benchmarks.extension_queries`` (issue 4).

Patients of the phantom benchmark, stored as DICOM and read by the node, are asked for what was planted
in them through the 3D Slicer extension in its test harness: type, Enter, and where the red slice stands.
Everything is kept in ``--work``, so that a run that was cut off goes on. Needs the slicer extra.

The distance is that along the scan's axis from the red slice to the nearest slice that shows a voxel of a
planted lesion of the kind asked for; 0 within half a slice of one. The baseline is the scan's middle slice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.query_cases import VOXELS, Question, questions
from benchmarks.running_service import running_service

NEAR_MM = 12.0
ANSWERS, PICTURES = "answers.jsonl", "pictures"
_COLUMNS, _CAPTION = 3, 48


@dataclass(frozen=True)
class Outcome:
    """How far off one answer is, mm.

    Attributes
    ----------
    axial: of the red slice to the nearest slice of a lesion.
    centre: of the red slice to the middle of the nearest lesion.
    point: of the place in space to the nearest voxel of a lesion.
    middle: as `axial`, of the middle slice of the scan.
    """

    question: Question
    axial: float
    centre: float
    point: float
    middle: float


def measured(work: Path, question: Question, red_lps_mm: Sequence[float]) -> Outcome:
    """Compare an answer with what was planted."""
    with np.load(work / "cases" / str(question.seed) / VOXELS) as kept:
        lesions, affine = kept["lesions"], kept["affine"]
    step = float(affine[2, 0])
    z = float(affine[2, 3]) + step * np.arange(len(lesions))
    own = np.isin(lesions, question.mask_values)
    planes = z[own.any(axis=(1, 2))]
    centres = [z[np.argwhere(lesions == value)[:, 0]].mean() for value in question.mask_values]
    voxels = np.argwhere(own) @ affine[:3, :3].T + affine[:3, 3]

    def axial(at: float) -> float:
        nearest = float(np.abs(planes - at).min())
        return 0.0 if nearest <= abs(step) / 2 else nearest

    red = np.asarray(red_lps_mm)
    return Outcome(
        question=question,
        axial=axial(float(red[2])),
        centre=float(np.abs(np.array(centres) - red[2]).min()),
        point=float(np.linalg.norm(voxels - red, axis=1).min()),
        middle=axial(float(z[len(z) // 2])),
    )


def ask(work: Path, wanted: Sequence[Question], checkpoint: Path | None) -> None:
    """Have the extension ask the real service what has no answer yet."""
    answered = answers(work)
    left = [question for question in wanted if question.key not in answered]
    if not left:
        return
    (work / PICTURES).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, running_service(work / "archive", checkpoint) as service:
        asked = Path(name) / "questions.jsonl"
        lines = [json.dumps({**asdict(question), "key": question.key}) for question in left]
        asked.write_text("\n".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "tests.slicer.harness.ask_questions", str(work)]
        command += ["--questions", str(asked), "--answers", str(work / ANSWERS)]
        subprocess.run([*command, "--url", f"http://127.0.0.1:{service.port}"], check=True)


def answers(work: Path) -> dict[str, Any]:
    """The answers kept so far, by key of the question."""
    path = work / ANSWERS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {answer["key"]: answer for answer in map(json.loads, lines)}


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Shares and medians, of all and per abnormality."""

    def of(group: Sequence[Outcome]) -> dict[str, float | int]:
        axial, middle = (np.array([getattr(o, name) for o in group]) for name in ("axial", "middle"))
        return {
            "questions": len(group),
            "within_12_mm": round(float((axial <= NEAR_MM).mean()), 3),
            "middle_slice_within_12_mm": round(float((middle <= NEAR_MM).mean()), 3),
            "median_mm": round(float(np.median(axial)), 1),
            "median_to_centre_mm": round(float(np.median([o.centre for o in group])), 1),
            "place_within_12_mm": round(float(np.mean([o.point <= NEAR_MM for o in group])), 3),
        }

    kinds = sorted({outcome.question.abnormality for outcome in outcomes})
    each = {kind: of([o for o in outcomes if o.question.abnormality == kind]) for kind in kinds}
    patients = len({outcome.question.seed for outcome in outcomes})
    return {"patients": patients, "all": of(outcomes), "per_abnormality": each}


def montage(work: Path, outcomes: Sequence[Outcome]) -> Image.Image:
    """Red views of six questions: above the first three that stand on a lesion, below three drawn by lot."""
    good = [outcome for outcome in outcomes if outcome.axial == 0.0][:_COLUMNS]
    rest = [outcome for outcome in outcomes if outcome not in good]
    lot = np.random.default_rng(0).permutation(len(rest))[:_COLUMNS]
    rows = [good, [rest[index] for index in sorted(lot)]]
    tile = Image.open(work / PICTURES / _name(outcomes[0].question)).size
    sheet = Image.new("RGB", (_COLUMNS * tile[0], 2 * (tile[1] + _CAPTION)), "black")
    draw = ImageDraw.Draw(sheet)
    for row, group in enumerate(rows):
        for column, outcome in enumerate(group):
            left, top = column * tile[0], row * (tile[1] + _CAPTION)
            sheet.paste(Image.open(work / PICTURES / _name(outcome.question)), (left, top + _CAPTION))
            chosen = "chosen as good" if row == 0 else "drawn by lot"
            draw.text((left + 6, top + 4), outcome.question.text, fill="white", font_size=15)
            text = f"{outcome.axial:.0f} mm from the lesion's slices; {chosen}"
            draw.text((left + 6, top + 25), text, fill="white", font_size=13)
    return sheet


def _name(question: Question) -> str:
    return f"{question.key.replace('/', '_')}.png"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extension_queries",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps patients and answers")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--checkpoint", type=Path, help="model (default: the shipped one)")
    parser.add_argument("--picture", type=Path, help="PNG of six of them")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    wanted = list(questions(given.work, given.questions, given.checkpoint))
    ask(given.work, wanted, given.checkpoint)
    found = answers(given.work)
    outcomes = [measured(given.work, q, found[q.key]["red_lps_mm"]) for q in wanted]
    if given.picture is not None:
        montage(given.work, outcomes).save(given.picture)
    print(json.dumps(summary(outcomes), indent=1))


if __name__ == "__main__":
    main()
