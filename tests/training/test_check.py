"""`python -m training.check` on a good set, a broken one, and none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.check import main
from training.datasets.miniature import write_miniature


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "set"
    write_miniature("ct-rate", folder, patients=2)
    return folder


def test_a_good_set_is_counted_and_drawn(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(good), "--out", str(tmp_path / "out"), "--samples", "2"]) == 0
    said = capsys.readouterr().out
    assert "CT-RATE: 4 samples" in said
    assert "4 used, 0 skipped" in said
    assert "Lung nodule" in said
    assert "4 samples share their report" in said
    assert "    warning" not in said
    pictures = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert pictures == ["train_1_a_1.png", "valid_1_a_2.png"]
    picture = np.asarray(Image.open(tmp_path / "out/train_1_a_1.png").convert("RGB")).astype(int)
    assert picture.shape[1] > 800
    coloured = np.abs(picture[..., 0] - picture[..., 2]) > 20
    assert coloured.mean() > 0.02  # organs lie over the grey cuts


def test_bad_samples_are_named_and_the_rest_is_drawn(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(good, tmp_path / "copy")
    volumes = copy / "dataset/train_fixed/train_1/train_1_a"
    (volumes / "train_1_a_1.nii.gz").write_bytes(b"broken")
    (volumes / "train_1_a_2.nii.gz").unlink()
    assert main([str(copy), "--out", str(tmp_path / "out"), "--samples", "1"]) == 0
    said = capsys.readouterr().out
    assert "listed, but has no file: train_1_a_2" in said
    assert "image is unreadable: train_1_a_1" in said
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["valid_1_a_1.png"]


def test_nothing_usable_is_a_failure(good: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(good, tmp_path / "copy")
    for path in copy.rglob("*.nii.gz"):
        path.write_bytes(b"broken")
    assert main([str(copy), "--out", str(tmp_path / "out")]) == 1
    shutil.rmtree(copy / "dataset/train_fixed")
    shutil.rmtree(copy / "dataset/valid_fixed")
    assert main([str(copy), "--kind", "ct-rate", "--out", str(tmp_path / "out")]) == 1


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path), "--samples", "-1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
