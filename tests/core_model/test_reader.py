"""The reader's contract, with an untrained model: geometry, completeness, errors."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import torch

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from core_model.checkpoint import CheckpointError, save_checkpoint
from core_model.reader import Reader
from core_model.reading import Reading, SliceReference
from core_model.thresholds import Thresholds
from core_model.volume import canonical
from tests.tiny import CARD, body_volume, tiny_checkpoint, tiny_model

SEEN = ("liver", "lung", "kidneys")


def write_seeing_checkpoint(folder: Path, **card: Any) -> Path:
    """An untrained model that sees three organs and lesions at half of all places."""
    model = tiny_model(seed=3)
    with torch.no_grad():
        model.image.organ_head.weight.mul_(4)
        assert model.image.organ_head.bias is not None
        model.image.organ_head.bias.fill_(-200)
        for name in SEEN:
            model.image.organ_head.bias[organ(name).label] = 0
        last = model.text_to_mask[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.mul_(30)
        last.bias[-1] = 5
    thresholds = {"lesion": dict.fromkeys((a.name for a in abnormalities()), 0.55), "mask": 0.5}
    save_checkpoint(model, {**CARD, "thresholds": thresholds, **card}, folder)
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    loaded = Reader.load(write_seeing_checkpoint(tmp_path_factory.mktemp("seeing")), "cpu")
    loaded.bf16 = False  # the same on every machine
    return loaded


@pytest.fixture(scope="module")
def volume() -> hd.Volume:
    return body_volume((27, 52, 61), (7.0, 5.0, 4.5))


@pytest.fixture(scope="module")
def reading(reader: Reader, volume: hd.Volume) -> Reading:
    return reader.read(volume)


def test_masks_lie_on_the_input_geometry(reading: Reading, volume: hd.Volume) -> None:
    for mask in (reading.organ_mask, reading.lesion_mask):
        assert mask.array.dtype == np.uint8
        assert mask.spatial_shape == volume.spatial_shape
        np.testing.assert_array_equal(mask.affine, volume.affine)


def test_organs_are_complete_and_agree_with_the_mask(reading: Reading, volume: hd.Volume) -> None:
    assert [o.label for o in reading.organs] == [o.label for o in organs()]
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    for o in reading.organs:
        expected = (reading.organ_mask.array == o.label).sum() * voxel_ml
        assert o.present == (expected >= 1.0)
        assert o.volume_ml == pytest.approx(expected if o.present else 0.0)
    assert {o.name for o in reading.organs if o.present} <= set(SEEN)
    assert any(o.present for o in reading.organs)


def test_organs_that_touch_the_ends_are_truncated(reading: Reading) -> None:
    ends = set(np.unique(reading.organ_mask.array[[0, -1]]).tolist())
    assert ends - {0}  # the body runs through the whole scan, so something must be cut
    for o in reading.organs:
        assert o.truncated == (o.present and o.label in ends)


def test_every_abnormality_gets_one_finding(reading: Reading) -> None:
    assert [f.abnormality for f in reading.findings] == [a.name for a in abnormalities()]
    assert [f.organ for f in reading.findings] == [a.organ for a in abnormalities()]


def test_findings_are_undetermined_where_the_organ_is_absent(reading: Reading) -> None:
    present = {o.name for o in reading.organs if o.present}
    absent = [f for f in reading.findings if f.organ not in present]
    assert absent
    assert all((f.status, f.probability, f.position_lps_mm) == ("undetermined", None, None) for f in absent)


def test_findings_of_present_organs(reading: Reading, volume: hd.Volume) -> None:
    present = {o.name for o in reading.organs if o.present}
    low = volume.map_indices_to_reference(np.full((1, 3), -1.0))[0]
    high = volume.map_indices_to_reference(np.array([volume.spatial_shape], dtype=float))[0]
    seen = [f for f in reading.findings if f.organ in present]
    assert seen
    for f in seen:
        assert f.probability is not None
        assert 0 <= f.probability <= 1
        assert f.position_lps_mm is not None
        point = np.array(f.position_lps_mm)
        assert (point > np.minimum(low, high)).all()
        assert (point < np.maximum(low, high)).all()
        if f.status == "present":
            assert f.probability >= 0.55
        if f.status == "absent":
            assert f.probability < 0.4


def test_lesions_agree_with_their_mask(reading: Reading, volume: hd.Volume) -> None:
    assert reading.lesions, "the checkpoint was made to see lesions"
    assert [n.label for n in reading.lesions] == list(range(1, len(reading.lesions) + 1))
    assert [n.probability for n in reading.lesions] == sorted(
        (n.probability for n in reading.lesions), reverse=True
    )
    assert set(np.unique(reading.lesion_mask.array)) == {0, *(n.label for n in reading.lesions)}
    tumours = {a.name: a.organ for a in abnormalities() if a.tumour}
    for n in reading.lesions:
        where = reading.lesion_mask.array == n.label
        assert tumours[n.type] == n.organ
        assert n.volume_ml == pytest.approx(where.sum() * float(np.prod(volume.spacing)) / 1000)
        assert n.mean_hu == pytest.approx(float(volume.array[where].mean()), abs=0.05)
        centroid = volume.map_indices_to_reference(np.argwhere(where).mean(0, keepdims=True))[0]
        assert n.centroid_lps_mm == pytest.approx(tuple(centroid))
        assert 0 < n.short_axis_mm <= n.long_axis_mm


def test_a_reported_lesion_is_a_present_finding(reading: Reading) -> None:
    status = {f.abnormality: f.status for f in reading.findings}
    present = {o.name for o in reading.organs if o.present}
    assert all(status[n.type] == "present" for n in reading.lesions if n.organ in present)
    assert {n.organ for n in reading.lesions} <= present


SOME_ORDERS = [
    (order, axes)
    for i, (order, axes) in enumerate(
        itertools.product(
            itertools.permutations([0, 1, 2]), [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
        )
    )
    if i % 9 == 5
]


@pytest.mark.parametrize(("order", "axes"), SOME_ORDERS)
def test_axis_order_changes_nothing_in_the_patient(
    reader: Reader, reading: Reading, volume: hd.Volume, order: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    turned = volume.permute_spatial_axes(list(order))
    turned = turned.flip_spatial(list(axes)) if axes else turned
    other = reader.read(turned)
    np.testing.assert_array_equal(other.organ_mask.affine, turned.affine)
    for a, b in ((other.organ_mask, reading.organ_mask), (other.lesion_mask, reading.lesion_mask)):
        np.testing.assert_array_equal(canonical(a).array, canonical(b).array)
    assert [f.status for f in other.findings] == [f.status for f in reading.findings]
    assert [n.type for n in other.lesions] == [n.type for n in reading.lesions]


def test_the_input_is_left_alone(reader: Reader, volume: hd.Volume) -> None:
    before = volume.array.copy()
    reader.read(volume)
    np.testing.assert_array_equal(volume.array, before)


def test_progress_is_told_in_order(reader: Reader, volume: hd.Volume) -> None:
    told: list[tuple[str, float]] = []
    result = reader.read(volume, progress=lambda stage, share: told.append((stage, share)))
    assert [s for s, _ in told] == list(result.seconds)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(seconds >= 0 for seconds in result.seconds.values())


def test_slices_and_series_go_into_the_encoding(reader: Reader, volume: hd.Volume) -> None:
    slices = tuple(
        SliceReference((0.0, 0.0, float(k)), f"1.2.3.{k + 1}") for k in range(volume.spatial_shape[0])
    )
    result = reader.read(volume, slices=slices, series_instance_uid="1.2.3")
    assert result.encoding.slices == slices
    assert result.encoding.series_instance_uid == "1.2.3"


def test_slices_are_made_where_there_is_no_dicom(reading: Reading, volume: hd.Volume) -> None:
    assert len(reading.encoding.slices) == volume.spatial_shape[0]
    assert all(s.sop_instance_uid is None for s in reading.encoding.slices)
    middle = [[5, (volume.spatial_shape[1] - 1) / 2, (volume.spatial_shape[2] - 1) / 2]]
    expected = volume.map_indices_to_reference(np.array(middle))[0]
    assert reading.encoding.slices[5].position_lps_mm == pytest.approx(tuple(expected))


def test_encoding_is_of_unit_length_inside_the_body(reading: Reading) -> None:
    e = reading.encoding
    d, h, w = e.grid.spatial_shape
    assert e.grid_features.shape == (d, h, w, 16)
    assert e.grid_organs.shape == (d, h, w)
    assert e.slab_features.shape == (d, 16)
    assert e.slab_centres_mm.shape == (d, 3)
    length = np.linalg.norm(e.grid_features.astype(np.float32), axis=-1)
    inside = length > 0
    assert 0.2 < inside.mean() < 1
    np.testing.assert_allclose(length[inside], 1, atol=2e-3)
    assert not e.grid_organs[~inside].any()
    assert np.linalg.norm(e.global_feature) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(np.linalg.norm(e.organ_features[e.organ_present], axis=1), 1, atol=1e-4)
    assert not e.organ_features[~e.organ_present].any()
    assert e.organ_present.tolist() == [o.present for o in reading.organs]


@pytest.mark.parametrize("n", [0, 26, 28])
def test_wrong_number_of_slices(reader: Reader, volume: hd.Volume, n: int) -> None:
    slices = tuple(SliceReference((0.0, 0.0, float(k)), None) for k in range(n))
    with pytest.raises(ValueError, match=f"slices has {n} entries, the volume has 27"):
        reader.read(volume, slices=slices)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(reader: Reader, volume: hd.Volume, value: float) -> None:
    array = volume.array.copy()
    array[3, 4, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        reader.read(volume.with_array(array))


def test_a_volume_without_a_body(reader: Reader, volume: hd.Volume) -> None:
    with pytest.raises(ValueError, match="no body"):
        reader.read(volume.with_array(np.full(volume.spatial_shape, -1000.0, dtype=np.float32)))


@pytest.mark.parametrize("shape", [(2, 40, 40), (3, 25, 41), (9, 23, 30)])
def test_short_scans_are_read(reader: Reader, shape: tuple[int, int, int]) -> None:
    small = body_volume(shape, (5.0, 9.0, 9.0))
    result = reader.read(small)
    assert result.organ_mask.spatial_shape == shape
    assert result.organ_mask.array.any()


def test_localize_names_a_slice_near_the_position(reader: Reader, reading: Reading) -> None:
    found = reader.localize(reading.encoding, "Hypodense liver lesion.")
    assert found.text == "Hypodense liver lesion."
    assert -1 <= found.score <= 1
    assert found.slice == reading.encoding.slices[found.slice_index]
    assert abs(found.slice.position_lps_mm[2] - found.position_lps_mm[2]) <= 3.5 + 1e-6
    assert found.slab_scores.shape == (reading.encoding.grid.spatial_shape[0],)
    assert found.organ in {o.name for o in organs()}


def test_localize_refuses_another_models_encoding(tmp_path: Path, reading: Reading) -> None:
    tiny_checkpoint(tmp_path / "other", seed=9)
    other = Reader.load(tmp_path / "other", "cpu")
    with pytest.raises(ValueError, match=reading.encoding.model.digest[:12]):
        other.localize(reading.encoding, "Liver cyst.")


def test_localize_refuses_blank_text(reader: Reader, reading: Reading) -> None:
    with pytest.raises(ValueError, match="text is empty"):
        reader.localize(reading.encoding, " ")


def test_embeddings_are_of_unit_length(reader: Reader) -> None:
    embedding = reader.embed("Kidney stone.")
    assert embedding.dtype == np.float32
    assert embedding.shape == (16,)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_thresholds_come_from_the_card() -> None:
    thresholds = Thresholds.from_card({"thresholds": {"mask": 0.3, "lesion": {"liver_tumour": 0.9}, "x": 1}})
    assert thresholds.mask == 0.3
    assert thresholds.lesion_score("liver_tumour") == 0.9
    assert thresholds.lesion_score("lung_nodule") == 0.6
    assert Thresholds.from_card({}) == Thresholds()


def test_only_what_the_checkpoint_was_trained_on_is_searched(tmp_path: Path, volume: hd.Volume) -> None:
    names = ["lung_nodule", "liver_tumour"]  # not the dictionary's order
    model_folder = write_seeing_checkpoint(tmp_path, abnormalities=names)
    reading = Reader.load(model_folder, "cpu").read(volume)
    assert [f.abnormality for f in reading.findings] == names
    assert [f.organ for f in reading.findings] == ["lung", "liver"]
    assert {n.type for n in reading.lesions} <= set(names)


def test_a_card_with_an_unknown_abnormality(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, abnormalities=["wart"])
    with pytest.raises(CheckpointError, match="'wart' is not in the dictionary"):
        Reader.load(tmp_path, "cpu")


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        Reader.load(tmp_path, "cpu")
