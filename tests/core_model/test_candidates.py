"""Where tumours are sought, how far a candidate reaches, and that a reading goes by the judge."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core_model.abnormality import abnormalities, abnormality
from core_model.anatomy import organ
from core_model.candidates import APART, OWN_PEAKS, candidate_places, outlined, peaks
from core_model.checkpoint import Checkpoint
from core_model.detection import sought
from core_model.masks import Region
from core_model.place_features import OrganView
from core_model.reader import Reader
from core_model.reading import ModelIdentity
from tests.core_model.lesion_scans import CENTRE, CYST, NAMES, SHAPE, TUMOUR, ball, liver
from tests.tiny import CARD, body_volume, tiny_model
from training.judging import bare


def test_a_tumour_is_sought_in_the_masks_of_its_organ() -> None:
    kind, others = sought(abnormality("liver_tumour"))
    assert NAMES[kind] == "liver_tumour"
    assert {NAMES[i] for i in others} == {"liver_cyst", "liver_haemangioma", "hepatic_steatosis"}


def test_a_place_is_where_any_mask_of_the_organ_peaks() -> None:
    own, other = ball(), ball((6, 6, 6), 2.0)
    view = liver(own, marked={TUMOUR: own, CYST: other})
    places = candidate_places(view, TUMOUR, (CYST,))
    assert places[0].tolist() == list(CENTRE), "the middle of the lump"
    assert any(other[tuple(p)] for p in places)
    reach = torch.from_numpy(own)
    near = dataclasses.replace(view, region=Region(reach, torch.zeros_like(reach)))
    assert all(own[tuple(p)] for p in candidate_places(near, TUMOUR, (CYST,)))


@pytest.mark.parametrize("lesion_hu", [60.0, 150.0])
def test_a_place_is_where_the_image_has_a_lump_that_no_mask_shows(lesion_hu: float) -> None:
    lesion = ball((20, 20, 20), 2.0)
    view = liver(lesion, lesion_hu=lesion_hu, marked={TUMOUR: ball(radius=0.5)})
    places = candidate_places(view, TUMOUR, (CYST,))
    assert np.linalg.norm(places - 20, axis=1).min() < 2
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)[~np.eye(len(places), dtype=bool)]
    assert (gaps >= APART).all()


def test_a_tumour_is_sought_in_what_an_organ_encloses_and_around_a_small_one() -> None:
    """A large nodule is no lung to the organ head; an adrenal mass hangs on what is left of its gland."""
    hole = ball(radius=6.0)
    view = liver(hole)
    label = np.where(hole, 0, view.label).astype(np.uint8)
    region = Region(torch.from_numpy(~hole), torch.ones(SHAPE, dtype=torch.bool))
    assert dataclasses.replace(view, label=label, region=region).reach[CENTRE]
    gland = np.where(ball(radius=1.0), organ("adrenals").label, 0).astype(np.uint8)
    nothing = Region(torch.zeros(SHAPE, dtype=torch.bool), torch.zeros(SHAPE, dtype=torch.bool))
    reach = OrganView("adrenals", view.hu, gland, nothing, view.logits).reach
    z, y, x = CENTRE
    assert reach[z, y, x + 7]
    assert not reach[z, y, x + 8]


def test_an_organ_that_is_not_in_the_scan_has_no_places() -> None:
    view = liver(ball())
    empty = dataclasses.replace(view, label=np.zeros(SHAPE, dtype=np.uint8))
    assert candidate_places(empty, TUMOUR, (CYST,)).shape == (0, 3)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, OWN_PEAKS))
def test_peaks_are_apart_highest_first_and_local_maxima(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=SHAPE).astype(np.float32)
    reach = rng.random(SHAPE) < 0.7
    found = peaks(logits, reach, most)
    assert 1 <= len(found) <= most
    heights = logits[tuple(found.T)]
    assert (np.diff(heights) <= 0).all()
    assert reach[tuple(found.T)].all()
    gaps = np.linalg.norm(found[:, None] - found[None], axis=-1)[~np.eye(len(found), dtype=bool)]
    assert (gaps >= APART).all()
    inside = np.argwhere(reach)
    first, last = inside.min(0), inside.max(0) + 1
    for z, y, x in found:
        cube = [slice(max(f, c - 1), min(e, c + 2)) for c, f, e in zip((z, y, x), first, last, strict=True)]
        assert logits[z, y, x] == logits[tuple(cube)].max()


@pytest.mark.parametrize("lesion_hu", [60.0, 150.0])
def test_an_outline_follows_the_mask_and_the_grey_values(lesion_hu: float) -> None:
    lesion = ball(radius=4.0)
    seen = outlined(liver(lesion, lesion_hu=lesion_hu), TUMOUR, np.array(CENTRE), 0.7)
    assert seen.score == 0.7
    mask = seen.mask(SHAPE)
    assert mask[CENTRE]
    assert mask.sum() == seen.voxels
    assert 2 * (mask & lesion).sum() / (mask.sum() + lesion.sum()) > 0.9
    # The mask shows nothing: the grey values are left.
    blind = liver(lesion, lesion_hu=lesion_hu, marked={TUMOUR: ball(radius=0.5)})
    by_grey = outlined(blind, TUMOUR, np.array(CENTRE), 0.7).mask(SHAPE)
    assert 2 * (by_grey & lesion).sum() / (by_grey.sum() + lesion.sum()) > 0.8


def test_an_outline_at_the_edge_of_a_scan_stays_in_it() -> None:
    corner = (0, SHAPE[1] - 1, 0)
    seen = outlined(liver(ball(corner)), TUMOUR, np.array(corner), 0.1)
    assert seen.mask(SHAPE)[corner]
    assert seen.inside.shape == tuple(s.stop - s.start for s in seen.box)


def test_reader_reports_what_the_judge_says() -> None:
    """In a reading the score of every lesion is the judge's, and what is too improbable is dropped."""
    model = tiny_model(trees=(1, 2))
    with torch.no_grad():  # every voxel is a lesion of every kind
        model.text_to_mask[-1].weight.zero_()
        model.text_to_mask[-1].bias.fill_(0.0)
        model.text_to_mask[-1].bias[-1] = 4.0 + 2.0

    def fresh() -> Reader:
        identity = ModelIdentity("tiny", "1", "0" * 64)
        reader = Reader(Checkpoint(model, CARD, identity), torch.device("cpu"), False)
        reader.thresholds = bare(reader.thresholds)
        return reader

    model.place_judge.value.fill_(-0.6)  # 0.3 of the masks' logit of 2 is taken back
    judged = {n.type: n.probability for n in fresh().read(body_volume()).lesions}
    assert judged, "the untrained organ head draws an organ that is searched"
    assert judged.keys() <= {a.name for a in abnormalities() if a.tumour}
    assert all(p == pytest.approx(0.5, abs=1e-3) for p in judged.values())
    reader = fresh()
    reader.thresholds = dataclasses.replace(reader.thresholds, lesion=dict.fromkeys(judged, 0.6))
    assert reader.read(body_volume()).lesions == ()
    plain = tiny_model()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "judge" not in k}, strict=False)
    model = plain
    unjudged = {n.type: n.probability for n in fresh().read(body_volume()).lesions}
    assert unjudged.keys() == judged.keys()
    assert all(p == pytest.approx(float(torch.tensor(2.0).sigmoid()), abs=1e-3) for p in unjudged.values())
