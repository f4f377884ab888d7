"""The speed benchmark on a tiny model and scan: rows, memory, JSON, and nnU-Net's row or the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import speed
from benchmarks.nnunet import NNUNet, missing
from tests.tiny import tiny_checkpoint


def test_scan_has_the_size_of_a_patient_whatever_its_matrix() -> None:
    scan = speed.synthetic_scan(10, 16)
    assert scan.spatial_shape == (10, 16, 16)
    np.testing.assert_allclose(np.multiply(scan.spacing, scan.spatial_shape), [450, 409.6, 409.6])
    assert scan.array.min() < -900 < 0 < np.median(scan.array[:, 8, 8])


def test_rows_are_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_checkpoint(tmp_path / "checkpoint")
    cores = []
    monkeypatch.setattr(speed, "_one_core", lambda: cores.append(1) or "one core")  # this process goes on
    monkeypatch.setattr(speed, "_alone", lambda part, task: part(task))
    monkeypatch.setattr(speed, "missing", lambda: "nnunetv2 is not installed; pip install nnunetv2")
    out = tmp_path / "speed.json"
    size = ["--slices", "20", "--matrix", "24", "--repeats", "2", "--device", "cpu"]
    speed.main(["--checkpoint", str(tmp_path / "checkpoint"), *size, "--out", str(out)])
    read, query, nnunet = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert read["seconds"] == min(read["all_seconds"]) > 0
    assert read["peak_mib"] > 50
    assert query["seconds"] == pytest.approx(np.median(query["all_seconds"]))
    assert cores == [1]
    assert nnunet["seconds"] is None
    assert "pip install nnunetv2" in nnunet["note"]
    assert "skipped" in capsys.readouterr().out


def test_nonsense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.main(["--slices", "0"])
    assert "must be 1 or more" in capsys.readouterr().err


@pytest.mark.skipif(missing() is not None, reason=f"optional: {missing()}")
def test_nnunet_labels_the_scan() -> None:
    scan = speed.synthetic_scan(12, 16, spacing_mm=(0.3, 0.2))  # 90 x 102 x 102 mm: a few patches
    labels = NNUNet(speed.SMALL_PLAN, torch.device("cpu")).read(scan)
    assert labels.shape == scan.spatial_shape
    assert labels.max() <= speed.SMALL_PLAN.classes
