"""Decathlon, KiTS23 and LiTS: which value is what, what is exhaustive, and what is wrong with a download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from training.datasets.catalogue import open_dataset
from training.datasets.files import GRID_DIFFERS, IN_NO_TABLE, NOT_ON_DISK, OTHER_LABELS
from training.datasets.kits import VALUES as KITS
from training.datasets.label_values import LabelValues
from training.datasets.lits import VALUES as LITS
from training.datasets.miniature_cases import Case
from training.datasets.miniature_masks import (
    of_organ,
    outlined,
    patients,
    write_kits,
    write_lits,
    write_msd,
)
from training.datasets.msd import TASKS, Decathlon
from training.datasets.sample import DataSet, Sample, UnusableSampleError
from training.datasets.tally import Tally, samples
from training.labelled import labelled_files
from training.phantoms.tissues import IGNORE

NUMBER = {a.name: n for n, a in enumerate(abnormalities(), start=1)}


@pytest.fixture(scope="module")
def found() -> list[Case]:
    return patients(2, 3)


@pytest.fixture(scope="module")
def miniatures(found: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("miniatures")
    with pytest.MonkeyPatch.context() as patch:  # the same patients in each set, made once
        patch.setattr("training.datasets.miniature_masks.patients", lambda count, seed: found)
        for name, write in (("msd", write_msd), ("kits", write_kits), ("lits", write_lits)):
            write(root / name, 2, 3)
    return root


@pytest.fixture
def copied(miniatures: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A download that a test may break."""
    return lambda name: shutil.copytree(miniatures / name, tmp_path / name)


def kinds(dataset: DataSet) -> dict[str, str]:
    return {p.name: p.kind for p in dataset.problems()}


def check(sample: Sample, case: Case, organ_name: str | None, tumours: tuple[str, ...]) -> None:
    """A sample against the phantom that it was written of."""
    np.testing.assert_array_equal(sample.volume.array, case.hu)
    np.testing.assert_allclose(sample.volume.affine, case.geometry.affine, atol=1e-3)
    lesions = np.zeros(case.hu.shape, dtype=np.uint8)
    for name in tumours:
        lesions[outlined(case, (name,))] = NUMBER[name]
    assert set(tumours) == sample.tumours_labelled
    if tumours:
        assert sample.tumours is not None
        np.testing.assert_array_equal(sample.tumours, lesions)
        assert lesions.any()
    else:
        assert sample.tumours is None
    if organ_name is None:
        assert sample.organs is None
        return
    inside = of_organ(case, organ_name) | (lesions > 0)
    assert sample.organs is not None
    assert inside.any()
    assert (sample.organs[inside] == organ(organ_name).label).all()
    assert (sample.organs[~inside] == IGNORE).all()  # of other organs the set says nothing


@pytest.mark.parametrize(
    ("number", "organ_name", "tumours"),
    [
        (3, "liver", ("liver_tumour",)),
        (6, None, ("lung_nodule",)),
        (7, "pancreas", ("pancreatic_tumour",)),
        (8, None, ("liver_tumour",)),
        (9, "spleen", ()),
        (10, None, ("colon_tumour",)),
    ],
)
def test_tasks_of_the_decathlon(
    miniatures: Path, found: list[Case], number: int, organ_name: str | None, tumours: tuple[str, ...]
) -> None:
    folder = miniatures / "msd" / f"Task{number:02d}_{TASKS[number].name}"
    dataset = open_dataset(folder)
    assert dataset.name == "MSD"
    assert list(dataset.problems()) == []
    train, test = dataset.records()
    assert (train.split, test.split) == ("train", "test")
    assert train.notes["task"] == folder.name
    assert len({train.patient, test.patient}) == 2
    check(dataset.load(train), found[0], organ_name, tumours)
    unlabelled = dataset.load(test)
    assert (unlabelled.organs, unlabelled.tumours, unlabelled.tumours_labelled) == (None, None, frozenset())
    np.testing.assert_array_equal(unlabelled.volume.array, found[1].hu)


def test_a_folder_of_tasks_is_one_set(miniatures: Path) -> None:
    dataset = open_dataset(miniatures / "msd")
    names = [r.name for r in dataset.records()]
    assert len(names) == 12
    assert len(set(names)) == 12
    tally = Tally()
    assert len(list(samples(dataset, tally=tally))) == 12
    assert tally.skipped == []


def test_a_task_whose_folder_was_renamed_is_known_by_its_index(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    renamed = (copied("msd") / "Task07_Pancreas").rename(tmp_path / "mine")
    assert open_dataset(renamed).records()[0].notes["task"] == "Task07_Pancreas"


def test_a_broken_decathlon_is_named_and_the_rest_is_read(copied: Callable[[str], Path]) -> None:
    folder = copied("msd")
    (folder / "Task03_Liver/labelsTr/liver_0.nii.gz").unlink()
    shutil.copy(folder / "Task09_Spleen/imagesTr/spleen_0.nii.gz", folder / "Task09_Spleen/imagesTr/x.nii.gz")
    (folder / "Task09_Spleen/imagesTr/._spleen_0.nii.gz").write_bytes(b"of a Mac")
    (folder / "Task06_Lung/dataset.json").write_text("{")
    shutil.copytree(folder / "Task10_Colon", folder / "Task05_Prostate")
    index = folder / "Task07_Pancreas/dataset.json"
    about = json.loads(index.read_text())
    about["labels"] = {"0": "background", "1": "cancer", "2": "pancreas"}
    index.write_text(json.dumps(about))
    outside = folder / "Task10_Colon/dataset.json"
    outside.write_text(outside.read_text().replace("./imagesTs/colon_001", "../../kits/colon_001"))
    dataset = open_dataset(folder)
    assert kinds(dataset) == {
        "liver_0": NOT_ON_DISK,
        "x": "file in no dataset.json",
        "Task05_Prostate": "task is none that is read",
        "Task06_Lung": "index is unreadable, or not of CT",
        "Task07_Pancreas": OTHER_LABELS,
        "colon_001": "file in no dataset.json",
    }
    assert [r.name for r in dataset.records()] == [
        "liver_1",
        "hepaticvessel_000",
        "hepaticvessel_001",
        "spleen_0",
        "spleen_1",
        "colon_000",
    ]


def test_finetuning_reads_the_same_cases(miniatures: Path) -> None:
    folder = miniatures / "msd/Task03_Liver"
    about, files = labelled_files(folder)
    assert about["name"] == "Liver"
    train = [r for r in Decathlon(folder).records() if r.split == "train"]
    assert [(f.name, f.image) for f in files] == [(r.name, r.image.resolve()) for r in train]


def test_kits(miniatures: Path, found: list[Case]) -> None:
    dataset = open_dataset(miniatures / "kits")
    assert (dataset.name, list(dataset.problems())) == ("KiTS23", [])
    assert [(r.name, r.patient, r.split) for r in dataset.records()] == [
        ("case_00000", "case_00000", "train"),
        ("case_00001", "case_00001", "train"),
    ]
    check(dataset.load(dataset.records()[0]), found[0], "kidneys", ("renal_tumour", "renal_cyst"))
    without = dataset.load(dataset.records()[1])
    assert without.tumours is not None
    assert not without.tumours.any()  # outlined wherever they are, and there are none
    assert without.tumours_labelled == {"renal_tumour", "renal_cyst"}


def test_a_kits_clone_whose_images_were_not_fetched(copied: Callable[[str], Path]) -> None:
    folder = copied("kits")
    (folder / "dataset/case_00001/imaging.nii.gz").unlink()
    dataset = open_dataset(folder / "dataset")
    assert [(p.name, p.kind, p.detail) for p in dataset.problems()] == [
        ("case_00001", NOT_ON_DISK, "imaging.nii.gz")
    ]
    assert [r.name for r in dataset.records()] == ["case_00000"]


def test_lits_and_its_patients_are_the_decathlons(miniatures: Path, found: list[Case]) -> None:
    dataset = open_dataset(miniatures / "lits")
    assert (dataset.name, list(dataset.problems())) == ("LiTS", [])
    train, test = dataset.records()
    assert [(r.name, r.split) for r in (train, test)] == [("volume-0", "train"), ("test-volume-0", "test")]
    decathlon = Decathlon(miniatures / "msd/Task03_Liver").records()[0]
    assert train.patient == decathlon.patient == "liver_0"
    check(dataset.load(train), found[0], "liver", ("liver_tumour",))
    assert dataset.load(test).tumours is None


def test_a_broken_lits(copied: Callable[[str], Path], miniatures: Path) -> None:
    folder = copied("lits")
    batch = folder / "Training Batch 1"
    (batch / "segmentation-0.nii").rename(batch / "segmentation-7.nii")
    shutil.copy(batch / "volume-0.nii", folder / "liver.nii")
    dataset = open_dataset(folder)
    assert kinds(dataset) == {
        "volume-0": NOT_ON_DISK,
        "segmentation-7": NOT_ON_DISK,
        "liver": IN_NO_TABLE,
    }
    assert [r.name for r in dataset.records()] == ["test-volume-0"]


def test_bad_files_are_skipped_with_their_kind(copied: Callable[[str], Path]) -> None:
    folder = copied("kits") / "dataset"
    for n in (2, 3, 4):
        shutil.copytree(folder / "case_00000", folder / f"case_{n:05d}")
    image = folder / "case_00001/imaging.nii.gz"
    image.write_bytes(image.read_bytes()[:1000])
    path = folder / "case_00002/segmentation.nii.gz"
    mask = nib.load(path)
    values = np.asarray(mask.dataobj).copy()
    values[0, 0, 0] = 4
    nib.save(nib.Nifti1Image(values, mask.affine), path)
    moved = mask.affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj), moved), folder / "case_00003/segmentation.nii.gz")
    values = values.astype(np.float32)
    values[0, 0, 0] = 0.5
    nib.save(nib.Nifti1Image(values, mask.affine), folder / "case_00004/segmentation.nii.gz")
    tally = Tally()
    assert [s.record.name for s in samples(open_dataset(folder), tally=tally)] == ["case_00000"]
    assert [(p.name, p.kind) for p in tally.skipped] == [
        ("case_00001", "image is unreadable"),
        ("case_00002", OTHER_LABELS),
        ("case_00003", GRID_DIFFERS),
        ("case_00004", OTHER_LABELS),
    ]


ALL = [task.values for task in TASKS.values()] + [KITS, LITS]


@given(st.sampled_from(ALL), st.data())
def test_every_value_becomes_what_it_means_and_nothing_else(values: LabelValues, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([np.uint8, np.int16, np.float32, np.float64]))
    elements = st.sampled_from(sorted(values.known))
    labels = data.draw(hnp.arrays(kind, (2, 3, 4), elements=elements))
    organs, tumours = values.organs_of(labels), values.tumours_of(labels)
    for index in np.ndindex(labels.shape):
        value = int(labels[index])
        if values.organ is not None:
            assert organs is not None
            expected = organ(values.organ).label if value in values.organ_values else IGNORE
            assert organs[index] == expected
        if values.abnormalities:
            assert tumours is not None
            name = values.abnormalities.get(value)
            assert tumours[index] == (0 if name is None else NUMBER[name])


@pytest.mark.parametrize("values", ALL)
def test_tumours_of_an_organ_are_of_that_organ(values: LabelValues) -> None:
    by_name = {a.name: a for a in abnormalities()}
    assert values.exhaustive <= set(values.abnormalities.values())
    for value, name in values.abnormalities.items():
        if values.organ is not None:
            assert by_name[name].organ == values.organ
            assert value in values.organ_values


@given(st.integers(0, 255), st.sampled_from(ALL))
def test_a_value_of_another_set_is_refused(value: int, values: LabelValues) -> None:
    labels = np.full((2, 2, 2), value, dtype=np.uint8)
    if value in values.known:
        return
    with pytest.raises(UnusableSampleError, match=OTHER_LABELS):
        values.sample(None, None, labels)  # type: ignore[arg-type]
