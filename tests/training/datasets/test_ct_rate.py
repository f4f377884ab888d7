"""CT-RATE's layout: both trees, their HU and spacing, labels, masks, and what is wrong with a download."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from core_model.anatomy import organ
from training.datasets.catalogue import open_dataset
from training.datasets.ct_rate import CtRate, joined, vocabulary
from training.datasets.files import GRID_DIFFERS, IN_NO_TABLE, NO_REPORT, NOT_ON_DISK, OTHER_LABELS
from training.datasets.miniature_cases import CHEST, cases
from training.datasets.miniature_ct_rate import write_ct_rate
from training.datasets.sample import UnusableSampleError
from training.datasets.tally import Tally, samples


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct_rate")
    write_ct_rate(folder, patients=3, seed=0)
    return folder


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct_rate_legacy")
    write_ct_rate(folder, patients=3, seed=0, legacy=True)
    return folder


@pytest.fixture
def copy(fixed: Path, tmp_path: Path) -> Path:
    """A download that a test may break."""
    return shutil.copytree(fixed, tmp_path / "copy")


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def kinds(dataset: CtRate) -> dict[str, str]:
    return {p.name: p.kind for p in dataset.problems()}


def test_records_are_those_of_the_tables(fixed: Path) -> None:
    dataset = open_dataset(fixed)
    assert dataset.name == "CT-RATE"
    assert list(dataset.problems()) == []
    found = {r.name: r for r in dataset.records()}
    assert list(found) == [
        *("train_1_a_1", "train_1_a_2", "train_2_a_1", "train_2_a_2", "valid_1_a_1", "valid_1_a_2")
    ]
    assert [(r.patient, r.split) for r in found.values()][3:5] == [
        ("train_2", "train"),
        ("valid_1", "validation"),
    ]
    assert dict(found["train_1_a_2"].notes) == {
        "study": "train_1_a",
        "reconstruction": "2",
        "tree": "fixed",
    }
    assert found["valid_1_a_2"].notes["no_chest"] == "listed"
    report = found["train_1_a_1"].report
    assert report.startswith("TECHNIQUE:\n")
    assert "CLINICAL" not in report  # "Not given."
    case = cases(3, 0, CHEST, "chest")[0]
    assert f"FINDINGS:\n{case.findings}\nIMPRESSION:\n{case.impression}" in report


def test_labels_are_the_eighteen(fixed: Path) -> None:
    dataset = CtRate(fixed)
    assert len(dataset.vocabulary) == 18
    for record in dataset.records():
        assert tuple(record.labels) == vocabulary()
    present = {r.name: {k for k, v in r.labels.items() if v} for r in dataset.records()}
    assert present["train_1_a_1"] == present["train_1_a_2"] == {"Lung nodule"}
    assert present["train_2_a_1"] == {"Pleural effusion"}
    assert present["valid_1_a_1"] == set()


@pytest.mark.parametrize("tree", ["fixed", "legacy"])
def test_both_trees_give_the_same_hu_on_the_same_grid(tree: str, request: pytest.FixtureRequest) -> None:
    """Fixed volumes are not rescaled again; legacy ones get slope, intercept and spacing of the metadata."""
    dataset = CtRate(request.getfixturevalue(tree))
    for number, name in enumerate(["train_1_a_1", "train_2_a_1"]):
        case = cases(3, 0, CHEST, "chest")[number]
        record = next(r for r in dataset.records() if r.name == name)
        sample = dataset.load(record)
        assert record.notes["tree"] == tree
        assert sample.volume.array.dtype == np.float32
        np.testing.assert_array_equal(sample.volume.array, case.hu)
        assert sample.volume.spacing == pytest.approx((10.0, 5.0, 5.0))
        np.testing.assert_allclose(sample.volume.direction, case.geometry.direction, atol=1e-6)
        if tree == "fixed":
            np.testing.assert_allclose(sample.volume.affine, case.geometry.affine, atol=1e-4)
            assert sample.organs is not None
            said = np.isin(case.phantom.organs, [organ(n).label for n in ("lung", "liver", "aorta")])
            np.testing.assert_array_equal(sample.organs[said], case.phantom.organs[said])
        else:
            assert sample.organs is None


def test_what_a_download_lacks_is_named(copy: Path) -> None:
    root = copy / "dataset"
    (root / "train_fixed/train_1/train_1_a/train_1_a_2.nii.gz").unlink()
    stray = root / "train_fixed/train_9/train_9_a/train_9_a_1.nii.gz"
    stray.parent.mkdir(parents=True)
    shutil.copy(root / "train_fixed/train_1/train_1_a/train_1_a_1.nii.gz", stray)
    reports = root / "radiology_text_reports/validation_reports.csv"
    rows = reports.read_text(encoding="utf-8").splitlines(keepends=True)
    rows[1] = "valid_1_a_1.nii.gz,Not given.,Chest CT.,Not given.,Not given.\n"
    reports.write_text("".join(rows), encoding="utf-8")
    (root / "multi_abnormality_labels/valid_predicted_labels.csv").unlink()
    dataset = CtRate(copy)
    assert kinds(dataset) == {
        "train_1_a_2": NOT_ON_DISK,
        "train_9_a_1": IN_NO_TABLE,
        "valid_1_a_1": NO_REPORT,
        "valid_predicted_labels.csv": "table is missing",
    }
    assert [r.name for r in dataset.records()] == [
        "train_1_a_1",
        "train_2_a_1",
        "train_2_a_2",
        "valid_1_a_2",
    ]
    assert dict(dataset.records()[-1].labels) == {}


def test_labels_of_another_set_are_not_taken(copy: Path) -> None:
    table = copy / "dataset/multi_abnormality_labels/train_predicted_labels.csv"
    rewrite(table, "Lung nodule", "Lung Lesion")
    dataset = CtRate(copy)
    assert kinds(dataset) == {table.name: OTHER_LABELS}
    assert len(dataset.records()[0].labels) == 17


def test_unusable_samples_are_counted_and_skipped(copy: Path) -> None:
    root = copy / "dataset"
    train = root / "train_fixed"
    cut_short = train / "train_1/train_1_a/train_1_a_1.nii.gz"
    cut_short.write_bytes(cut_short.read_bytes()[:2000])
    no_nifti = train / "train_1/train_1_a/train_1_a_2.nii.gz"
    no_nifti.write_bytes(gzip.compress(b"not an image"))
    mask = root / "ts_seg/ts_total/train_fixed/train_2/train_2_a/train_2_a_1.nii.gz"
    image = nib.load(mask)
    shifted = image.affine.copy()
    shifted[2, 3] += 8
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), shifted), mask)
    flat = train / "train_2/train_2_a/train_2_a_2.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 1), np.int16), np.eye(4)), flat)
    tally = Tally()
    used = [s.record.name for s in samples(CtRate(copy), tally=tally)]
    assert used == ["valid_1_a_1", "valid_1_a_2"]
    assert {p.name: p.kind for p in tally.skipped} == {
        "train_1_a_1": "image is unreadable",
        "train_1_a_2": "image is unreadable",
        "train_2_a_1": GRID_DIFFERS,
        "train_2_a_2": "image is too small",
    }


def test_legacy_without_metadata_is_not_guessed(legacy: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(legacy, tmp_path / "ct_rate_fixed")  # a folder's name makes no volume a fixed one
    rewrite(copy / "dataset/metadata/train_metadata.csv", "train_1_a_1.nii.gz", "train_7_a_1.nii.gz")
    rewrite(copy / "dataset/metadata/validation_metadata.csv", "[5.0, 5.0]", "unknown")
    dataset = CtRate(copy)
    with pytest.raises(UnusableSampleError, match="without metadata"):
        dataset.load(dataset.records()[0])
    with pytest.raises(UnusableSampleError, match="metadata of a legacy volume is unreadable"):
        dataset.load(dataset.records()[-1])


def test_findings_or_impression_make_a_report() -> None:
    assert joined({"ClinicalInformation_EN": "Cough.", "Findings_EN": "Not given."}) == ""
    assert joined({"Impressions_EN": "Normal."}) == "IMPRESSION:\nNormal."
