"""A table of one's own: labels told from other columns, nobody named, references resolved."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.datasets.catalogue import open_dataset
from training.datasets.files import NO_REPORT, NOT_ON_DISK
from training.datasets.miniature_abdomen import write_table
from training.datasets.miniature_cases import ABDOMEN, cases, save_nifti, save_table
from training.datasets.table import NO_LABEL, UNKNOWN_VALUE, VALUES, Table

PATIENTS = 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    write_table(folder, PATIENTS)
    return folder


@pytest.fixture
def table(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy") / "table.csv"


def test_records_volumes_and_snippets(table: Path) -> None:
    dataset = open_dataset(table)
    assert list(dataset.problems()) == []
    assert dataset.vocabulary == ("liver tumour", "renal cyst")
    assert [(r.name, r.patient, r.split) for r in dataset.records()] == [
        ("row_00001", "patient_00001", "train"),
        ("row_00002", "patient_00002", "train"),
        ("row_00003", "patient_00003", "test"),
    ]
    for record, case in zip(dataset.records(), cases(PATIENTS, 0, ABDOMEN, "abdomen"), strict=True):
        sample = dataset.load(record)
        np.testing.assert_array_equal(sample.volume.array, case.hu)
        assert sample.organs is not None
        count = case.hu.shape[0]
        assert [s.slice_index for s in sample.snippets] == [
            count - s.image_number for s in case.report.snippets
        ]
    assert dict(dataset.records()[1].labels) == {"liver tumour": False, "renal cyst": True}


def test_without_direction_and_mask_no_snippet_is_guessed(table: Path) -> None:
    rows = table.read_text(encoding="utf-8").replace(",head,", ",,").replace("masks/1.nii.gz", "")
    more = "FINDINGS\nAtelectasis of the lung (se 3, im 1). The lung is emphysematous (series 3, image 2). "
    rows = rows.replace("FINDINGS\n", more)
    table.write_text(rows, encoding="utf-8")
    dataset = Table(table)
    assert dataset.load(dataset.records()[0]).snippets == ()
    assert dataset.load(dataset.records()[1]).snippets  # its mask tells


def test_another_series_is_not_taken_for_this_one(table: Path) -> None:
    table.write_text(table.read_text(encoding="utf-8").replace(",3,head,", ",9,head,"), encoding="utf-8")
    dataset = Table(table)
    assert all(dataset.load(r).snippets == () for r in dataset.records())


def test_what_does_not_fit_is_named_and_nobody_is(table: Path) -> None:
    save_nifti(
        table.parent / "x.nii.gz", np.zeros((3, 3, 3), np.int16), cases(2, 0, ABDOMEN, "abdomen")[0].geometry
    )
    rows = [
        {
            "image": "x.nii.gz",
            "report": "Normal.",
            "patient": "Doe^Jane",
            "split": "train",
            "a": "1",
            "who": "Jane",
        },
        {
            "image": "x.nii.gz",
            "report": "Normal.",
            "patient": "Doe^Jane",
            "split": "later",
            "a": "-1",
            "who": "",
        },
        {"image": "none.nii.gz", "report": "Normal.", "a": "0", "who": "Jim"},
        {"image": "x.nii.gz", "report": " ", "a": "0", "who": "Joe"},
        {"image": "", "report": "Normal.", "a": "", "who": "Ann"},
    ]
    save_table(table, ["image", "report", "patient", "split", "a", "who"], rows)
    dataset = Table(table)
    assert dataset.vocabulary == ("a",)
    assert [(p.name, p.kind) for p in dataset.problems()] == [
        ("who", NO_LABEL),
        ("row_00002", UNKNOWN_VALUE),
        ("row_00003", NOT_ON_DISK),
        ("row_00004", NO_REPORT),
        ("row_00005", NOT_ON_DISK),
    ]
    assert [(r.patient, dict(r.labels)) for r in dataset.records()] == [
        ("patient_00001", {"a": True}),
        ("patient_00001", {}),
    ]
    assert "Jane" not in repr([dataset.records(), dataset.problems()])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.sampled_from([*sorted(VALUES), "2", "present", "0.5"]), min_size=1, max_size=4))
def test_a_column_is_a_label_if_all_its_cells_are(tmp_path: Path, cells: list[str]) -> None:
    (tmp_path / "x.nii.gz").touch()
    rows = [{"image": "x.nii.gz", "report": "Normal.", "mass": c} for c in cells]
    save_table(tmp_path / "t.csv", ["image", "report", "mass"], rows)
    dataset = Table(tmp_path / "t.csv")
    assert dataset.vocabulary == (("mass",) if set(cells) <= VALUES else ())
    for cell, record in zip(cells, dataset.records(), strict=True):
        known = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
        expected = {"mass": known[cell]} if dataset.vocabulary and cell in known else {}
        assert dict(record.labels) == expected


@pytest.mark.parametrize("text", ["", "image,report\n", "image,text\na,b\n"])
def test_no_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"has no (rows|column 'report')"):
        open_dataset(tmp_path / "t.csv")
