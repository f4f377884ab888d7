"""RadGenome-ChestCT: regions and whole reports, with volumes of its own or CT-RATE's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from core_model.anatomy import organs
from training.datasets.catalogue import open_dataset
from training.datasets.files import IN_NO_TABLE, NOT_ON_DISK
from training.datasets.miniature_cases import CHEST, cases
from training.datasets.miniature_chest import write_radgenome
from training.datasets.miniature_ct_rate import write_ct_rate
from training.datasets.radgenome import REGIONS, UNKNOWN_REGION, RadGenome, organs_of

TABLE = "dataset/radgenome_files/train_region_report.csv"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RadGenome alone in one folder; beside CT-RATE in another."""
    folder = tmp_path_factory.mktemp("radgenome")
    write_radgenome(folder / "alone/radgenome", 3)
    shutil.copytree(folder / "alone/radgenome", folder / "joined/radgenome")
    write_ct_rate(folder / "joined/ct_rate", 3)
    return folder


def test_the_region_table_names_reading_organs() -> None:
    known = {o.name for o in organs()}
    assert all(set(members) <= known for members in REGIONS.values())
    assert len(REGIONS) == 10


def test_volumes_of_its_own(sets: Path) -> None:
    dataset = open_dataset(sets / "alone/radgenome")
    assert dataset.name == "RadGenome-ChestCT"
    assert dataset.vocabulary == ()
    assert list(dataset.problems()) == []
    records = dataset.records()
    assert [(r.name, r.patient, r.split) for r in records] == [
        ("train_1_a_1", "train_1", "train"),
        ("train_2_a_1", "train_2", "train"),
        ("valid_1_a_1", "valid_1", "validation"),
    ]
    case = cases(3, 0, CHEST, "chest")[0]
    assert records[0].report == case.findings  # the row whose region is empty
    assert [s.text for s in records[0].sentences] == [text for _, text in case.sentences]
    sample = dataset.load(records[0])
    np.testing.assert_array_equal(sample.volume.array, case.hu)
    assert sample.organs is None


def test_sentences_have_their_region_s_organs(sets: Path) -> None:
    sentences = open_dataset(sets / "alone/radgenome").records()[0].sentences
    lung = [s for s in sentences if s.region == "lung"]
    assert lung
    assert all(s.organs == ("lung",) for s in lung)
    assert {s.region for s in sentences} <= set(REGIONS)
    assert any(s.region == "abdomen" and "liver" in s.organs for s in sentences)


def test_beside_ct_rate_it_has_labels_and_masks(sets: Path) -> None:
    dataset = open_dataset(sets / "joined/radgenome")
    record = dataset.records()[0]
    assert record.image.is_relative_to(sets / "joined/ct_rate")
    assert [k for k, v in record.labels.items() if v] == ["Lung nodule"]
    assert record.notes["tree"] == "fixed"
    assert len(record.sentences) == len(cases(3, 0, CHEST, "chest")[0].sentences)
    assert dataset.load(record).organs is not None
    # Second reconstructions are in CT-RATE's miniature alone.
    assert {p.kind for p in dataset.problems()} == {IN_NO_TABLE}


def test_two_trees_beside_it_are_not_chosen_from(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "alone/radgenome", tmp_path / "radgenome")
    for name in ("one", "two"):
        (tmp_path / name / "dataset/train_fixed").mkdir(parents=True)
    with pytest.raises(ValueError, match="several CT-RATE trees, one, two"):
        RadGenome(tmp_path / "radgenome")
    assert RadGenome(tmp_path / "radgenome", ct_rate=tmp_path / "one").records()


def test_rows_that_do_not_fit_are_named(sets: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sets / "alone/radgenome", tmp_path / "in/radgenome")
    with (copy / TABLE).open("a", encoding="utf-8") as file:
        file.write("train_9_a_1.nii.gz,lung,Clear.\ntrain_1_a_1.nii.gz,elbow,Normal.\n")
        file.write("train_1_a_1.nii.gz,nan,Second part.\n")
    dataset = RadGenome(copy)
    assert [(p.name, p.kind) for p in dataset.problems()] == [
        ("train_region_report.csv", UNKNOWN_REGION),
        ("train_9_a_1", NOT_ON_DISK),
    ]
    first = dataset.records()[0]
    assert first.report.endswith("\nSecond part.")
    assert first.sentences[-1].region == "elbow"
    assert first.sentences[-1].organs == ()


def test_of_a_region_with_many_organs_those_that_are_named() -> None:
    assert organs_of("mediastinum", "The aorta and the trachea are normal.") == ("aorta", "trachea")
    assert organs_of("abdomen", "The lung is clear.") == ()  # not of this region
    assert organs_of("bone", "Degenerative change.") == ()
    assert organs_of("nowhere", "The aorta is normal.") == ()
