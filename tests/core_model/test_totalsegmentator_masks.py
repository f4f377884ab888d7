"""TotalSegmentator from outside: what is refused beforehand, and that what it does stays inside.

Its own code path, which takes long, is in ``tests/training/test_totalsegmentator_run.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from core_model.anatomy import organ, organs
from core_model.inference import encode_scan
from core_model.organ_segmenter import completed, with_organs
from core_model.reading import ModelIdentity, OrganDrawing
from core_model.totalsegmentator_masks import TotalSegmentatorError, TotalSegmentatorMasks
from core_model.volume import canonical, to_model_grid
from tests.peers import require_module
from tests.tiny import body_volume, tiny_model

require_module("totalsegmentator", extra="totalsegmentator")
from tests.tiny_totalsegmentator import DATASET, tiny_weights  # noqa: E402 - needs nnU-Net


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def masks(weights: Path) -> TotalSegmentatorMasks:
    return TotalSegmentatorMasks(fast=True, device="cpu", weights=weights)


def test_shares_of_organs_on_the_models_grid_keep_their_volumes() -> None:
    scan = canonical(body_volume((24, 30, 34)))
    model = tiny_model()
    hu, geometry = to_model_grid(scan, model.config.spacing_mm)
    features = encode_scan(model, hu, geometry, torch.device("cpu"), bf16=False)
    labels = np.zeros(scan.spatial_shape, dtype=np.uint8)
    labels[8:14, 10:20, 8:18] = organ("liver").label
    replaced = with_organs(features, scan.with_array(labels))
    shares = replaced.organ_probability
    torch.testing.assert_close(shares.sum(0), torch.ones(shares.shape[1:]))
    voxels = float(np.prod(scan.spacing) / np.prod(replaced.geometry.spacing))
    assert float(shares[organ("liver").label].sum()) == pytest.approx(600 * voxels, rel=0.02)
    middle = scan.map_indices_to_reference(np.array([[11.0, 15.0, 13.0]]))
    k, j, i = np.round(replaced.geometry.map_reference_to_indices(middle)[0]).astype(int)
    assert float(shares[organ("liver").label, k, j, i]) == pytest.approx(1)


def test_only_what_cannot_be_drawn_is_taken_from_the_model() -> None:
    drawing = OrganDrawing(ModelIdentity("x", "1", "0"), "somebody", ("liver",))
    liver, lung = organ("liver").label, organ("lung").label
    drawn = np.array([[[0, liver, 0, liver]]], dtype=np.uint8)
    own = np.array([[[lung, lung, liver, 0]]], dtype=np.uint8)
    np.testing.assert_array_equal(completed(drawn, own, drawing), [[[lung, liver, 0, liver]]])


def test_other_weights_have_another_digest(masks: TotalSegmentatorMasks, tmp_path: Path) -> None:
    other = TotalSegmentatorMasks(fast=True, device="cpu", weights=tiny_weights(tmp_path, seed=1))
    assert other.model.digest != masks.model.digest
    assert other.model.version == masks.model.version
    assert set(other.drawing.organs) == {o.name for o in organs()} - {"face", "pulmonary_artery"}


def test_weights_that_are_missing_are_named_with_the_cure(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Dataset297_.* is missing in .*totalseg_download_weights"):
        TotalSegmentatorMasks(fast=True, device="cpu", weights=tmp_path)
    with pytest.raises(ValueError, match="Dataset291_"):  # the model of 1.5 mm is another
        TotalSegmentatorMasks(device="cpu", weights=weights)
    broken = tiny_weights(tmp_path / "half")
    next((broken / DATASET).rglob("checkpoint_final.pth")).unlink()
    with pytest.raises(ValueError, match="is incomplete"):
        TotalSegmentatorMasks(fast=True, device="cpu", weights=broken)


@pytest.mark.parametrize(
    ("task", "why"),
    [("heartchambers_highres", "needs a licence"), ("total_mr", "is for MR"), ("totall", "is none of")],
)
def test_tasks_that_cannot_run_are_refused_beforehand(weights: Path, task: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        TotalSegmentatorMasks(task=task, device="cpu", weights=weights)


def test_its_exit_ends_one_scan_and_not_the_process(
    masks: TotalSegmentatorMasks, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def ends(image: Any, **rest: Any) -> NoReturn:
        print("the licence is missing")
        os.environ.update(nnUNet_results="elsewhere")
        torch.set_num_threads(7)
        sys.exit(1)

    before, threads = dict(os.environ), torch.get_num_threads()
    monkeypatch.setattr("totalsegmentator.python_api.totalsegmentator", ends)
    with pytest.raises(TotalSegmentatorError, match="the licence is missing"):
        masks.structures(body_volume())
    assert (dict(os.environ), torch.get_num_threads()) == (before, threads)
    assert capsys.readouterr().out == ""
