"""Boxes lie where lesions and organs are, cut what they say, and train the lesion decoder alone."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.lesion_decoder import LesionDecoder
from core_model.model import SightlineModel
from core_model.volume import window
from tests.tiny import tiny_model
from tests.training.small_anatomy import small_anatomy
from training.lesion_boxes import Box, BoxMemory, choose_boxes, cut, encode_boxes, lesion_objective
from training.objective import TextBank
from training.samples import PhantomCrops, Sample, collate


@pytest.fixture(scope="module")
def batch() -> Sample:
    crops = PhantomCrops([(small_anatomy, 1.0)], (16, 32, 32), 8.0, seed=4, crops=2)
    return collate(list(islice(crops, 2)))


@pytest.fixture
def model() -> SightlineModel:
    return tiny_model()


def planted(at: tuple[int, int, int], abnormality: int) -> Sample:
    """One window of liver with one lesion voxel."""
    shape = (1, 32, 48, 64)
    lesions = torch.zeros(shape, dtype=torch.uint8)
    lesions[0, *at] = abnormality + 1
    return Sample(
        hu=torch.zeros(1, *shape),
        organs=torch.full(shape, organ("liver").label, dtype=torch.uint8),
        lesions=lesions,
        findings=torch.zeros(1, len(abnormalities())),
    )


@settings(max_examples=40, deadline=None)
@given(
    at=st.tuples(st.integers(0, 31), st.integers(0, 47), st.integers(0, 63)),
    side=st.sampled_from([16, 20, 32]),
    seed=st.integers(0, 2**32),
)
def test_boxes_lie_in_the_window_and_most_hold_the_lesion(
    at: tuple[int, int, int], side: int, seed: int
) -> None:
    sample = planted(at, 0)
    boxes = choose_boxes(sample, np.random.default_rng(seed), 40, side)
    assert len(boxes) == 40
    for box in boxes:
        assert all(c % 4 == 0 and 0 <= c <= n - side for c, n in zip(box.corner, (32, 48, 64), strict=True))
    holds = cut(sample.lesions, boxes, side).flatten(1).any(1)
    assert int(holds.sum()) >= 10, "six of ten boxes are put on the lesion and must hold it"


def test_a_window_of_nothing_still_gives_boxes() -> None:
    sample = planted((0, 0, 0), 0)
    empty = Sample(
        sample.hu, torch.zeros_like(sample.organs), torch.zeros_like(sample.lesions), sample.findings
    )
    assert len(choose_boxes(empty, np.random.default_rng(0), 3, 16)) == 3


@pytest.mark.parametrize("side", [8, 18, 36])
def test_a_side_that_does_not_fit(side: int) -> None:
    with pytest.raises(ValueError, match=f"side is {side}"):
        choose_boxes(planted((0, 0, 0), 0), np.random.default_rng(0), 1, side)


def test_cut_at_every_scale_takes_the_same_place() -> None:
    fine = torch.randn(2, 3, 16, 16, 24)
    boxes = [Box(1, (4, 8, 12)), Box(0, (0, 0, 0))]
    part = cut(fine, boxes, 8)
    torch.testing.assert_close(part[0], fine[1, :, 4:12, 8:16, 12:20])
    for scale in (2, 4):
        coarse = torch.nn.functional.avg_pool3d(fine, scale)
        torch.testing.assert_close(
            cut(coarse, boxes, 8, scale), torch.nn.functional.avg_pool3d(part, scale), rtol=1e-5, atol=1e-6
        )


def test_inside_a_box_the_decoder_says_what_it_says_of_the_whole(model: SightlineModel) -> None:
    """Why the decoder's norm is blind to neighbours: away from the border a box changes nothing."""
    decoder = LesionDecoder(model.image.channels, 8, contrast=True)
    x = window(torch.randn(1, 1, 64, 64, 64) * 300)
    with torch.inference_mode():
        whole = model.image(x)
        seen = decoder.seen(x, model.half_organ_head(whole.half))
        boxes, side = [Box(0, (4, 8, 12))], 48
        parts = type(whole)(
            fine=cut(whole.fine, boxes, side),
            half=cut(whole.half, boxes, side, 2),
            quarter=cut(whole.quarter, boxes, side, 4),
            organ_logits=whole.organ_logits,
        )
        expected = cut(decoder(seen, whole), boxes, side)
        found = decoder(cut(seen, boxes, side), parts)
    inner = (..., *[slice(20, 28)] * 3)  # beyond the reach of the zeros at the box's border
    torch.testing.assert_close(found[inner], expected[inner], rtol=1e-4, atol=1e-5)


def test_only_the_lesion_part_is_trained(model: SightlineModel, batch: Sample) -> None:
    model.freeze(["encoder"])
    rng = np.random.default_rng(0)
    losses = lesion_objective(model, TextBank.of(model), encode_boxes(model, batch, rng, 3, 16), rng)
    losses["masks"].backward()  # type: ignore[no-untyped-call]
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {"lesion_decoder", "text_to_mask"}


def test_a_few_steps_find_the_lesions(model: SightlineModel, batch: Sample) -> None:
    model.freeze(["encoder"])
    bank = TextBank.of(model)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    boxes = encode_boxes(model, batch, np.random.default_rng(0), 4, 16)
    totals = []
    for _ in range(12):
        loss = lesion_objective(model, bank, boxes, np.random.default_rng(0))["masks"]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.8 * totals[0]


def test_the_memory_keeps_the_newest_and_gives_different_ones(model: SightlineModel, batch: Sample) -> None:
    memory = BoxMemory(5)
    with pytest.raises(ValueError, match="holds no boxes"):
        memory.draw(np.random.default_rng(0), 1)
    rng = np.random.default_rng(0)
    first, second = (encode_boxes(model, batch, rng, 2, 16) for _ in range(2))  # four boxes each
    memory.add(first)
    assert len(memory.draw(rng, 9)) == 4
    memory.add(second)
    held = memory.draw(rng, 9)
    assert len(held) == 5
    assert len(memory.draw(rng, 3)) == 3
    newest = torch.cat([first.seen[-1:], second.seen]).half().float()
    sums = lambda t: sorted(t.double().sum((1, 2, 3, 4)).tolist())  # noqa: E731 - order does not matter
    assert sums(held.seen) == pytest.approx(sums(newest))
    assert held.organs.dtype == torch.uint8
