"""What is seen of a candidate is what is there; the judge starts without an opinion."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core_model.anatomy import organ, organs
from core_model.candidates import (
    MAX_CANDIDATES,
    SHAPE_CHANNELS,
    CandidateJudge,
    CandidateView,
    candidates,
    describe_all,
    evidence,
)
from core_model.checkpoint import Checkpoint
from core_model.lesions import Component
from core_model.masks import Region
from core_model.reader import Reader
from core_model.reading import ModelIdentity
from tests.tiny import CARD, body_volume, tiny_model
from training.judging import bare

SHAPE = (20, 22, 24)
WIDTH = 8
LIVER = organ("liver").label
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)


def box(low: tuple[int, int, int], side: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, a + side) for a in low)] = True
    return mask


def view(lesion: np.ndarray, *, liver_hu: float = 100.0, lesion_hu: float = 60.0) -> CandidateView:
    """A scan that is liver all over, with a lesion; the first dense channel marks it."""
    hu = np.full(SHAPE, liver_hu, dtype=np.float32)
    hu[lesion] = lesion_hu
    dense = np.zeros((WIDTH, *SHAPE), dtype=np.float32)
    dense[0][lesion] = 1.0
    organ_probability = np.zeros((1 + len(organs()), *SHAPE), dtype=np.float32)
    organ_probability[LIVER] = 1.0
    return CandidateView(hu, dense, organ_probability)


def described(lesion: np.ndarray, seen: CandidateView, score: float = 0.75) -> np.ndarray:
    found = Component(lesion, score, int(lesion.sum()))
    mask = torch.from_numpy(lesion).float()
    return describe_all(seen, [found], "liver", mask, Region(EVERYWHERE, EVERYWHERE))[0].numpy()


def test_a_cube_is_described_as_it_is() -> None:
    lesion = box((8, 8, 8), 4)
    d = described(lesion, view(lesion))
    own, strongest, around = (d[k * WIDTH : (k + 1) * WIDTH] for k in range(3))
    assert own.tolist() == strongest.tolist() == [1.0, *[0.0] * (WIDTH - 1)]
    assert around.tolist() == [0.0] * WIDTH
    inside, outside = d[3 * WIDTH : -SHAPE_CHANNELS].reshape(2, -1)
    assert inside[LIVER] == outside[LIVER] == 1
    shape, grey = d[-SHAPE_CHANNELS:-8], d[-8:]
    thickness = 2.0  # voxels from a middle voxel to the nearest one outside
    size = np.log(64)
    assert shape.tolist() == pytest.approx(
        [
            np.log(3) / 4,
            0.75,
            size / 4,
            1.0,
            thickness / 4,
            np.log(4) / 2,
            1.0,
            (size - np.log(thickness**3)) / 2,
        ],
        rel=1e-5,
    )
    median, spread = view(lesion).organ_hu(LIVER)
    assert (median, spread) == (100.0, pytest.approx(np.std(view(lesion).hu)))
    assert grey.tolist() == pytest.approx([-2, -2, 0, 0, 0, 2, spread / 50, 1.2], rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    low=st.tuples(st.integers(0, 16), st.integers(0, 18), st.integers(0, 20)),
    side=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_candidate_is_described_by_finite_numbers(
    low: tuple[int, int, int], side: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lesion = box(low, side) & (rng.random(SHAPE) < 0.7)
    lesion[low] = True
    seen = view(lesion, lesion_hu=float(rng.uniform(-1024, 3071)))
    d = described(lesion, seen, score=float(rng.choice([0.0, 0.3, 1.0])))
    assert d.dtype == np.float32
    assert np.isfinite(d).all()
    with torch.inference_mode():
        judged = CandidateJudge(len(organs()), WIDTH).eval()(torch.from_numpy(d)[None])
    assert judged.shape == (1, WIDTH)
    assert bool(judged.isfinite().all())


def test_a_candidate_that_fills_the_scan_has_itself_as_surroundings() -> None:
    lesion = np.ones(SHAPE, dtype=bool)
    d = described(lesion, view(lesion))
    assert d[2 * WIDTH] == 1.0


def test_grey_values_are_those_of_the_organ_that_is_searched() -> None:
    lesion = box((8, 8, 8), 4)
    seen = view(lesion, liver_hu=50.0)
    assert seen.organ_hu(LIVER)[0] == 50
    assert seen.organ_hu(organ("spleen").label) == (0.0, 1.0), "an organ that is not seen"


def test_candidates_are_the_pieces_in_reach_with_evidence_in_the_core() -> None:
    mask = torch.zeros(SHAPE)
    mask[2:5, 2:5, 2:5], mask[10:13, 2:5, 2:5], mask[2:5, 12:15, 12:15] = 0.9, 0.6, 0.8
    reach, core = torch.ones(SHAPE, dtype=torch.bool), torch.ones(SHAPE, dtype=torch.bool)
    assert [round(c.score, 3) for c in candidates(mask, Region(reach, core), 0.5)] == [0.9, 0.8, 0.6]
    assert [round(c.score, 3) for c in candidates(mask, Region(reach, core), 0.7)] == [0.9, 0.8]
    reach[:6, :6] = False
    core[:, 10:] = False
    assert [round(c.score, 3) for c in candidates(mask, Region(reach, core), 0.5)] == [0.6]


def test_only_the_strongest_candidates_are_kept() -> None:
    mask = torch.zeros(4, 4, 4 * (MAX_CANDIDATES + 5))
    everywhere = torch.ones(mask.shape, dtype=torch.bool)
    for k in range(MAX_CANDIDATES + 5):
        mask[:2, :2, 4 * k : 4 * k + 2] = 0.5 + k / 100
    found = candidates(mask, Region(everywhere, everywhere), 0.3)
    assert len(found) == MAX_CANDIDATES
    assert found[-1].score == pytest.approx(0.55)


def test_an_untrained_judge_leaves_scores_as_they_are() -> None:
    model = tiny_model()
    text = model.encode_text(["A tumour.", "A cyst."])
    read = torch.randn(2, model.candidate_judge.first.in_features)
    before = torch.tensor([evidence(0.9), evidence(0.2)])
    logits = model.candidate_logits(read, before, text.judge_weight, text.judge_bias)
    assert logits.sigmoid().tolist() == pytest.approx([0.9, 0.2], abs=1e-6)


def test_texts_judge_the_same_candidate_differently() -> None:
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.text_to_judge[-1].parameters():
            parameter.normal_()
    text = model.encode_text(["A tumour.", "A cyst."])
    read = torch.randn(1, model.candidate_judge.first.in_features).expand(2, -1)
    logits = model.candidate_logits(read, torch.zeros(2), text.judge_weight, text.judge_bias)
    assert abs(logits[0].item() - logits[1].item()) > 1e-3


def test_reader_reports_what_the_judge_says() -> None:
    """In a reading the score of every lesion goes through the judge, and the rest is dropped."""
    model = tiny_model()
    with torch.no_grad():  # every voxel is a lesion of every kind
        model.text_to_mask[-1].weight.zero_()
        model.text_to_mask[-1].bias.fill_(0.0)
        model.text_to_mask[-1].bias[-1] = 6.0

    def fresh() -> Reader:  # a reader projects its prompts once
        identity = ModelIdentity("tiny", "1", "0" * 64)
        reader = Reader(Checkpoint(model, CARD, identity), torch.device("cpu"), False)
        reader.thresholds = bare(dataclasses.replace(reader.thresholds, mask=0.3))
        return reader

    reader = fresh()
    plain = {n.type: n.probability for n in reader.read(body_volume()).lesions}
    assert plain, "the untrained organ head draws an organ that is searched"
    assert all(p == pytest.approx(float(torch.tensor(2.0).sigmoid()), abs=1e-3) for p in plain.values())
    with torch.no_grad():
        model.text_to_judge[-1].bias[-1] = -2.0
    reader = fresh()
    judged = {n.type: n.probability for n in reader.read(body_volume()).lesions}
    assert judged.keys() == plain.keys()
    assert all(p == pytest.approx(0.5, abs=1e-3) for p in judged.values())
    reader.thresholds = dataclasses.replace(reader.thresholds, lesion=dict.fromkeys(plain, 0.6))
    assert reader.read(body_volume()).lesions == ()
