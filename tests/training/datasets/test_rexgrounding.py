"""ReXGroundingCT: masks along the first axis, on the CT whichever way they run, and their largest slice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from training.datasets.catalogue import open_dataset
from training.datasets.files import GRID_DIFFERS, IN_NO_TABLE, NO_REPORT, NOT_ON_DISK, read_ct
from training.datasets.miniature_cases import CHEST, cases
from training.datasets.miniature_chest import write_rexgrounding
from training.datasets.rexgrounding import NO_MASK, RexGrounding, read_finding_masks, snippet_of
from training.datasets.sample import UnusableSampleError

PATIENTS = 4  # the last has two findings; the third none, so no entry


@pytest.fixture(scope="module")
def rex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rexgrounding")
    write_rexgrounding(folder, PATIENTS)
    return folder


def test_masks_and_snippets_are_those_of_the_findings(rex: Path) -> None:
    dataset = open_dataset(rex)
    assert dataset.name == "ReXGroundingCT"
    assert list(dataset.problems()) == []
    assert [(r.name, r.split, r.notes["annotation"]) for r in dataset.records()] == [
        ("train_1_a_1", "train", "sparse"),
        ("train_2_a_1", "train", "sparse"),
        ("valid_1_a_1", "validation", "exhaustive"),
    ]
    made = cases(PATIENTS, 0, CHEST, "chest")
    for record, case in zip(dataset.records(), (made[0], made[1], made[3]), strict=True):
        sample = dataset.load(record)
        np.testing.assert_array_equal(sample.volume.array, case.hu)
        lesions = case.phantom.lesions.numpy()
        said = case.report.snippets
        assert sample.finding_masks is not None
        assert len(sample.finding_masks) == len(said) == len(sample.snippets)
        for number, (truth, mask, snippet) in enumerate(
            zip(said, sample.finding_masks, sample.snippets, strict=True)
        ):
            outline = lesions == truth.mask_value
            np.testing.assert_array_equal(mask, outline)  # though the file runs R, A, S and the CT L, P, S
            area = outline.sum((1, 2))
            assert snippet.slice_index == int(area.argmax())
            assert (snippet.first, snippet.last) == tuple(np.flatnonzero(area)[[0, -1]])
            assert (snippet.text, snippet.finding) == (truth.text, number)
            assert snippet.organs == (truth.organ,)
        assert [s.text for s in record.sentences] == [s.text for s in said]
    assert dataset.records()[0].sentences[0].region == "2d"


def test_entries_that_do_not_fit_are_named(rex: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(rex, tmp_path / "in/rex")
    document = json.loads((copy / "dataset.json").read_text(encoding="utf-8"))
    document["train"][0]["findings"] = {}
    document["test"] = [
        {"name": "train_77_a_1.nii.gz", "findings": {"0": "Nodule."}},
        {"name": "train_2_a_1.nii.gz", "findings": {"0": "Nodule."}},
    ]
    document["train"] = document["train"][:1]
    (copy / "dataset.json").write_text(json.dumps(document), encoding="utf-8")
    masks = copy / "segmentations"
    (masks / "train_2_a_1.nii.gz").rename(masks / "train_5_a_1.nii.gz")
    dataset = RexGrounding(copy)
    assert {p.name: p.kind for p in dataset.problems()} == {
        "train_1_a_1": NO_REPORT,
        "train_77_a_1": NOT_ON_DISK,
        "train_2_a_1": NO_MASK,
        "train_5_a_1": IN_NO_TABLE,
    }
    assert [r.name for r in dataset.records()] == ["valid_1_a_1"]


def test_masks_of_other_findings_are_refused(rex: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(rex, tmp_path / "in/rex")
    document = json.loads((copy / "dataset.json").read_text(encoding="utf-8"))
    document["train"][0]["pixels"]["0"] *= 2
    document["train"][1]["findings"]["1"] = "A second nodule."
    (copy / "dataset.json").write_text(json.dumps(document), encoding="utf-8")
    dataset = RexGrounding(copy)
    kinds = []
    for record in dataset.records()[:2]:
        with pytest.raises(UnusableSampleError) as caught:
            dataset.load(record)
        kinds.append(caught.value.kind)
    assert kinds == [
        "finding mask has another size than its table says",
        "finding masks are not as many as the findings",
    ]


def test_an_affine_meant_in_lps_is_taken_so_if_only_that_fits(rex: Path, tmp_path: Path) -> None:
    record = open_dataset(rex).records()[0]
    volume = read_ct(record.image)
    image = nib.load(rex / "segmentations/train_1_a_1.nii.gz")
    right = read_finding_masks(rex / "segmentations/train_1_a_1.nii.gz", 1, volume)
    stack = np.asanyarray(image.dataobj)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    # Off the middle, so that both readings differ in place.
    moved = volume.affine.copy()
    moved[:2, 3] += (17.0, 23.0)
    shifted = type(volume)(volume.array, moved, coordinate_system="PATIENT")
    lps[:2, 3] += (17.0, 23.0)
    nib.save(nib.Nifti1Image(stack, lps), tmp_path / "lps.nii.gz")
    np.testing.assert_array_equal(read_finding_masks(tmp_path / "lps.nii.gz", 1, shifted), right)
    nib.save(nib.Nifti1Image(stack, np.eye(4)), tmp_path / "none.nii.gz")
    with pytest.raises(UnusableSampleError, match=GRID_DIFFERS):
        read_finding_masks(tmp_path / "none.nii.gz", 1, shifted)


def test_an_empty_mask_has_no_place() -> None:
    assert snippet_of("Nodule.", ("lung",), np.zeros((3, 4, 5), bool), 0) is None
