"""Figures of an evaluation, and its command line on a real file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core_model.abnormality import abnormalities
from core_model.reader import Reader
from core_model.thresholds import Thresholds
from tests.training.verdicts import record, verdict
from training.benchmark import TEST_SEED
from training.case_store import CaseRecord
from training.evaluate import main, summarise
from training.summary import Summary

RESULTS = [
    verdict(
        1,
        planted=[
            ("liver_tumour", 30, True, 0.8),
            ("liver_tumour", 20, False, 0.0),
            ("liver_tumour", 9, False, 0),
        ],
        reported=[("liver_tumour", 0.9, True), ("liver_tumour", 0.6, False), ("lung_nodule", 0.7, False)],
        findings=[("liver_tumour", 0.9, True, "present"), ("renal_cyst", 0.2, False, "absent")],
        organ_dice={"liver": 0.9, "spleen": 0.5},
    ),
    verdict(
        2,
        findings=[("liver_tumour", 0.5, False, "undetermined"), ("renal_cyst", 0.7, False, "present")],
        organ_dice={"liver": 0.7},
    ),
]


def test_summary_of_hand_made_verdicts() -> None:
    figures = summarise(RESULTS, min_diameter_mm=15)
    assert figures["studies"] == 2
    assert set(figures["tumours"]) == {a.name for a in abnormalities() if a.tumour}
    assert figures["tumours"]["liver_tumour"] == {
        "planted": 2,
        "found": 1,
        "sensitivity": 0.5,
        "dice": pytest.approx(0.4),
        "false_per_study": 0.5,
    }
    assert figures["tumours"]["lung_nodule"]["false_per_study"] == 0.5
    assert figures["tumours"]["lung_nodule"]["sensitivity"] is None
    assert figures["false_per_study"] == pytest.approx(1.0)
    assert figures["findings"]["liver_tumour"] == {
        "positives": 1,
        "negatives": 1,
        "sensitivity": 1.0,
        "specificity": 1.0,
        "auc": 1.0,
    }
    assert figures["findings"]["renal_cyst"]["specificity"] == 0.5
    assert figures["findings"]["renal_cyst"]["auc"] is None
    assert figures["organ_dice"] == {"liver": pytest.approx(0.8), "spleen": 0.5}
    assert figures["mean_organ_dice"] == pytest.approx(0.65)
    json.dumps(figures)


def test_summary_of_nothing() -> None:
    figures = summarise([])
    assert figures["studies"] == 0
    assert figures["mean_organ_dice"] is None


RECORDS = [
    record(
        TEST_SEED,
        planted=[("liver_tumour", 20.0), ("lung_nodule", 12.0)],
        candidates=[("liver_tumour", 0.9, 0), ("lung_nodule", 0.7, None)],
        findings=[("liver_tumour", 0.6, True), ("liver_cyst", 0.3, False)],
        snippets=[(50, 52)],
    ),
    record(TEST_SEED + 1, findings=[("liver_tumour", 0.2, False), ("liver_cyst", 0.4, True)]),
]


def test_command_line_writes_figures(
    scan: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, image, labels = scan
    asked = []

    def read_cases(
        reader: Reader, first_seed: int, n: int, thresholds: Thresholds, folder: Path | None
    ) -> Iterator[CaseRecord]:
        asked.append((first_seed, n, folder))
        yield from RECORDS

    monkeypatch.setattr("training.evaluate.read_cases", read_cases)
    out, folder = checkpoint.parent / "out.json", checkpoint.parent / "evaluation"
    files = ["--nifti", str(image), "--labels", str(labels), "--out", str(out), "--folder", str(folder)]
    files.append("--into-card")
    before = Reader.load(checkpoint, "cpu").identity
    main([str(checkpoint), "--benchmark", "phantoms", "--n", "2", "--draws", "20", "--device", "cpu", *files])
    assert asked == [(TEST_SEED, 2, folder / "cases")]
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures == json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert figures["model"]["name"] == "tiny"
    summary = Summary(RECORDS, Reader.load(checkpoint, "cpu").thresholds)
    assert figures["phantoms"] == json.loads(json.dumps(summarise(summary.verdicts)))
    assert figures["benchmark"]["counts"]["patients"] == 2
    assert figures["benchmark"]["figures"]["localization/localize/mae_mm"]["value"] == pytest.approx(6)
    assert set(figures["real_ct"]["organ_dice"]) == {"liver", "spleen"}
    assert "liver_tumour" in capsys.readouterr().out
    table = (folder / "figures.md").read_text(encoding="utf-8")
    assert "| snippet localization: mean absolute error | 6.0 mm" in table
    for plot in ("roc_findings", "reliability", "froc", "localization"):
        assert f"({plot}.png)" in table
        assert (folder / f"{plot}.png").read_bytes()[:4] == b"\x89PNG"
    assert not (folder / "roc_zero_shot.png").exists()  # nothing was asked: nothing is drawn
    after = Reader.load(checkpoint, "cpu")
    assert after.identity == before
    measured = after.card["metrics"]
    assert measured["phantoms/2"]["patients"] == 2
    error = measured["phantoms/2"]["localization/localize/mae_mm"]
    assert error == figures["benchmark"]["figures"]["localization/localize/mae_mm"]
    assert measured["real_ct"] == {"cases": 1, "mean_organ_dice": figures["real_ct"]["mean_organ_dice"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure"),
        (["--benchmark", "phantoms", "--nifti", "x.nii"], "belong together"),
        (["--benchmark", "phantoms", "--into-card"], "name the CHECKPOINT"),
    ],
)
def test_command_line_refuses_nonsense(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
