"""TotalSegmentator's data set: 117 masks merged by name, what they do not say, and label maps."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core_model.anatomy import organ, organs, structures
from training.datasets.catalogue import open_dataset
from training.datasets.files import GRID_DIFFERS, IN_NO_TABLE, NOT_ON_DISK
from training.datasets.miniature_cases import Case
from training.datasets.miniature_masks import patients, write_totalsegmentator
from training.datasets.silence import REACH_MM
from training.datasets.tally import Tally, samples
from training.datasets.totalsegmentator_set import (
    TotalSegmentatorSet,
    label_values,
    main,
    merged,
    names,
    reading_organs,
)
from training.phantoms.labelmaps import LabelMapAnatomy, find_label_maps
from training.phantoms.tissues import IGNORE, reading_lookup

READING = {s.name: s.reading_organ for s in structures()}


@pytest.fixture(scope="module")
def found() -> list[Case]:
    return patients(2, 3)


@pytest.fixture(scope="module")
def miniature(found: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("totalsegmentator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.datasets.miniature_masks.patients", lambda count, seed: found)
        write_totalsegmentator(folder, 2, 3)
    return folder


@pytest.fixture
def copy(miniature: Path, tmp_path: Path) -> Path:
    """A download that a test may break."""
    return shutil.copytree(miniature, tmp_path / "copy")


def test_records_are_those_of_the_table(miniature: Path) -> None:
    dataset = open_dataset(miniature)
    assert (dataset.name, list(dataset.problems())) == ("TotalSegmentator", [])
    assert [(r.name, r.split) for r in dataset.records()] == [("s0000", "train"), ("s0001", "test")]
    assert dataset.records()[0].notes == {"study_type": "ct abdomen", "pathology": "tumor"}


def test_masks_become_reading_organs(miniature: Path, found: list[Case]) -> None:
    for case, sample in zip(found, samples(open_dataset(miniature)), strict=True):
        np.testing.assert_array_equal(sample.volume.array, case.hu)
        np.testing.assert_allclose(sample.volume.affine, case.geometry.affine, atol=1e-3)
        assert sample.organs is not None
        expected = reading_lookup().numpy()[case.structures]
        said = expected > 0
        assert len(np.unique(expected)) > 15
        np.testing.assert_array_equal(sample.organs[said], expected[said])
        assert set(np.unique(sample.organs[~said]).tolist()) <= {0, IGNORE}
        assert (sample.organs == 0).any()
        assert (sample.tumours, sample.tumours_labelled) == (None, frozenset())


def test_where_the_pulmonary_artery_may_be_nothing_is_said(miniature: Path, found: list[Case]) -> None:
    case, sample = found[0], next(iter(samples(open_dataset(miniature))))
    artery = case.phantom.organs.numpy() == organ("pulmonary_artery").label
    assert artery.any()
    assert sample.organs is not None
    theirs = artery & (case.structures == 0)
    assert (sample.organs[theirs] == IGNORE).mean() > 0.95
    far = np.zeros(case.hu.shape, dtype=bool)
    far[:3] = True  # the abdomen
    assert not (sample.organs[far] == IGNORE).any()


@given(hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 5)), st.permutations(names(2)), st.booleans())
def test_merging_is_by_name_whatever_order_and_version(
    labels: np.ndarray, order: list[str], first: bool
) -> None:
    chosen = list(names(1)[40:45]) if first else order[:5]  # of version 1 those that version 2 lacks
    masks = [(name, labels == k) for k, name in enumerate(chosen, start=1)]
    one = merged(masks, labels.shape)
    np.testing.assert_array_equal(one, merged(reversed(masks), labels.shape))  # disjoint: order is nothing
    read = reading_organs(one, (1.0, 1.0, 1.0), complete=True)
    by_name = {o.name: o.label for o in organs()}
    for k, name in enumerate(["", *chosen]):
        expected = by_name.get(READING.get(name) or "", 0)
        assert (read[labels == k] == expected).all()


@given(st.sampled_from(names(2)), st.floats(0.7, 3.0), st.integers(0, 59))
def test_only_near_neighbours_is_anything_left_open(name: str, spacing: float, at: int) -> None:
    labels = np.zeros((60, 2, 2), dtype=np.uint8)
    labels[at] = label_values()[name]
    read = reading_organs(labels, (spacing, 1.0, 1.0))
    near = np.abs(np.arange(60) - at) * spacing <= REACH_MM
    beside = name in {"heart", "atrial_appendage_left", "pulmonary_vein", "skull"}
    for k in range(60):
        if k != at:
            assert (read[k] == (IGNORE if beside and near[k] else 0)).all()
    assert (read[at] != IGNORE).all()


def test_overlapping_masks_give_the_later_one() -> None:
    both = np.ones((2, 2, 2), dtype=bool)
    labels = merged([("kidney_left", both), ("kidney_cyst_left", both)], (2, 2, 2))
    assert (labels == label_values()["kidney_cyst_left"]).all()
    assert (reading_organs(labels, (1, 1, 1)) == organ("kidneys").label).all()


def test_a_download_with_faults(copy: Path) -> None:
    for name in ("s0002", "s0003", "s0004", "s0005"):
        shutil.copytree(copy / "s0000", copy / name)
    table = (copy / "meta.csv").read_text()
    rows = "".join(f"s{n:04d};;;;;train;;;;;\n" for n in (2, 3, 4, 9))
    (copy / "meta.csv").write_text(table + rows)
    (copy / "s0002/segmentations/liver.nii.gz").unlink()
    (copy / "s0003/ct.nii.gz").write_bytes(b"cut")
    mask = nib.load(copy / "s0004/segmentations/spleen.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[1:], mask.affine), mask.get_filename())
    dataset = open_dataset(copy)
    assert {p.name: p.kind for p in dataset.problems()} == {"s0009": NOT_ON_DISK, "s0005": IN_NO_TABLE}
    tally = Tally()
    assert [s.record.name for s in samples(dataset, tally=tally)] == ["s0000", "s0001"]
    assert [(p.name, p.kind, p.detail.partition(" has")[0]) for p in tally.skipped] == [
        ("s0002", "organ masks are missing", "liver"),
        ("s0003", "image is unreadable", "ImageFileError"),
        ("s0004", GRID_DIFFERS, "organ mask"),
    ]


def test_without_its_table_all_patients_are_read(copy: Path) -> None:
    (copy / "meta.csv").unlink()
    dataset = open_dataset(copy)
    assert [(r.name, r.split) for r in dataset.records()] == [("s0000", ""), ("s0001", "")]
    assert [p.name for p in dataset.problems()] == ["meta.csv"]


def test_version_1_is_read_by_its_own_names(copy: Path) -> None:
    folder = copy / "s0000/segmentations"
    (folder / "heart.nii.gz").rename(folder / "heart_myocardium.nii.gz")
    empty = nib.load(folder / "liver.nii.gz")
    for name in set(names(1)) - set(names(2)) - {"heart_myocardium"}:
        nib.save(nib.Nifti1Image(np.zeros(empty.shape, np.uint8), empty.affine), folder / f"{name}.nii.gz")
    sample = next(iter(samples(TotalSegmentatorSet(copy))))
    assert sample.organs is not None
    assert (sample.organs == organ("heart").label).any()
    assert not (sample.organs == IGNORE).any()  # version 1 has a mask of every reading organ


def test_label_maps_for_phantoms(
    miniature: Path, found: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps"
    assert main([str(miniature), "--out", str(out), "--split", "train"]) == 0
    assert "1 used, 0 skipped" in capsys.readouterr().err
    (path,) = find_label_maps(out)
    assert path.name == "s0000.nii.gz"
    written = path.stat().st_mtime_ns
    assert main([str(miniature), "--out", str(out), "--split", "train"]) == 0
    assert "1 label maps were there before; 0 used" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == written
    anatomy = LabelMapAnatomy.from_file(path, spacing_mm=8.0)  # a phantom's, as the engine reads it
    found_there = set(np.unique(anatomy.labels.numpy()).tolist())
    assert {s.v2_id for s in structures() if s.name in ("liver", "spleen", "aorta")} <= found_there
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--out", str(out)])
    assert ended.value.code == 2
    assert "name the folder of the set" in capsys.readouterr().err
