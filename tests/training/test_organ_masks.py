"""Organ masks for a folder of CTs: complete, resumable, and on the CTs' own voxels."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest

from core_model.reader import Reader
from core_model.reading import ModelIdentity
from tests.tiny import body_volume, tiny_checkpoint
from training.datasets.mask_files import save_mask
from training.datasets.miniature_masks import write_kits
from training.datasets.sample import UnusableSampleError
from training.datasets.tally import Tally
from training.organ_masks import LABELS, Task, main, run, tasks
from training.work_parts import part, share

SHAPE, SPACING = (14, 24, 26), (10.0, 12.0, 12.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_checkpoint(folder)
    return folder


def write_ct(path: Path, volume: hd.Volume) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(volume.to_nibabel(), path)
    return path


def oblique(volume: hd.Volume) -> hd.Volume:
    """The same body lying turned on the couch, its axes in another order."""
    turn = 0.2
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0, 0], [np.sin(turn), np.cos(turn), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    turned = hd.Volume(volume.array, rotation @ volume.affine, coordinate_system="PATIENT")
    return turned.permute_spatial_axes((2, 0, 1)).flip_spatial(1)


@pytest.fixture
def cts(tmp_path: Path) -> Path:
    folder = tmp_path / "cts"
    write_ct(folder / "a.nii.gz", body_volume(SHAPE, SPACING))
    write_ct(folder / "ward" / "b.nii", oblique(body_volume(SHAPE, SPACING)))
    (folder / "broken.nii.gz").write_bytes(b"no NIfTI")
    return folder


def test_one_mask_per_ct_on_its_own_voxels_and_bad_ones_named(
    cts: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    command = [
        str(cts),
        "--out",
        str(out),
        "--with",
        "own",
        "--checkpoint",
        str(checkpoint),
        "--device",
        "cpu",
    ]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "2 used, 1 skipped" in said
    assert "image is unreadable: broken" in said
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.nii.gz")) == [
        "a.nii.gz",
        "ward/b.nii.gz",
    ]
    reader = Reader.load(checkpoint, "cpu")
    for name, ct in (("a", "a.nii.gz"), ("ward/b", "ward/b.nii")):
        mask, image = nib.load(out / f"{name}.nii.gz"), nib.load(cts / ct)
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
        volume = hd.Volume.from_nibabel(image)
        expected = reader.read(volume.with_array(volume.array.astype(np.float32))).organ_mask.array
        np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)
        assert expected.any()
    about = json.loads((out / LABELS).read_text())
    assert about["labels"]["21"] == "liver"
    assert about["model"]["digest"] == reader.identity.digest


class Counting:
    """Draws a liver everywhere and counts."""

    model = ModelIdentity("counting", "1", "0" * 64)

    def __init__(self) -> None:
        self.labels = {21: "liver"}
        self.drawn = 0

    def draw(self, volume: hd.Volume) -> hd.Volume:
        self.drawn += 1
        return volume.with_array(np.full(volume.spatial_shape, 21, dtype=np.uint8))


class Halves(Counting):
    """Draws a liver where the CT is denser than water."""

    def draw(self, volume: hd.Volume) -> hd.Volume:
        return volume.with_array(np.where(volume.array > 0, 21, 0).astype(np.uint8))


def test_a_second_run_draws_only_what_is_missing(cts: Path, tmp_path: Path) -> None:
    out, drawer = tmp_path / "masks", Counting()
    assert len(list(run(tasks(cts), out, drawer, Tally()))) == 3
    (out / "a.nii.gz").unlink()
    list(run(tasks(cts), out, drawer, tally := Tally()))
    assert drawer.drawn == 3
    assert (tally.used, len(tally.skipped)) == (1, 1)


def test_masks_of_a_data_set_lie_on_the_axes_of_its_files(tmp_path: Path) -> None:
    write_kits(tmp_path / "kits", 2, 3)  # whose files have slices first, from the head down
    (tmp_path / "kits/dataset/case_00001/segmentation.nii.gz").unlink()
    list(run(tasks(tmp_path / "kits"), tmp_path / "masks", Halves(), tally := Tally()))
    assert (tally.used, len(tally.skipped)) == (1, 0)
    image = nib.load(tmp_path / "kits/dataset/case_00000/imaging.nii.gz")
    mask = nib.load(tmp_path / "masks/case_00000.nii.gz")
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.where(np.asarray(image.dataobj) > 0, 21, 0))


def test_a_run_that_is_cut_off_leaves_no_half_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    mask = body_volume(SHAPE, SPACING)
    mask = mask.with_array((mask.array > 0).astype(np.uint8))
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_mask(mask, tmp_path / "x.nii.gz")
    assert not list(tmp_path.glob("*.nii.gz"))
    monkeypatch.undo()
    save_mask(mask, tmp_path / "x.nii.gz")
    gzip.decompress((tmp_path / "x.nii.gz").read_bytes())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.nii.gz"]


def test_masks_of_two_models_are_not_mixed(cts: Path, tmp_path: Path) -> None:
    list(run(tasks(cts), tmp_path / "masks", Counting(), Tally()))
    other = Counting()
    other.model = ModelIdentity("another", "2", "1" * 64)
    with pytest.raises(ValueError, match="holds masks by counting 1"):
        list(run(tasks(cts), tmp_path / "masks", other, Tally()))


def test_what_cannot_be_drawn_is_skipped_with_its_reason(tmp_path: Path) -> None:
    class Refuses(Counting):
        def draw(self, volume: hd.Volume) -> hd.Volume:
            raise ValueError("volume shows no body\nmore")

    def unreadable() -> hd.Volume:
        raise UnusableSampleError("image is unreadable", "why")

    two = [Task("a", lambda: body_volume(SHAPE, SPACING)), Task("b", unreadable)]
    list(run(two, tmp_path, Refuses(), tally := Tally()))
    assert [(p.name, p.kind, p.detail) for p in tally.skipped] == [
        ("a", "no mask could be drawn", "volume shows no body"),
        ("b", "image is unreadable", "why"),
    ]


def test_parts_are_the_whole_and_do_not_overlap() -> None:
    all_tasks = [Task(str(n), body_volume) for n in range(11)]
    parts = [share(all_tasks, (k, 3)) for k in (1, 2, 3)]
    assert sorted(t.name for tasks_of in parts for t in tasks_of) == sorted(t.name for t in all_tasks)
    for wrong in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(argparse.ArgumentTypeError, match="give K/N"):
            part(wrong)


def test_wrong_use_is_one_line_and_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "m"), "--with", "own"])
    assert ended.value.code == 2
    assert "does not exist; name the folder of the CTs" in capsys.readouterr().err
