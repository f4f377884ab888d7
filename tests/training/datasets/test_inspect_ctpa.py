"""INSPECT: tables joined by the impression, the newest version of each."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from training.datasets.catalogue import open_dataset
from training.datasets.files import IN_NO_TABLE, NO_REPORT, NOT_ON_DISK
from training.datasets.inspect_ctpa import Inspect
from training.datasets.miniature_cases import CHEST, cases
from training.datasets.miniature_chest import write_inspect
from training.datasets.sample import UnusableSampleError


@pytest.fixture
def inspect(tmp_path: Path) -> Path:
    write_inspect(tmp_path, 4)
    return tmp_path


def test_records_join_three_tables(inspect: Path) -> None:
    (inspect / "full/splits_20240101.tsv").write_text("impression_id\tsplit\n1001\ttest\n", encoding="utf-8")
    dataset = open_dataset(inspect)
    assert dataset.name == "INSPECT"
    assert list(dataset.problems()) == []
    assert dataset.vocabulary == ("pe_positive_nlp", "pe_acute")  # outcomes are no findings
    assert [(r.name, r.patient, r.split) for r in dataset.records()] == [
        ("PE000001", "501", "train"),
        ("PE000002", "502", "train"),
        ("PE000003", "503", "train"),
        ("PE000004", "504", "validation"),
    ]
    case = cases(4, 0, CHEST, "chest")[0]
    assert dataset.records()[0].report == f"IMPRESSION:\n{case.impression}"
    assert dict(dataset.records()[0].labels) == {"pe_positive_nlp": False, "pe_acute": False}
    sample = dataset.load(dataset.records()[0])
    np.testing.assert_array_equal(sample.volume.array, case.hu)


def test_what_does_not_fit_is_named(inspect: Path) -> None:
    volumes = inspect / "full/CTPA"
    (volumes / "PE000001.nii.gz").rename(volumes / "PEfffff0.nii.gz")
    table = inspect / "full/impressions_20250611.tsv"
    rows = table.read_text(encoding="utf-8").splitlines()
    rows[2] = "1002\tIMPRESSION: "
    table.write_text("\n".join(rows), encoding="utf-8")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.int16), np.eye(4)), volumes / "PE000003.nii.gz")
    dataset = Inspect(inspect)
    assert {p.name: p.kind for p in dataset.problems()} == {
        "PE000001": NOT_ON_DISK,
        "PEfffff0": IN_NO_TABLE,
        "PE000002": NO_REPORT,
    }
    with pytest.raises(UnusableSampleError, match="not three-dimensional"):
        dataset.load(dataset.records()[0])
