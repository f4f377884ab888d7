"""TotalSegmentator's own code path, with a tiny network of its layout: over a folder, and in a reading.

It starts processes of its own for every scan, so two scans are all there are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest

from core_model.anatomy import organs, structures
from core_model.reader import Reader
from core_model.reading import Reading
from core_model.totalsegmentator_masks import TotalSegmentatorMasks
from tests.peers import require_module
from tests.tiny import body_volume, tiny_checkpoint
from training.organ_masks import LABELS, main

require_module("totalsegmentator", extra="totalsegmentator")
from tests.tiny_totalsegmentator import tiny_weights  # noqa: E402 - needs nnU-Net

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def oblique() -> hd.Volume:
    """A body turned on the couch by 14 degrees, the axes of its array in another order."""
    volume = body_volume((14, 24, 26), (10.0, 12.0, 12.0))
    c, s = np.cos(0.25), np.sin(0.25)
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned = hd.Volume(volume.array, turn @ volume.affine, coordinate_system="PATIENT")
    return turned.permute_spatial_axes((2, 0, 1)).flip_spatial(1)


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.lower().startswith(("totalseg", "nnunet"))}


@pytest.fixture(scope="module")
def masks(weights: Path, oblique: hd.Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of a folder with one scan. Whatever was asked of the network would fail, and be seen."""
    folder, asked, before = tmp_path_factory.mktemp("scans"), [], environment()

    def network(session: Any, method: str, url: str, **rest: Any) -> NoReturn:
        asked.append(url)
        raise ConnectionError(url)

    (folder / "cts").mkdir()
    nib.save(oblique.to_nibabel(), folder / "cts" / "a.nii.gz")
    command = [str(folder / "cts"), "--out", str(folder / "masks"), "--with", "totalsegmentator", "--fast"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("requests.sessions.Session.request", network)
        patch.setenv("HOME", str(folder / "home"))
        (folder / "home").mkdir()
        assert main([*command, "--weights", str(weights), "--device", "cpu"]) == 0
    assert asked == []
    assert not (folder / "home" / ".totalsegmentator").exists()  # its own would count uses, and report them
    assert environment() == before
    return folder / "masks"


@pytest.fixture(scope="module")
def reading(weights: Path, oblique: hd.Volume, tmp_path_factory: pytest.TempPathFactory) -> Reading:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_checkpoint(folder)
    segmenter = TotalSegmentatorMasks(fast=True, device="cpu", weights=weights)
    reader = Reader.load(folder, "cpu", organ_segmenter=segmenter)
    reading = reader.read(oblique)
    assert reading.organs_by == reader.organ_drawing == segmenter.drawing
    return reading


def test_masks_lie_on_the_scans_own_voxels_in_ids_of_version_2(masks: Path, oblique: hd.Volume) -> None:
    mask, image = nib.load(masks / "a.nii.gz"), oblique.to_nibabel()
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-3)
    about = json.loads((masks / LABELS).read_text())
    assert about["model"]["name"] == "TotalSegmentator total 3 mm"
    assert about["labels"] == {str(s.v2_id): s.name for s in structures() if s.v2_id is not None}
    found = set(np.unique(np.asarray(mask.dataobj)).tolist()) - {0}
    assert len(found) > 3  # random weights draw many structures
    assert {str(value) for value in found} <= set(about["labels"])


def test_a_reading_has_the_same_organs_whatever_the_order_of_axes(
    masks: Path, reading: Reading, oblique: hd.Volume
) -> None:
    drawn = np.asarray(nib.load(masks / "a.nii.gz").dataobj)  # on the axes of the file
    label = {o.name: o.label for o in organs()}
    table = np.zeros(256, dtype=np.uint8)
    for s in structures():
        if s.v2_id is not None and s.reading_organ is not None:
            table[s.v2_id] = label[s.reading_organ]
    expected = table[drawn]
    theirs = expected > 0
    mask = reading.organ_mask
    np.testing.assert_array_equal(mask.affine, oblique.affine)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(mask.array[theirs], expected[theirs])
    rest = set(np.unique(mask.array[~theirs]).tolist())
    assert rest <= {0, label["face"], label["pulmonary_artery"]}  # what TotalSegmentator cannot draw


def test_what_a_reading_says_of_organs_agrees_with_them(reading: Reading) -> None:
    mask = reading.organ_mask
    voxel_ml = float(np.prod(mask.spacing)) / 1000
    for found in reading.organs:
        volume_ml = float((mask.array == found.label).sum()) * voxel_ml
        assert found.volume_ml == pytest.approx(volume_ml if found.present else 0.0)
    assert any(found.present for found in reading.organs)
    cells = set(np.unique(reading.encoding.grid_organs).tolist()) - {0}
    assert cells  # queries are answered by the organs that were drawn
    assert cells <= set(np.unique(mask.array).tolist())
    present = {found.name for found in reading.organs if found.present}
    assert all((f.status == "undetermined") or f.organ in present for f in reading.findings)
