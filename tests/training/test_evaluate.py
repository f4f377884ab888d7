"""Figures of an evaluation, and its command line on a real file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.anatomy import organs, v2_to_reading
from core_model.reader import Reader
from tests.tiny import body_volume, tiny_checkpoint
from tests.training.verdicts import verdict
from training.benchmark import TEST_SEED, CaseResult
from training.evaluate import auc, main, real_ct_dice, summarise

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


def test_auc_of_known_scores() -> None:
    assert auc([0.9, 0.8], [0.1, 0.2]) == 1
    assert auc([0.1], [0.9]) == 0
    assert auc([0.5, 0.5], [0.5]) == 0.5
    assert auc([], [0.5]) is None
    assert auc([0.5], []) is None


scores = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=12)


@given(scores, scores)
def test_auc_against_counting_pairs(positive: list[float], negative: list[float]) -> None:
    pairs = [(p > q) + 0.5 * (p == q) for p in positive for q in negative]
    assert auc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
    swapped = auc(negative, positive)
    assert swapped is not None
    assert auc(positive, negative) == pytest.approx(1 - swapped)


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A checkpoint, a NIfTI CT and labels: what the reader says of it, as TotalSegmentator ids."""
    tiny_checkpoint(tmp_path / "checkpoint")
    hu = body_volume((20, 24, 26)).array.transpose(2, 1, 0)
    affine = np.diag([-8.0, -8.0, 8.0, 1.0])
    labels = np.zeros(hu.shape, np.uint8)
    labels[4:16, 6:18, 4:14] = 5
    labels[17:22, 6:18, 4:14] = 1
    for array, name in ((hu, "ct.nii.gz"), (labels, "labels.nii.gz")):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / name)  # type: ignore[no-untyped-call]
    return tmp_path / "checkpoint", tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz"


def test_dice_on_a_file_is_that_of_the_reading(scan: tuple[Path, Path, Path]) -> None:
    checkpoint, image, labels = scan
    reader = Reader.load(checkpoint, "cpu")
    before = real_ct_dice(reader, image, labels)
    assert set(before) == {"liver", "spleen"}
    # Label the file with what the reader sees most: now the Dice must be perfect.
    loaded = nib.Nifti1Image.from_filename(image)
    volume = hd.Volume.from_nibabel(loaded)
    seen = reader.read(volume).organ_mask.array
    most = int(np.bincount(seen[seen > 0]).argmax())
    v2_id = next(k for k, label in v2_to_reading().items() if label == most)
    ids = np.where(seen == most, v2_id, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(ids, loaded.affine), labels)  # type: ignore[no-untyped-call]
    assert real_ct_dice(reader, image, labels) == {organs()[most - 1].name: 1.0}


def test_labels_on_another_grid(scan: tuple[Path, Path, Path]) -> None:
    checkpoint, image, labels = scan
    shifted = np.diag([-8.0, -8.0, 8.0, 1.0])
    shifted[0, 3] = 5
    nib.save(nib.Nifti1Image(np.ones((26, 24, 20), np.uint8), shifted), labels)  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r"labels\.nii\.gz lies on another grid"):
        real_ct_dice(Reader.load(checkpoint, "cpu"), image, labels)


def test_command_line_writes_figures(
    scan: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, image, labels = scan
    asked = []

    def read_cases(reader: Reader, first_seed: int, n: int) -> Iterator[CaseResult]:
        asked.append((first_seed, n))
        yield from RESULTS

    monkeypatch.setattr("training.evaluate.read_cases", read_cases)
    out = checkpoint.parent / "figures.json"
    files = ["--nifti", str(image), "--labels", str(labels), "--out", str(out), "--device", "cpu"]
    main([str(checkpoint), "--benchmark", "phantoms", "--n", "2", *files])
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert asked == [(TEST_SEED, 2)]
    assert figures["model"]["name"] == "tiny"
    assert figures["phantoms"] == json.loads(json.dumps(summarise(RESULTS)))
    assert set(figures["real_ct"]["organ_dice"]) == {"liver", "spleen"}
    assert "liver_tumour" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "nothing to measure"), (["--benchmark", "phantoms", "--nifti", "x.nii"], "belong together")],
)
def test_command_line_refuses_nonsense(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
