"""Several checkpoints on one encoder read a patient together, and say what each says alone."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core_model.checkpoint import load_checkpoint, save_checkpoint
from core_model.reader import Reader
from core_model.thresholds import Thresholds
from tests.tiny import CARD, tiny_model
from tests.training.verdicts import record
from training import calibrate, case_store, compare
from training.benchmark import Case, make_case
from training.case_store import load_record, read_cases, read_together
from training.compare import ABLATION_ROWS, ROWS, compared, markdown
from training.read_together import main, readers_of
from training.shared_encoder import share_encoder
from training.stored_windows import encoder_digest
from training.summary import Summary
from training.work_parts import part

SEED = 78


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(SEED, spacing_mm=8.0)


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """Two checkpoints that differ above the encoder; the second searches nothing, as vanilla CLIP."""
    first, second = tiny_model(0), tiny_model(1)
    for name in ("image", "half_organ_head", "quarter_organ_head"):
        getattr(second, name).load_state_dict(getattr(first, name).state_dict())
    save_checkpoint(first, CARD, tmp_path / "grounded")
    save_checkpoint(second, {**CARD, "name": "clip", "abnormalities": []}, tmp_path / "clip")
    return [tmp_path / "grounded", tmp_path / "clip"]


@pytest.mark.slow
def test_a_tile_is_encoded_once_and_every_reader_says_what_it_says_alone(
    checkpoints: list[Path], case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_store, "make_case", lambda seed: case)
    plain = [Thresholds(mask=0.4), Thresholds(mask=0.4)]
    readers, shared = readers_of(checkpoints, "cpu")
    assert shared is not None
    [together] = read_together(readers, [SEED], plain, tmp_path / "a", shared)
    assert shared.encoded == shared.remembered > 0
    alone = [
        next(read_cases(Reader.load(c, "cpu"), SEED, 1, t)) for c, t in zip(checkpoints, plain, strict=True)
    ]
    assert list(together) == alone
    assert together[0].words != together[1].words
    assert together[0].image.findings
    assert together[1].image.findings == together[1].image.candidates == ()
    # Kept: nothing is encoded again, and each reader has a folder of its own.
    [again] = read_together(readers, [SEED], plain, tmp_path / "a", shared)
    assert again == together
    assert shared.encoded == shared.remembered
    assert len(list((tmp_path / "a").iterdir())) == 2
    [other] = read_together(readers, [SEED], plain, None, shared)
    assert other == together
    assert shared.encoded == shared.remembered  # forgotten after the patient: encoded anew, once


def test_encoders_that_differ_are_not_shared(checkpoints: list[Path]) -> None:
    same = [load_checkpoint(c).model for c in checkpoints]
    assert encoder_digest(same[0]) == encoder_digest(same[1])
    with pytest.raises(ValueError, match="encoders differ"):
        share_encoder([same[0], tiny_model(5)])
    with pytest.raises(ValueError, match="models is empty"):
        share_encoder([])


def test_another_tile_is_not_taken_for_a_known_one(checkpoints: list[Path]) -> None:
    model = load_checkpoint(checkpoints[0]).model
    own = model.image
    shared = share_encoder([model])
    tile = torch.randn(1, 2, 16, 16, 16)
    moved = tile.transpose(3, 4)
    with torch.inference_mode():
        for x in (tile, moved, tile):
            assert torch.equal(shared(x).half, own(x).half)
    assert (shared.encoded, shared.remembered) == (2, 1)


def test_processes_share_the_patients_out(
    checkpoints: list[Path], case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_store, "make_case", lambda seed: replace(case, seed=seed))
    store = tmp_path / "cases"
    arguments = [
        str(checkpoints[1]),
        "--patients",
        "test",
        "--n",
        "3",
        "--cases",
        str(store),
        "--device",
        "cpu",
    ]
    main([*arguments, "--part", "2/2"])
    [folder] = store.iterdir()
    assert [f.name for f in folder.iterdir()] == ["1000001.json"]
    main([*arguments, "--part", "1/2"])
    assert sorted(f.name for f in folder.iterdir()) == ["1000000.json", "1000001.json", "1000002.json"]
    assert load_record(folder / "1000002.json").image.seed == 1_000_002
    main([*arguments, "--part", "1/2", "--second-pieces", "renal_tumour"])
    assert len(list(store.iterdir())) == 2  # read otherwise: other records


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="K/N"):
        part(text)


def test_a_checkpoint_without_masks_is_calibrated_by_its_prompts(
    checkpoints: list[Path], case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.phantom.planted[0].abnormality
    healthy = replace(case, phantom=replace(case.phantom, planted=()))
    monkeypatch.setattr(case_store, "make_case", lambda seed: replace([case, healthy][seed % 2], seed=seed))
    calibrate.main([str(checkpoints[1]), "--n", "2", "--cases", str(tmp_path / "cases"), "--device", "cpu"])
    card = json.loads((checkpoints[1] / "card.json").read_text(encoding="utf-8"))
    assert name in card["calibration"]["detection_thresholds"]["scan"]
    assert card["thresholds"]["temperature"] == 1.0


def summary(scores: list[float], reports: bool) -> Summary:
    """Four patients, the first two with a liver cyst; scans that match their reports or the next one's."""
    axes = [tuple(float(x) for x in row) for row in np.eye(4)]
    records = []
    for i, score in enumerate(scores):
        one = record(
            i,
            findings=[("liver_cyst", score, i < 2)],
            report=f"report {i}",
            features=(axes[i], axes[i if reports else (i + 1) % 4]),
            snippets=[(3, 4 if reports else 9)],
        )
        names = ("liver_cyst",) if i < 2 else ()
        words = replace(one.words, scan_scores={"liver_cyst": score - 0.5})
        records.append(replace(one, words=words, image=replace(one.image, abnormalities=names)))
    return Summary(records, Thresholds(), {"scan": {"liver_cyst": 0.0}})


def test_differences_are_those_of_the_two_sides() -> None:
    good, bad = summary([0.9, 0.8, 0.2, 0.1], True), summary([0.4, 0.9, 0.6, 0.1], False)
    rows = dict((row.label, found) for row, found in compared(good, bad, 50))
    assert len(rows) == len(ROWS)
    auc = rows["abnormality detection, AUC"]
    assert auc["grounded"].value == 1.0  # type: ignore[union-attr]
    assert auc["baseline"].value == 0.75  # type: ignore[union-attr]
    assert auc["difference"].value == pytest.approx(0.25)  # type: ignore[union-attr]
    error = rows["snippet localization, mean absolute error"]["difference"]
    assert error is not None
    assert error.value < 0
    text = markdown(compared(good, bad, 50), ("mine", "theirs"), 4)
    assert "| measured | mine | theirs | difference |" in text
    assert "1.00" in text
    assert "less is better" in text
    tumour = rows["tumour detection, AUC (mean over types)"]
    assert tumour["difference"] is None
    assert "| - |" in text


def test_an_ablation_is_measured_by_the_same_figures_on_both_sides() -> None:
    whole, less = summary([0.9, 0.8, 0.2, 0.1], True), summary([0.4, 0.9, 0.6, 0.1], False)
    rows = dict((row.label, found) for row, found in compared(whole, less, 20, ABLATION_ROWS))
    assert "organ recognition, top-1" in rows
    auc = rows["abnormality detection, AUC"]
    assert auc["baseline"].value == 0.75  # type: ignore[union-attr]
    same = dict((row.label, found) for row, found in compared(whole, whole, 20, ABLATION_ROWS))
    measured = [found["difference"] for found in same.values() if found["difference"] is not None]
    assert measured
    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in measured)


def test_sides_of_other_patients_are_not_compared() -> None:
    good = summary([0.9, 0.8, 0.2, 0.1], True)
    fewer = Summary(good.records[:3], Thresholds())
    with pytest.raises(ValueError, match="compare the same"):
        compared(good, fewer, 5)


def test_the_command_reads_both_and_writes_the_table(
    checkpoints: list[Path], case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_store, "make_case", lambda seed: replace(case, seed=seed))
    out = tmp_path / "c.json"
    compare.main(
        [
            *map(str, checkpoints),
            "--n",
            "2",
            "--cases",
            str(tmp_path / "k"),
            "--out",
            str(out),
            "--draws",
            "5",
        ]
    )
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["patients"] == 2
    assert [m["name"] for m in result["models"]] == ["tiny", "clip"]
    assert result["rows"]["report to scan, R@10"]["baseline"]["value"] == 1.0
    assert out.with_suffix(".md").read_text(encoding="utf-8").startswith("# tiny against clip")
