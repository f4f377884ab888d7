"""Each miniature has its set's layout, is told apart from the others, and comes out the same again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from training.datasets import miniature_cases
from training.datasets.catalogue import open_dataset
from training.datasets.miniature import MINIATURES, main, write_miniature
from training.datasets.miniature_cases import CHEST, cases
from training.datasets.sample import DataSet
from training.datasets.tally import Tally, samples

LAYOUTS = {  # kind -> the adapter's name, and a file that its published layout has
    "ct-rate": ("CT-RATE", "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"),
    "ct-rate-legacy": ("CT-RATE", "dataset/train/train_1/train_1_a/train_1_a_1.nii.gz"),
    "radgenome": ("RadGenome-ChestCT", "dataset/radgenome_files/validation_region_report.csv"),
    "rexgrounding": ("ReXGroundingCT", "segmentations/train_1_a_1.nii.gz"),
    "rad-chestct": ("Rad-ChestCT", "imgtrain_Abnormality_and_Location_Labels.csv"),
    "merlin": ("Merlin", "merlinabdominalctdataset/merlin_data/AC4200000.nii.gz"),
    "inspect": ("INSPECT", "full/study_mapping_20250611.tsv"),
    "abdomen-atlas": ("AbdomenAtlas 3.0", "mask_only/BDMAP_00000001/segmentations/liver.nii.gz"),
    "table": ("table", "table.csv"),
}


def opened(kind: str, folder: Path) -> DataSet:
    return open_dataset(folder / "table.csv" if kind == "table" else folder)


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_it_is_recognised_and_wholly_usable(kind: str, tmp_path: Path) -> None:
    assert kind in MINIATURES
    folder = tmp_path / "alone" / kind
    write_miniature(kind, folder, patients=2)
    name, path = LAYOUTS[kind]
    assert (folder / path).is_file()
    dataset = opened(kind, folder)
    assert dataset.name == name
    assert list(dataset.problems()) == []
    tally = Tally()
    found = list(samples(dataset, tally=tally))
    assert len(found) == len(dataset.records()) >= 2
    assert tally.skipped == []
    assert {len(s.volume.spatial_shape) for s in found} == {3}


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        write_miniature("inspect", tmp_path / name, patients=2)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        digests.append([(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files])
    assert digests[0] == digests[1]


def test_the_same_seed_paints_the_same_patient() -> None:
    kept = cases(2, 0, CHEST, "chest")[0]
    again, other = (miniature_cases._case.__wrapped__(seed, 0, CHEST[0], "chest") for seed in (0, 1))
    np.testing.assert_array_equal(again.hu, kept.hu)
    np.testing.assert_array_equal(again.structures, kept.structures)
    assert again.report == kept.report
    assert other.report != kept.report


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rad-chestct", str(tmp_path / "m"), "--patients", "2"]) == 0
    assert "2 patients" in capsys.readouterr().out
    assert main(["rad-chestct", str(tmp_path / "m")]) == 2  # not empty
    assert main(["rad-chestct", str(tmp_path / "n"), "--patients", "1"]) == 2
    assert "not an empty folder" in capsys.readouterr().err
