"""Voxels are chosen where lesions and organs are, say what the window says there, and train lesions alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.model import SightlineModel
from tests.tiny import tiny_model
from tests.training.tiny_run import descend
from training.crop_views import mask_targets, organ_shares
from training.lesion_voxels import (
    PER_LESION,
    PER_TEXT,
    RIM,
    Voxels,
    choose_places,
    lesion_objective,
    read_voxels,
)
from training.losses import NEGATIVE_WEIGHT, lesion_voxel_loss
from training.samples import Crop
from training.text_bank import TextBank

A = len(abnormalities())


@pytest.fixture
def model() -> SightlineModel:
    return tiny_model()


def planted(at: tuple[int, int, int], abnormality: int) -> Crop:
    """One window, half of it liver, with one lesion of 27 voxels or what of it lies in the window."""
    shape = (1, 16, 24, 32)
    lesions, organs = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8)
    lesions[0][tuple(slice(max(0, c - 1), c + 2) for c in at)] = abnormality + 1
    organs[..., :16] = organ("liver").label
    return Crop(torch.zeros(1, *shape), organs, lesions, torch.zeros(1, A))


@settings(max_examples=30, deadline=None)
@given(
    at=st.tuples(st.integers(0, 15), st.integers(0, 23), st.integers(0, 31)),
    kind=st.integers(0, A - 1),
    seed=st.integers(0, 2**32),
)
def test_every_voxel_of_a_small_lesion_is_kept_once_and_organs_beside(
    at: tuple[int, int, int], kind: int, seed: int
) -> None:
    sample = planted(at, kind)
    _, region = mask_targets(sample, organ_shares(sample.organs), torch.arange(A))
    sure, spare = choose_places(sample.lesions[0], region[0], np.random.default_rng(seed))
    own = int((sample.lesions > 0).sum())
    assert own <= PER_LESION
    lesion = {tuple(p) for p in (sample.lesions[0] > 0).nonzero().tolist()}
    assert lesion <= {tuple(p) for p in sure[:own].tolist()}
    beside = {tuple(p) for p in sure[own:].tolist()} - lesion
    near = {p for p in beside if any(max(abs(a - b) for a, b in zip(p, q, strict=True)) <= 3 for q in lesion)}
    assert len(near) >= 40, "what surrounds it is kept too"
    liver = region[0, [a.organ for a in abnormalities()].index("liver")]
    z, y, x = torch.cat([sure[own:], spare]).unbind(1)
    assert int(liver[z, y, x].sum()) >= 1000


def test_a_window_of_nothing_gives_no_voxels(model: SightlineModel) -> None:
    sample = planted((0, 0, 0), 0)
    empty = Crop(
        sample.hu, torch.zeros_like(sample.organs), torch.zeros_like(sample.lesions), sample.findings
    )
    [found] = read_voxels(model, TextBank.of(model), empty, np.random.default_rng(0))
    assert len(found) == 0
    assert float(lesion_voxel_loss(torch.zeros(0, A), found.target, found.judged)) == 0


def test_what_is_kept_is_what_the_window_says_there(model: SightlineModel, coarse_crops: Crop) -> None:
    windows = read_voxels(model, TextBank.of(model), coarse_crops, np.random.default_rng(0))
    target, region = mask_targets(coarse_crops, organ_shares(coarse_crops.organs), torch.arange(A))
    assert len(windows) == 2
    for b, voxels in enumerate(windows):
        assert voxels.read.shape == (len(voxels), model.lesion_decoder.first.in_features)
        assert bool((voxels.target <= voxels.judged).all()), "a lesion lies where it is searched"
        # Every kind of lesion of the window is among the voxels, and none that is not there.
        assert voxels.target.any(0).tolist() == target[b].flatten(1).any(1).tolist()
        assert (voxels.judged.any(0) <= region[b].flatten(1).any(1)).all()


def judging_by_brightness(model: SightlineModel) -> SightlineModel:
    """A decoder that reads the soft-tissue window alone: the brighter, the more of every abnormality."""
    decoder = model.lesion_decoder
    with torch.no_grad():
        for layer, channel in ((decoder.first, 1), (decoder.second, 0), (decoder.out, 0)):
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[0, channel] = 1.0
        last = model.text_to_mask[-1]
        last.weight.zero_()
        last.bias.copy_(torch.eye(len(last.bias))[0])
    return model


def worst_of(
    model: SightlineModel, sample: Crop, bright: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> Voxels:
    """The voxels that are kept when every voxel is a candidate and none is sure."""
    every = torch.ones(sample.organs.shape[1:]).nonzero()
    monkeypatch.setattr("training.lesion_voxels.choose_places", lambda *_: (every[:0], every))
    hu = torch.full_like(sample.hu, 60.0)
    for at in bright:
        hu[0, 0][at] = 200.0
    own = Crop(hu, sample.organs, sample.lesions, sample.findings)
    [found] = read_voxels(judging_by_brightness(model), TextBank.of(model), own, np.random.default_rng(0))
    return found


def test_the_worst_voxels_of_an_organ_are_kept(
    model: SightlineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = planted((8, 12, 8), 0)
    nothing = Crop(sample.hu, sample.organs, torch.zeros_like(sample.lesions), sample.findings)
    found = worst_of(model, nothing, [(2, 3, 4), (9, 20, 11), (4, 4, 30)], monkeypatch)
    # Two of the three lie in the liver; all that is kept besides fills up what is wanted per text.
    assert int((found.read[:, 1] > 0.7).sum()) == 2
    assert PER_TEXT <= len(found) <= PER_TEXT * A
    assert bool(found.judged.any(1).all()), "what no abnormality is searched in teaches nothing"


def test_a_lesion_and_its_rim_are_never_among_its_worst(
    model: SightlineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = (8, 12, 8)
    inside, rim, beyond = (at[0] + 1, *at[1:]), (at[0] + 1 + RIM, *at[1:]), (at[0] + 2 + RIM, *at[1:])
    searched = [a.organ for a in abnormalities()]
    # Another abnormality of the organ would have the lesion among its worst.
    alone = next(i for i, name in enumerate(searched) if searched.count(name) == 1)
    sample = planted(at, alone)
    sample.organs[sample.organs == organ("liver").label] = organ(searched[alone]).label
    found = worst_of(model, sample, [inside, rim, beyond], monkeypatch)
    assert int((found.read[:, 1] > 0.7).sum()) == 1, "the one beyond"
    assert not bool(found.target.any())


def test_loss_weighs_the_means_of_both_sides_and_judges_nothing_else() -> None:
    target = torch.zeros(101, 1, dtype=torch.bool)
    target[0] = True
    judged = torch.ones_like(target)
    level = torch.zeros(101, 1)
    both = (1 + NEGATIVE_WEIGHT) * np.log(2)
    assert float(lesion_voxel_loss(level, target, judged)) == pytest.approx(both)
    missed, false = level.clone(), level.clone()
    missed[0] -= 5
    false[1:] += 5
    more = np.log1p(np.exp(5)) - np.log(2)  # of a voxel that is wrong by 5
    assert float(lesion_voxel_loss(missed, target, judged)) == pytest.approx(both + more, rel=1e-5)
    assert float(lesion_voxel_loss(false, target, judged)) == pytest.approx(
        both + NEGATIVE_WEIGHT * more, rel=1e-5
    )
    assert float(lesion_voxel_loss(false, target, target)) == pytest.approx(np.log(2)), "only what is judged"


def test_only_the_lesion_part_is_trained(model: SightlineModel, coarse_crops: Crop) -> None:
    model.freeze(["encoder"])
    bank, rng = TextBank.of(model), np.random.default_rng(0)
    voxels = Voxels.joined(read_voxels(model, bank, coarse_crops, rng))
    lesion_objective(model, bank, voxels, rng)["masks"].backward()  # type: ignore[no-untyped-call]
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {"lesion_decoder", "text_to_mask"}


def test_a_few_steps_find_the_lesions(model: SightlineModel, coarse_crops: Crop) -> None:
    model.freeze(["encoder"])
    bank = TextBank.of(model)
    voxels = Voxels.joined(read_voxels(model, bank, coarse_crops, np.random.default_rng(0)))

    def loss() -> torch.Tensor:
        return lesion_objective(model, bank, voxels, np.random.default_rng(0))["masks"]

    totals = descend(model, loss, 12, 3e-3)
    assert totals[-1] < 0.8 * totals[0]
