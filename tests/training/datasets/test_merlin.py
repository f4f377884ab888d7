"""Merlin: one text of findings and impression, -1 unknown, references only where organ masks tell."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from core_model.anatomy import organ
from training.datasets.catalogue import open_dataset
from training.datasets.files import IN_NO_TABLE, NO_REPORT, NOT_ON_DISK, OTHER_LABELS, read_rows
from training.datasets.merlin import MASKS, Merlin, read_sheet, split_report
from training.datasets.miniature_abdomen import write_merlin
from training.datasets.miniature_cases import ABDOMEN, cases, save_nifti

PATIENTS = 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merlin")
    write_merlin(folder, PATIENTS)
    return folder


@pytest.fixture
def merlin(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def test_records(merlin: Path) -> None:
    dataset = open_dataset(merlin)
    assert dataset.name == "Merlin"
    assert list(dataset.problems()) == []
    records = dataset.records()
    assert [(r.name, r.split) for r in records] == [
        ("AC4200000", "train"),
        ("AC4200001", "test"),
        ("AC4200002", "validation"),
    ]
    made = cases(PATIENTS, 0, ABDOMEN, "abdomen")
    for record, case in zip(records, made, strict=True):
        findings, _, impression = record.report.partition("\nIMPRESSION:\n")
        assert findings.startswith("FINDINGS:\n")
        assert case.report.sentences[0].text in findings
        first = case.impression.removeprefix("1. ").split(" 2.")[0]
        assert first not in findings
        assert first in impression
        np.testing.assert_array_equal(dataset.load(record).volume.array, case.hu)


def test_labels_leave_the_unknown_out(merlin: Path) -> None:
    dataset = Merlin(merlin)
    assert {"renal_cyst", "appendicitis"} <= set(dataset.vocabulary)
    labels = dataset.records()[1].labels
    assert labels["renal_cyst"] is True
    assert labels["gallstones"] is False
    assert "appendicitis" not in labels


def test_references_become_snippets_where_organ_masks_tell_the_direction(merlin: Path) -> None:
    table = merlin / "merlinabdominalctdataset/reports_final.csv"
    more = "FINDINGS: Atelectasis of the lung (se 3, im 1). The lung is emphysematous (series 3, image 2). "
    table.write_text(table.read_text(encoding="utf-8").replace("FINDINGS: ", more, 1), encoding="utf-8")
    dataset = Merlin(merlin)
    record = dataset.records()[0]
    assert dataset.load(record).snippets == ()  # nothing tells the direction
    case = cases(PATIENTS, 0, ABDOMEN, "abdomen")[0]
    root = merlin / "merlinabdominalctdataset"
    save_nifti(root / MASKS / record.image.name, case.structures, case.geometry)
    sample = dataset.load(record)
    assert sample.organs is not None
    count = case.hu.shape[0]
    assert (case.phantom.organs[-1] == organ("lung").label).any()
    assert not (case.phantom.organs[: count // 3] == organ("lung").label).any()
    # Image 1 is nearest the head: the other way the lung would not be there.
    expected = [count - 1, count - 2, *(count - s.image_number for s in case.report.snippets)]
    assert [s.slice_index for s in sample.snippets] == expected
    assert [s.organs for s in sample.snippets] == [("lung",), ("lung",), ("liver",)]
    assert sample.snippets[0].text == "Atelectasis of the lung."


def test_what_does_not_fit_is_named(merlin: Path) -> None:
    root = merlin / "merlinabdominalctdataset"
    (root / "merlin_data/AC4200000.nii.gz").rename(root / "merlin_data/ACffff.nii.gz")
    with (root / "reports_final.csv").open("a", encoding="utf-8") as file:
        file.write("AC42empty,,train\n")
    shutil.copy(root / "merlin_data/AC4200001.nii.gz", root / "merlin_data/AC42empty.nii.gz")
    with (root / "zero_shot_findings_disease_cls.csv").open("a", encoding="utf-8") as file:
        file.write("ACother,1,1,1,1,1,1,1,1\n")
    assert {p.name: p.kind for p in Merlin(merlin).problems()} == {
        "AC4200000": NOT_ON_DISK,
        "ACffff": IN_NO_TABLE,
        "AC42empty": NO_REPORT,
        "ACother": OTHER_LABELS,
    }


def test_an_excel_file_without_openpyxl_names_the_cure(merlin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    root = merlin / "merlinabdominalctdataset"
    (root / "reports_final.csv").rename(root / "reports_final.xlsx")
    with pytest.raises(ValueError, match=r"pip install openpyxl, or save the sheet as reports_final\.csv"):
        open_dataset(merlin)


def test_an_excel_file_is_read_as_its_csv(merlin: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    root = merlin / "merlinabdominalctdataset"
    rows = list(read_rows(root / "reports_final.csv"))
    book = openpyxl.Workbook()
    for row in (list(rows[0]), *(list(r.values()) for r in rows)):
        book.active.append(row)
    book.save(root / "reports_final.xlsx")
    assert [r["study id"] for r in read_sheet(root / "reports_final.xlsx")] == [r["study id"] for r in rows]
    expected = [r.report.split() for r in Merlin(merlin).records()]
    (root / "reports_final.csv").rename(root / "kept.csv")
    assert [r.report.split() for r in Merlin(merlin).records()] == expected
    (root / "reports_final.xlsx").write_bytes(b"no sheet")
    assert Merlin(merlin).problems()[0].kind == "table is unreadable"


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("Liver: normal.\nIMPRESSIONS : Normal.", "Liver: normal.", "Normal."),
        ("Liver: normal.   1.  Normal.   2,  No mass.", "Liver: normal.", "1.  Normal.   2,  No mass."),
        (
            "The liver is normal and so is the spleen.\n1. Normal.",
            "The liver is normal and so is the spleen.",
            "1. Normal.",
        ),
        ("1. Liver normal and of usual size.\n3. Spleen normal, kidneys normal, bowel normal.", None, ""),
        ("Liver: 1.5 cm lesion.", "Liver: 1.5 cm lesion.", ""),
        ("", "", ""),
    ],
)
def test_findings_and_impression_are_told_apart(text: str, findings: str | None, impression: str) -> None:
    assert split_report(text) == (text if findings is None else findings, impression)
