"""Label maps on disk become anatomies: orientation, ids, dress, errors."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.training.small_anatomy import BOXES, SPACING_MM, small_anatomy
from training.phantoms.labelmaps import LabelMapAnatomy, find_label_maps, load_folder
from training.phantoms.tissues import (
    DISC,
    FAT,
    MUSCLE,
    OTHER_VESSEL,
    SKIN,
    TABLE,
    UNCERTAIN_BOWEL,
    tissue,
)


def organ_labels() -> npt.NDArray[np.uint8]:
    """The boxes of `small_anatomy` alone, "HPL", without the tissue between."""
    labels = small_anatomy().tissues.numpy().copy()
    labels[labels > 117] = 0
    return labels


def write_map(
    labels: npt.NDArray[np.generic], path: Path, *, code: str = "LAS", spacing_mm: float = SPACING_MM
) -> None:
    """Write an "HPL" array as NIfTI with its axes towards `code` (three of R/L, A/P, S/I)."""
    axis_of = {"S": (0, 1), "I": (0, -1), "P": (1, 1), "A": (1, -1), "L": (2, 1), "R": (2, -1)}
    ras = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    order = [axis_of[c][0] for c in code]
    array = labels.transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(code):
        if axis_of[letter][1] < 0:
            array = np.flip(array, axis)
        affine[ras[letter][0], axis] = ras[letter][1] * spacing_mm
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), path)  # type: ignore[no-untyped-call]


def middle(labels: torch.Tensor, name: str) -> npt.NDArray[np.float64]:
    where = (labels == tissue(name)).nonzero().double()
    assert len(where), name
    return np.asarray(where.mean(0).numpy())


@pytest.mark.parametrize("code", ["LAS", "RAS", "LPI", "SAR", "PIR"])
def test_orientation_is_that_of_the_patient(tmp_path: Path, code: str) -> None:
    write_map(organ_labels(), tmp_path / "case.nii.gz", code=code)
    anatomy = LabelMapAnatomy.from_file(tmp_path / "case.nii.gz", SPACING_MM)
    pad = (np.array(anatomy.labels.shape) - organ_labels().shape) / 2
    for name, box in BOXES.items():
        expected = np.array([(a + b - 1) / 2 for a, b in box])
        if name in ("liver", "kidney_left", "gallbladder"):  # not cut by a later box
            np.testing.assert_allclose(middle(anatomy.labels, name) - pad, expected, atol=0.01)
    assert middle(anatomy.labels, "liver")[2] < middle(anatomy.labels, "spleen")[2]  # right of it
    assert middle(anatomy.labels, "vertebrae_L1")[1] > middle(anatomy.labels, "liver")[1]  # behind
    assert middle(anatomy.labels, "lung_lower_lobe_left")[0] > middle(anatomy.labels, "liver")[0]  # above


def test_another_spacing_keeps_the_volume(tmp_path: Path) -> None:
    write_map(organ_labels(), tmp_path / "case.nii", spacing_mm=3.0)
    anatomy = LabelMapAnatomy.from_file(tmp_path / "case.nii", 4.0)
    have = int((anatomy.labels == tissue("liver")).sum()) * 4.0**3
    want = int((organ_labels() == tissue("liver")).sum()) * 3.0**3
    assert have == pytest.approx(want, rel=0.12)


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory: pytest.TempPathFactory) -> LabelMapAnatomy:
    folder = tmp_path_factory.mktemp("map")
    write_map(organ_labels(), folder / "case.nii.gz")
    [loaded] = load_folder([folder], SPACING_MM)
    return loaded


def test_distances_are_on_the_right_side(anatomy: LabelMapAnatomy) -> None:
    labelled = anatomy.labels > 0
    assert float(anatomy.outside_mm[labelled].max()) == 0
    assert float(anatomy.outside_mm[0, 0, 0]) > 30
    assert not bool(((anatomy.inside_mm > 0) & (anatomy.outside_mm > 0)).any())
    assert float(anatomy.ribs_mm.min()) > 100  # there are no ribs in the map: all is far


def test_the_dress_covers_the_organs_and_spares_them(anatomy: LabelMapAnatomy) -> None:
    dressed = anatomy.sample(np.random.default_rng(0))
    labelled = anatomy.labels > 0
    assert torch.equal(dressed.tissues[labelled], anatomy.labels[labelled])
    values = set(dressed.tissues[~labelled].tolist())
    assert {0, FAT, SKIN, MUSCLE} <= values
    outer = dressed.tissues[:, 0, :]
    assert not bool(torch.isin(outer, torch.tensor([FAT, MUSCLE], dtype=torch.uint8)).any())


def test_same_seed_same_dress(anatomy: LabelMapAnatomy) -> None:
    a, b, c = (anatomy.sample(np.random.default_rng(s)).tissues for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_some_lie_on_a_table(anatomy: LabelMapAnatomy) -> None:
    with_table = 0
    for seed in range(8):
        tissues = anatomy.sample(np.random.default_rng(seed), height_mm=40).tissues
        table = (tissues == TABLE).nonzero()
        if len(table):
            with_table += 1
            skin = (tissues == SKIN).nonzero()
            assert float(table[:, 1].float().mean()) > float(skin[:, 1].float().mean())  # behind the back
    assert 1 <= with_table <= 8


def test_a_slab_has_the_height_that_was_asked_for(anatomy: LabelMapAnatomy) -> None:
    tissues = anatomy.sample(np.random.default_rng(0), height_mm=80).tissues
    assert tissues.shape == (20, *anatomy.labels.shape[1:])
    whole = anatomy.sample(np.random.default_rng(0), height_mm=9000).tissues
    assert whole.shape == anatomy.labels.shape


TABLE_TEXT = """label\tname\ttotalsegmentator_name
1\tliver\tliver
2\tright kidney\tkidney_right (kidney)
3\tRib4\trib_left_/rib_right_4 (both sides in one label)
4\tbowel\tcolon/small_bowel (one label)
5\tpsoas muscle\t
6\tL1 disc\t
7\tceliac trunk\t
8\tlymph node\t
9\tPelvis\thip_left/hip_right (both sides in one label)
300\tspleen\tspleen
"""


def test_labels_tsv_maps_other_ids(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text(TABLE_TEXT, encoding="utf-8")
    labels = np.zeros((12, 30, 30), dtype=np.int16)
    ids = (1, 2, 3, 4, 5, 6, 7, 8, 9)
    for k, value in enumerate(ids):
        labels[:, 4 : 4 + 20, 3 * k + 2 : 3 * k + 5] = value
    write_map(labels, tmp_path / "case.nii.gz")
    loaded = LabelMapAnatomy.from_file(tmp_path / "case.nii.gz", SPACING_MM).labels
    expected = {
        tissue("liver"),
        tissue("kidney_right"),
        UNCERTAIN_BOWEL,
        MUSCLE,
        DISC,
        OTHER_VESSEL,
        FAT,
        tissue("rib_left_4"),
        tissue("hip_left"),
    }
    assert set(loaded.flatten().tolist()) == {0, *expected}
    assert int((loaded == tissue("rib_left_4")).sum()) == 12 * 20 * 3


def test_ids_above_a_byte(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text(TABLE_TEXT, encoding="utf-8")
    labels = np.zeros((12, 30, 30), dtype=np.int16)
    labels[:, 5:20, 5:20] = 300
    write_map(labels, tmp_path / "case.nii.gz")
    loaded = LabelMapAnatomy.from_file(tmp_path / "case.nii.gz", SPACING_MM).labels
    assert set(loaded.flatten().tolist()) == {0, tissue("spleen")}


def test_ids_that_mean_nothing(tmp_path: Path) -> None:
    labels = organ_labels().astype(np.int16)
    labels[0, 0, 0] = 261  # would be the liver as uint8
    write_map(labels, tmp_path / "case.nii.gz")
    with pytest.raises(ValueError, match=r"case\.nii\.gz holds ids 0 to 261.*labels\.tsv"):
        LabelMapAnatomy.from_file(tmp_path / "case.nii.gz", SPACING_MM)


def test_an_empty_map(tmp_path: Path) -> None:
    write_map(np.zeros((8, 8, 8), dtype=np.uint8), tmp_path / "case.nii.gz")
    with pytest.raises(ValueError, match=r"case\.nii\.gz is empty"):
        LabelMapAnatomy.from_file(tmp_path / "case.nii.gz", SPACING_MM)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="label map"):
        find_label_maps(tmp_path)


def test_maps_are_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.nii").mkdir()
    assert [p.name for p in find_label_maps(tmp_path)] == ["a.nii", "b.nii.gz"]
