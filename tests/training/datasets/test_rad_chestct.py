"""Rad-ChestCT: three mappings that differ, npz whose first axis runs to the feet, patients of the summary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.datasets.catalogue import open_dataset
from training.datasets.ct_rate import vocabulary
from training.datasets.files import IN_NO_TABLE, NOT_ON_DISK
from training.datasets.miniature_cases import CHEST, cases
from training.datasets.miniature_chest import write_rad_chestct
from training.datasets.rad_chestct import MAPPINGS, RadChestCt
from training.datasets.sample import UnusableSampleError

LABELS = "imgvalid_Abnormality_and_Location_Labels.csv"


@pytest.fixture
def rad(tmp_path: Path) -> Path:
    write_rad_chestct(tmp_path, 4)
    return tmp_path


def test_records_volume_and_geometry(rad: Path) -> None:
    dataset = open_dataset(rad)
    assert dataset.name == "Rad-ChestCT"
    assert list(dataset.problems()) == []
    assert [(r.name, r.patient, r.split, r.report) for r in dataset.records()] == [
        ("trn00001", "m00001", "train", ""),
        ("trn00002", "m00002", "train", ""),
        ("trn00003", "m00003", "train", ""),
        ("val00004", "m00004", "validation", ""),
    ]
    sample = dataset.load(dataset.records()[0])
    case = cases(4, 0, CHEST, "chest")[0]
    np.testing.assert_array_equal(sample.volume.array, np.clip(case.hu, -1000, 1000))
    assert sample.volume.spacing == pytest.approx((0.8, 0.8, 0.8))
    np.testing.assert_allclose(sample.volume.direction, [[0, 0, 1], [0, 1, 0], [1, 0, 0]], atol=1e-9)


def test_each_mapping_names_labels_of_ct_rate_and_is_noted(rad: Path) -> None:
    assert set(MAPPINGS) == {"ct-clip", "radfinder-standard", "radfinder-broad"}
    for name, mapping in MAPPINGS.items():
        assert set(mapping) <= set(vocabulary())
        dataset = RadChestCt(rad, mapping=name)
        assert {r.notes["label_mapping"] for r in dataset.records()} == {name}
        assert set(dataset.records()[0].labels) == set(mapping)
    assert "Mosaic attenuation pattern" not in MAPPINGS["radfinder-standard"]
    assert len(MAPPINGS["radfinder-broad"]) == 18
    with pytest.raises(ValueError, match="ct-clip, radfinder-standard, radfinder-broad"):
        RadChestCt(rad, mapping="mine")


def test_an_abnormality_counts_at_any_place_and_by_its_mapping(rad: Path) -> None:
    header = "NoteAcc_DEID,fibrosis*lung,fibrosis*rul,scarring*rul,calcification*heart,nodulegr1cm*lll\n"
    table = rad / LABELS
    table.write_text(f"{header}val00004,0,1,0,1,1\n", encoding="utf-8")

    def found(mapping: str) -> dict[str, bool]:
        return dict(RadChestCt(rad, mapping).records()[-1].labels)

    fibrotic, coronary, nodule = (
        "Pulmonary fibrotic sequela",
        "Coronary artery wall calcification",
        "Lung nodule",
    )
    assert found("ct-clip") == {fibrotic: True, coronary: True, "Arterial wall calcification": True}
    standard = found("radfinder-standard")
    assert (standard[fibrotic], standard[coronary], standard[nodule]) == (False, True, True)
    broad = found("radfinder-broad")
    assert (broad[fibrotic], broad[nodule]) == (True, True)
    assert coronary not in broad  # the table has none of its abnormalities: unknown, not absent


def test_what_does_not_fit_is_named(rad: Path) -> None:
    (rad / "npz/trn00001.npz").rename(rad / "npz/trn09999.npz")
    (rad / "npz/trn00002.npz").write_bytes(b"no zip")
    np.savez(rad / "npz/trn00003.npz", image=np.zeros((3, 3, 3)))
    dataset = RadChestCt(rad)
    assert {p.name: p.kind for p in dataset.problems()} == {
        "trn00001": NOT_ON_DISK,
        "trn09999": IN_NO_TABLE,
    }
    for record in dataset.records()[:2]:
        with pytest.raises(UnusableSampleError, match="image is unreadable"):
            dataset.load(record)
