"""Organ Dice on NIfTI files: one pair, and folders of pairs."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest

from core_model.anatomy import organs, v2_to_reading
from core_model.reader import Reader
from training.real_ct import pairs, real_ct_dice, summarise


def test_dice_on_a_file_is_that_of_the_reading(scan: tuple[Path, Path, Path]) -> None:
    checkpoint, image, labels = scan
    reader = Reader.load(checkpoint, "cpu")
    before = real_ct_dice(reader, image, labels)
    assert set(before) == {"liver", "spleen"}
    # Label the file with what the reader sees most: now the Dice must be perfect.
    loaded = nib.Nifti1Image.from_filename(image)
    volume = hd.Volume.from_nibabel(loaded)
    seen = reader.read(volume).organ_mask.array
    most = int(np.bincount(seen[seen > 0]).argmax())
    v2_id = next(k for k, label in v2_to_reading().items() if label == most)
    ids = np.where(seen == most, v2_id, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(ids, loaded.affine), labels)  # type: ignore[no-untyped-call]
    assert real_ct_dice(reader, image, labels) == {organs()[most - 1].name: 1.0}


def test_labels_on_another_grid(scan: tuple[Path, Path, Path]) -> None:
    checkpoint, image, labels = scan
    shifted = np.diag([-8.0, -8.0, 8.0, 1.0])
    shifted[0, 3] = 5
    nib.save(nib.Nifti1Image(np.ones((26, 24, 20), np.uint8), shifted), labels)  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r"labels\.nii\.gz lies on another grid"):
        real_ct_dice(Reader.load(checkpoint, "cpu"), image, labels)


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_folders_are_paired_by_name(tmp_path: Path) -> None:
    images = touch(tmp_path / "ct", "b_0000.nii.gz", "a.nii", "note.txt")
    labels = touch(tmp_path / "labels", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    assert pairs(images, labels) == [
        ("a", images / "a.nii", labels / "a.nii.gz"),
        ("b", images / "b_0000.nii.gz", labels / "b.nii.gz"),
    ]
    one = (images / "a.nii", labels / "c.nii.gz")  # two files are a pair whatever they are called
    assert pairs(*one) == [("a", *one)]


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    images, labels = touch(tmp_path / "ct", "a.nii"), touch(tmp_path / "labels", "b.nii")
    with pytest.raises(FileNotFoundError, match="holds no labels for a"):
        pairs(images, labels)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        pairs(tmp_path / "nowhere", labels)
    with pytest.raises(ValueError, match="both be files or both be folders"):
        pairs(images, labels / "b.nii")
    with pytest.raises(FileNotFoundError, match=r"holds no \.nii"):
        pairs(touch(tmp_path / "empty"), labels)


def test_summary_of_scans() -> None:
    one = summarise({"a": {"liver": 0.8, "spleen": 0.6}}, draws=50)
    assert one["mean_organ_dice"] == pytest.approx(0.7)
    assert one["interval"] is None
    two = summarise({"a": {"liver": 0.8, "spleen": 0.6}, "b": {"liver": 0.6}}, draws=50)
    assert two["organ_dice"] == {"liver": pytest.approx(0.7), "spleen": pytest.approx(0.6)}
    assert two["mean_organ_dice"] == pytest.approx(0.65)
    assert two["interval"][0] <= 0.65 <= two["interval"][1]
