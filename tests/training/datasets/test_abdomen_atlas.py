"""AbdomenAtlas 3.0: masks of one structure each become one map of organs and one of tumours."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from training.datasets.abdomen_atlas import ORGANS, TUMOURS, AbdomenAtlas
from training.datasets.catalogue import open_dataset
from training.datasets.files import GRID_DIFFERS, IN_NO_TABLE, NO_REPORT, NOT_ON_DISK, read_rows
from training.datasets.miniature_abdomen import write_abdomen_atlas
from training.datasets.miniature_cases import ABDOMEN, cases, save_nifti, save_table
from training.datasets.sample import UnusableSampleError
from training.phantoms.tissues import IGNORE, tissue

PATIENTS = 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atlas")
    write_abdomen_atlas(folder, PATIENTS)
    return folder


@pytest.fixture
def atlas(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def test_the_tables_name_what_there_is() -> None:
    assert set(ORGANS.values()) <= {o.name for o in organs()}
    assert set(TUMOURS.values()) <= {a.name for a in abnormalities()}


def test_records_and_reports(atlas: Path) -> None:
    dataset = open_dataset(atlas)
    assert dataset.name == "AbdomenAtlas 3.0"
    assert list(dataset.problems()) == []
    assert [(r.name, r.split) for r in dataset.records()] == [
        ("BDMAP_00000001", "train"),
        ("BDMAP_00000002", "train"),
        ("BDMAP_00000003", "test"),
    ]
    assert [[k for k, v in r.labels.items() if v] for r in dataset.records()] == [
        ["liver lesion"],
        ["kidney lesion"],
        [],
    ]
    case = cases(PATIENTS, 0, ABDOMEN, "abdomen")[0]
    assert dataset.records()[0].report == f"{case.findings} {case.impression}"
    structured = AbdomenAtlas(atlas, report="structured report").records()[0].report
    assert structured.startswith("FINDINGS:\n")
    with pytest.raises(ValueError, match="narrative report"):
        AbdomenAtlas(atlas, report="summary")


def test_masks_are_merged(atlas: Path) -> None:
    dataset = AbdomenAtlas(atlas)
    numbers = {a.name: n for n, a in enumerate(abnormalities(), start=1)}
    for record, case in zip(dataset.records(), cases(PATIENTS, 0, ABDOMEN, "abdomen"), strict=True):
        sample = dataset.load(record)
        np.testing.assert_array_equal(sample.volume.array, case.hu)
        assert sample.organs is not None
        assert sample.tumours is not None
        kidneys = np.isin(case.structures, [tissue("kidney_left"), tissue("kidney_right")])
        assert (sample.organs[kidneys] == organ("kidneys").label).all()
        spine = case.structures == tissue("vertebrae_L2")
        assert (sample.organs[spine] == IGNORE).all()  # the set does not outline it
        assert not (sample.organs == 0).any()
        lesions = case.phantom.lesions.numpy()
        for lesion in case.phantom.planted:
            shown = lesions == lesion.mask_value
            assert shown.any()
            assert (sample.tumours[shown] == numbers[lesion.abnormality]).all()
        assert ((sample.tumours > 0) == (lesions > 0)).all()
        assert sample.tumours_labelled == set(
            TUMOURS[m]
            for m in TUMOURS
            if m in {"liver_lesion", "kidney_lesion", "pancreatic_lesion", "liver_cyst", "kidney_cyst"}
        )


def test_a_lesion_beyond_its_organ_does_not_rename_its_neighbour(atlas: Path) -> None:
    case = cases(PATIENTS, 0, ABDOMEN, "abdomen")[0]
    liver, bowel = (case.structures == tissue(name) for name in ("liver", "small_bowel"))
    masks = atlas / "mask_only/BDMAP_00000001/segmentations"
    save_nifti(masks / "colon_lesion.nii.gz", (liver | bowel).astype(np.uint8), case.geometry)
    dataset = AbdomenAtlas(atlas)
    found = dataset.load(dataset.records()[0]).organs
    assert found is not None
    assert (found[liver] == organ("liver").label).all()
    assert (found[bowel] == organ("colon").label).all()  # in no organ mask of the set


def test_without_masks_nothing_is_said(atlas: Path) -> None:
    shutil.rmtree(atlas / "mask_only/BDMAP_00000001")
    dataset = AbdomenAtlas(atlas)
    sample = dataset.load(dataset.records()[0])
    assert sample.organs is None
    assert sample.tumours is None
    assert sample.tumours_labelled == frozenset()


def test_what_does_not_fit_is_named(atlas: Path) -> None:
    (atlas / "image_only/BDMAP_00000001").rename(atlas / "image_only/BDMAP_00000099")
    table = atlas / "AbdomenAtlas3.0MiniWithMeta.csv"
    rows = list(read_rows(table))
    rows[1] = {"BDMAP ID": "BDMAP_00000002"}
    save_table(table, list(rows[0]), rows)
    mask = next((atlas / "mask_only/BDMAP_00000003/segmentations").glob("spleen*"))
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), mask)
    dataset = AbdomenAtlas(atlas)
    assert {p.name: p.kind for p in dataset.problems()} == {
        "BDMAP_00000001": NOT_ON_DISK,
        "BDMAP_00000099": IN_NO_TABLE,
        "BDMAP_00000002": NO_REPORT,
    }
    with pytest.raises(UnusableSampleError, match=f"{GRID_DIFFERS}: mask spleen"):
        dataset.load(dataset.records()[0])
