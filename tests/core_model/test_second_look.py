"""The second look begins with the first masks, reads what its channels say, and the reader takes its word."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from core_model.candidates import MIN_VOXELS
from core_model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from core_model.clock import Clock
from core_model.detection import OUTLINE, Redrawn, seconded
from core_model.lesions import Component
from core_model.model import ModelConfig, SightlineModel
from core_model.reader import Reader
from core_model.reading import ModelIdentity
from core_model.second_look import (
    FEW,
    FOLD,
    IMAGE_CHANNELS,
    LEAST_LOGIT,
    LOGIT_SCALE,
    STRIDE,
    SecondLook,
    channels_of,
    corner_of,
    folded,
    limited,
    look_channels,
    near_organs,
    organ_medians,
    unfolded,
)
from tests.tiny import CARD, body_volume, tiny_model
from training.judging import bare

NAMES = ("liver_tumour", "lung_nodule", "kidney_stone")
ORGANS = len(organs())
RENAL = [a.name for a in abnormalities()].index("renal_tumour")
LIVER = organ("liver").label


def model_that_looks_again(
    seed: int = 0, kinds: tuple[str, ...] = NAMES, *, organs_again: bool = False, mirrored: bool = False
) -> SightlineModel:
    """The tests' model with an untrained second look."""
    own = tiny_model(seed)
    config = dataclasses.replace(
        own.config, second_look=kinds, organs_again=organs_again, look_mirrored=mirrored
    )
    model = SightlineModel(config, own.text.tokenizer_json)
    model.load_state_dict(own.state_dict(), strict=False)
    return model.eval()


def model_that_cannot_tell() -> SightlineModel:
    """Its second look says "perhaps a renal tumour", by half, of all the body."""
    model = model_that_looks_again(kinds=("renal_tumour",))
    assert model.second_look is not None
    with torch.no_grad():
        for p in model.second_look.parameters():
            p.zero_()
    return model


def reader_of(model: SightlineModel) -> Reader:
    reader = Reader(Checkpoint(model, CARD, ModelIdentity("tiny", "1", "0" * 64)), torch.device("cpu"), False)
    reader.thresholds = bare(reader.thresholds)
    return reader


def test_channels_say_what_is_there() -> None:
    hu = torch.full((1, 8, 8, 8), 100.0)
    hu[0, 4, 4, 4] = 55.0
    label = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    label[0, :, :, :5] = LIVER
    first = torch.full((1, 3, 8, 8, 8), -20.0)
    first[0, 1, 4, 4, 4] = 2.0
    medians = organ_medians(hu[0], label[0], ORGANS)
    assert medians[LIVER] == 100.0
    assert medians.count_nonzero() == 1
    x = look_channels(hu, label, limited(first), medians[None])
    assert x.shape == (1, channels_of(3, ORGANS), 4, 4, 4)
    voxels = unfolded(x[:, : FOLD**3 * (IMAGE_CHANNELS + 3)].movedim(1, -1))[0]  # (8, 8, 8, C)
    contrast = voxels[..., IMAGE_CHANNELS - 1]
    assert contrast[4, 4, 4] == -1.5  # 45 HU below its organ
    assert contrast.count_nonzero() == 1
    masks = voxels[..., IMAGE_CHANNELS:]
    assert masks[4, 4, 4, 1] == 2.0 / LOGIT_SCALE
    assert masks.min() == -2.0  # no lower than -8
    shares = x[0, FOLD**3 * (IMAGE_CHANNELS + 3) :]
    assert shares[LIVER - 1, 0, 0].tolist() == [1.0, 1.0, 0.5, 0.0]
    assert float(shares.sum()) == float(shares[LIVER - 1].sum())


def test_what_is_folded_unfolds() -> None:
    voxels = torch.arange(2 * 4 * 6 * 8 * 3).reshape(2, 4, 6, 8, 3)
    cells = folded(voxels)
    assert cells.shape == (2, 2, 3, 4, 24)
    assert cells[1, 1, 2, 3, :3].tolist() == voxels[1, 2, 4, 6].tolist()
    assert torch.equal(unfolded(cells), voxels)


def test_first_masks_are_read_about_organs() -> None:
    label = torch.zeros(12, 12, 12, dtype=torch.long)
    label[6, 6, 6] = LIVER
    assert int(near_organs(label).sum()) == 5**3


def test_an_organ_of_few_voxels_has_no_median() -> None:
    label = torch.zeros(4, 4, 4, dtype=torch.long)
    label.view(-1)[:FEW] = LIVER
    assert organ_medians(torch.full((4, 4, 4), 50.0), label, ORGANS).count_nonzero() == 0
    label.view(-1)[FEW] = LIVER
    assert organ_medians(torch.full((4, 4, 4), 50.0), label, ORGANS)[LIVER] == 50.0


def test_it_begins_with_the_order_of_the_first_masks() -> None:
    torch.manual_seed(0)
    look = SecondLook(3, ORGANS).eval()
    look.out.weight.data.zero_()  # what it has not learnt yet is noise
    first = torch.randn(3, 8, 16, 16)
    label = torch.full((8, 16, 16), LIVER)
    drawn = look.look(torch.full((8, 16, 16), 80.0), label, first).masks
    for k in range(3):
        others = first.exp().sum(0) - first[k].exp()
        expected = first[k].exp() / (first[k].exp() + others + np.exp(2.0))
        torch.testing.assert_close(drawn[k], expected, atol=1e-5, rtol=1e-5)


@given(shape=st.tuples(*[st.integers(1, 19)] * 3))
@settings(max_examples=8)
def test_any_scan_keeps_its_shape(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    look = SecondLook(2, ORGANS, organs_again=True).eval()
    hu, label = torch.zeros(shape), torch.full(shape, LIVER)
    drawn = look.look(hu, label, torch.zeros(2, *shape))
    assert drawn.masks.shape == (2, *shape)
    assert bool(((drawn.masks >= 0) & (drawn.masks.sum(0) <= 1 + 1e-5)).all())
    assert drawn.organs is not None
    assert drawn.organs.shape == (1 + ORGANS, *shape)
    torch.testing.assert_close(drawn.organs.sum(0), torch.ones(shape))


def test_organs_begin_as_they_were_drawn() -> None:
    torch.manual_seed(0)
    look = SecondLook(1, ORGANS, organs_again=True).eval()
    label = torch.randint(0, 1 + ORGANS, (8, 16, 16))
    drawn = look.look(torch.randn(8, 16, 16) * 100, label, torch.zeros(1, 8, 16, 16)).organs
    assert drawn is not None
    assert torch.equal(drawn.argmax(0), label)


def test_one_corner_of_every_cell_is_that_of_all_its_voxels() -> None:
    torch.manual_seed(0)
    look = SecondLook(1, ORGANS, organs_again=True).eval()
    torch.nn.init.normal_(look.organ_out.weight, std=0.1)
    label = torch.randint(0, 1 + ORGANS, (2, 8, 8, 16))
    x = torch.randn(2, channels_of(1, ORGANS), 4, 4, 8)
    with torch.inference_mode():
        cells = look.cells(x)
        whole = look.organs(cells, x, label)
        for corner, (z, y, xx) in enumerate(product((0, 1), repeat=3)):
            one = look.organs(cells, x, label, corner)
            torch.testing.assert_close(one, whole[:, :, z::2, y::2, xx::2])
            assert torch.equal(corner_of(label, corner), label[:, z::2, y::2, xx::2])


def test_one_that_sees_both_sides_draws_their_mean() -> None:
    torch.manual_seed(0)
    both = SecondLook(2, ORGANS, organs_again=True, mirrored=True).eval()
    torch.nn.init.normal_(both.organ_out.weight, std=0.1)
    one = SecondLook(2, ORGANS, organs_again=True).eval()
    one.load_state_dict(both.state_dict())
    hu, label, first = torch.randn(7, 12, 10) * 100, torch.full((7, 12, 10), LIVER), torch.randn(2, 7, 12, 10)
    label[:, :, :4] = 0
    moved = [F.pad(t.flip(-1), (1, 0, 1, 0, 1, 0), value=v) for t, v in ((hu, -1000.0), (label, 0))]
    moved_first = F.pad(first.flip(-1), (1, 0, 1, 0, 1, 0), value=LEAST_LOGIT)
    plain, other, drawn = (
        one.look(hu, label, first),
        one.look(*moved, moved_first),
        both.look(hu, label, first),
    )
    assert drawn.organs is not None
    assert plain.organs is not None
    assert other.organs is not None
    for mean, a, b in ((drawn.masks, plain.masks, other.masks), (drawn.organs, plain.organs, other.organs)):
        torch.testing.assert_close(mean, (a + b[:, 1:, 1:, 1:].flip(-1)) / 2)
    assert not torch.allclose(drawn.masks, plain.masks, atol=1e-3)


def test_one_that_draws_no_organs_says_so() -> None:
    look = SecondLook(1, ORGANS)
    assert (
        look.look(torch.zeros(8, 8, 8), torch.zeros(8, 8, 8).long(), torch.zeros(1, 8, 8, 8)).organs is None
    )
    x = torch.zeros(1, channels_of(1, ORGANS), 4, 4, 4)
    with pytest.raises(ValueError, match="make it with organs_again=True"):
        look.organs(look.cells(x), x, torch.zeros(1, 8, 8, 8))


def test_a_side_that_does_not_fit_is_named() -> None:
    first = torch.zeros(1, 1, 8, 8, 12)
    with pytest.raises(ValueError, match=rf"\(8, 8, 12\); pad every side to a multiple of {STRIDE}"):
        SecondLook(1, ORGANS)(torch.zeros(1, channels_of(1, ORGANS), 4, 4, 6), first)


def test_it_travels_in_a_checkpoint(tmp_path: Path) -> None:
    model = model_that_looks_again(mirrored=True)
    save_checkpoint(model, CARD, tmp_path)
    held = load_checkpoint(tmp_path).model
    assert held.config.second_look == NAMES
    assert held.second_look is not None
    assert held.second_look.mirrored
    assert torch.equal(held.second_look.stem.weight, model.second_look.stem.weight.half().float())
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("kidney_stone", "wart"))
    with pytest.raises(CheckpointError, match="cannot be read: second_look names 'wart'"):
        load_checkpoint(tmp_path)


def test_a_config_that_names_no_abnormality_is_refused() -> None:
    with pytest.raises(ValueError, match="second_look names 'wart'"):
        ModelConfig(second_look=("wart",))
    with pytest.raises(ValueError, match="organs_again needs a second look"):
        ModelConfig(organs_again=True)
    with pytest.raises(ValueError, match="look_mirrored needs a second look"):
        ModelConfig(look_mirrored=True)


def test_a_reader_draws_again_what_it_can_and_only_that() -> None:
    volume = body_volume((20, 24, 26))
    plain, again = reader_of(tiny_model()), reader_of(model_that_looks_again())
    scan = again._features(volume.copy(), Clock(None), lesions=True)
    with torch.inference_mode():
        before = plain._detector.look(Redrawn(scan.features, {}), plain.thresholds)
        after = again._detector.look(scan, again.thresholds)
    changed = [
        a.name
        for a, x, y in zip(abnormalities(), before.masks, after.masks, strict=True)
        if not torch.allclose(x, y, atol=1e-5)
    ]
    assert set(changed) <= set(NAMES)
    assert changed
    # Of those three it draws one at most in a voxel, inside the body.
    drawn = after.masks[[a.name in NAMES for a in abnormalities()]]
    assert float(drawn.sum(0).max()) <= 1 + 1e-5
    assert float((drawn * ~scan.features.body).max()) == 0.0


def test_pieces_of_the_first_mask_are_scored_and_cut_down_by_the_second_look() -> None:
    first = np.zeros((4, 6, 12), dtype=bool)
    drawn = torch.zeros(4, 6, 12)
    weak, strong, empty = first.copy(), first.copy(), first.copy()
    weak[1:3, 1:3, 1:4] = strong[1:3, 1:3, 5:9] = empty[1, 4, :] = True
    drawn[1:3, 1:3, 2:4] = 0.1
    drawn[1:3, 1:3, 6] = 0.8
    drawn[1:3, 1:3, 7] = 0.9 * OUTLINE
    drawn[3] = 1.0  # of no piece
    again = seconded([Component(m, 0.7, int(m.sum())) for m in (weak, empty, strong)], drawn)
    assert [round(c.score, 3) for c in again] == [0.8, 0.1]
    assert [c.voxels for c in again] == [int(c.mask.sum()) for c in again] == [8, 8]
    assert np.array_equal(np.argwhere(again[0].mask)[:, 2], np.repeat([[6, 7]], 4, 0).ravel())
    assert not (again[1].mask & ~weak).any()


def test_lesions_are_first_pieces_with_the_word_of_the_second_look() -> None:
    """One that says "perhaps, by half" of all the body leaves each piece as it is, with that score."""
    reader, plain = reader_of(model_that_cannot_tell()), reader_of(tiny_model())
    volume = body_volume((20, 24, 26))
    for one in (reader, plain):
        one.thresholds = dataclasses.replace(one.thresholds, mask=0.01, raise_findings=True)
    scan = plain._features(volume.copy(), Clock(None), lesions=True)
    with torch.inference_mode():
        before = plain._detector.look(Redrawn(scan.features, {}), plain.thresholds).candidates[RENAL]
    assert before
    found = reader.read(volume)
    own = [n for n in found.lesions if n.type == "renal_tumour"]
    assert [n.probability for n in own] == [pytest.approx(0.5)] * len(before)
    finding = next(f for f in found.findings if f.abnormality == "renal_tumour")
    assert finding.probability is not None
    assert finding.probability >= own[0].probability


def test_lesions_may_be_pieces_of_what_the_second_look_draws() -> None:
    """The first masks reach their threshold nowhere; the second look says "by half" wherever it may."""
    reader = reader_of(model_that_cannot_tell())
    volume = body_volume((20, 24, 26))
    reader.thresholds = dataclasses.replace(reader.thresholds, mask=1.0)
    assert not [n for n in reader.read(volume).lesions if n.type == "renal_tumour"]
    reader.thresholds = dataclasses.replace(reader.thresholds, second_pieces=("renal_tumour",))
    scan = reader._features(volume.copy(), Clock(None), lesions=True)
    with torch.inference_mode():
        seen = reader._detector.look(scan, reader.thresholds)
    drawn = seen.masks[RENAL].numpy() > 0
    pieces, n = ndimage.label(drawn, np.ones((3, 3, 3)))
    sizes = [int((pieces == i).sum()) for i in range(1, n + 1)]
    assert sorted(c.voxels for c in seen.candidates[RENAL]) == sorted(v for v in sizes if v >= MIN_VOXELS)
    own = [n for n in reader.read(volume).lesions if n.type == "renal_tumour"]
    assert [n.probability for n in own] == [pytest.approx(0.5)] * len(seen.candidates[RENAL])
    assert own
    reader.thresholds = dataclasses.replace(reader.thresholds, first_masks=("renal_tumour",))
    assert not [n for n in reader.read(volume).lesions if n.type == "renal_tumour"]  # it draws none then


def test_a_text_that_means_what_is_drawn_again_gets_that_mask() -> None:
    reader = reader_of(model_that_cannot_tell())
    volume = body_volume((20, 24, 26))
    body = reader._features(volume, Clock(None), lesions=True).features.body
    drawn = reader.segment(volume, "kidney tumour").array > 0
    assert drawn.sum() > 0.7 * float(body.sum())
    plain = reader_of(tiny_model())
    assert np.array_equal(
        reader.segment(volume, "kidney stone").array, plain.segment(volume, "kidney stone").array
    )


def test_organs_that_are_drawn_again_are_those_of_the_reading() -> None:
    """One that has learnt to call everything spleen: whoever asks for organs, gets its word."""
    model, spleen = model_that_looks_again(organs_again=True), organ("spleen").label
    assert model.second_look is not None
    assert model.second_look.organ_out.bias is not None
    with torch.no_grad():
        model.second_look.organ_out.bias[spleen :: 1 + ORGANS] = 50.0
    reader, volume = reader_of(model), body_volume((20, 24, 26))
    reading = reader.read(volume)
    inside = reading.organ_mask.array[4:-4, 6:-6, 6:-6]
    assert (inside == spleen).all()
    assert [o.name for o in reading.organs if o.present] == ["spleen"]
    assert np.array_equal(reader.draw_organs(volume).array, reading.organ_mask.array)
    untrained = reader_of(model_that_looks_again(organs_again=True)).read(volume)
    as_before = reader_of(tiny_model()).read(volume)
    changed = untrained.organ_mask.array != as_before.organ_mask.array
    assert changed.mean() < 0.02  # borders between voxels: sharper probabilities are interpolated otherwise


def test_a_lesion_is_reported_with_the_probability_that_its_score_means() -> None:
    reader = reader_of(model_that_cannot_tell())
    volume = body_volume((20, 24, 26))
    reader.thresholds = dataclasses.replace(
        reader.thresholds, mask=0.01, lesion_offset={"renal_tumour": -2.0}
    )
    own = [n for n in reader.read(volume).lesions if n.type == "renal_tumour"]
    assert [n.probability for n in own] == [pytest.approx(float(1 / (1 + np.exp(2))))]
    reader.thresholds = dataclasses.replace(reader.thresholds, lesion={"renal_tumour": 0.2})
    assert not [n for n in reader.read(volume).lesions if n.type == "renal_tumour"]


def test_what_keeps_its_first_masks_is_read_as_without_a_second_look() -> None:
    volume = body_volume((20, 24, 26))
    plain, again = reader_of(tiny_model()), reader_of(model_that_looks_again())
    again.thresholds = dataclasses.replace(again.thresholds, first_masks=NAMES)
    scan = again._features(volume, Clock(None), lesions=True)
    with torch.inference_mode():
        before = plain._detector.look(Redrawn(scan.features, {}), plain.thresholds)
        after = again._detector.look(scan, again.thresholds)
    assert torch.equal(before.masks, after.masks)
    assert [[c.score for c in own] for own in before.candidates] == [
        [c.score for c in own] for own in after.candidates
    ]
    assert np.array_equal(
        again.segment(volume, "liver tumour").array, plain.segment(volume, "liver tumour").array
    )
