"""The point decoder says the same of a voxel alone as of the whole window."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core_model.point_decoder import PointDecoder
from core_model.volume import window
from tests.tiny import tiny_model

ORGANS = 6


@settings(max_examples=15, deadline=None)
@given(sides=st.tuples(*[st.sampled_from([8, 10, 16])] * 3), seed=st.integers(0, 2**31))
def test_a_voxel_alone_is_judged_as_in_the_window(sides: tuple[int, int, int], seed: int) -> None:
    torch.manual_seed(seed)
    decoder = PointDecoder(ORGANS, 5)
    x = window(torch.randn(2, 1, *sides) * 200)
    logits = torch.randn(2, 1 + ORGANS, *(n // 2 for n in sides)) * 3
    with torch.inference_mode():
        whole = decoder(x, logits)
        assert whole.shape == (2, 5, *sides)
        read = decoder.inputs(x, logits)
        every = torch.ones(sides).nonzero()
        for b in range(2):
            alone = decoder.points(read.at(b, every)).T.unflatten(1, sides)
            torch.testing.assert_close(alone, whole[b], rtol=1e-4, atol=1e-4)


def test_the_model_uses_it_for_its_dense_features() -> None:
    model = tiny_model().eval()
    x = window(torch.randn(1, 1, 16, 16, 16) * 100)
    with torch.inference_mode():
        expected = model.lesion_decoder(x, model.half_organ_head(model.image(x).half))
        assert torch.equal(model.encode_image(x).dense, expected)
