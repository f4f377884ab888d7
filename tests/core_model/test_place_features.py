"""What is seen of a place is what is there: lumps differ from vessels, and turning changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from core_model.masks import Region
from core_model.place_features import HELD, OrganView, _pieces, directions, place_features
from tests.core_model.lesion_scans import CENTRE, CYST, SHAPE, TUMOUR, ball, distance, liver, tube

PLACE = np.array([CENTRE])


def numbers(view: OrganView, places: np.ndarray = PLACE) -> np.ndarray:
    return place_features(view, TUMOUR, places)


def turned(view: OrganView, k: int, axes: tuple[int, int]) -> OrganView:
    def turn(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(x, k, axes))

    region = Region(*(torch.from_numpy(turn(r.numpy())) for r in (view.region.reach, view.region.core)))
    logits = tuple(None if m is None else turn(m) for m in view.logits)
    return OrganView(view.name, turn(view.hu), turn(view.label), region, logits)


def test_directions_are_those_of_neighbours_and_opposite_in_pairs() -> None:
    found = directions()
    assert found.shape == (26, 3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_array_equal(found[13:], -found[:13])
    assert len(np.unique(np.sign(found), axis=0)) == 26


def test_contrast_is_counted_from_the_organ() -> None:
    view = liver(ball(), hu=100.0, lesion_hu=60.0)
    place, elsewhere = numbers(view), numbers(view, np.array([[4, 4, 4]]))
    assert place[0, 0] == pytest.approx(-2.0), "40 HU are two steps"
    assert place[0, 1] == 100.0
    assert elsewhere[0, 0] == 0
    brighter = numbers(liver(ball(), hu=130.0, lesion_hu=90.0))
    np.testing.assert_allclose(np.delete(brighter, 1, 1), np.delete(place, 1, 1), atol=1e-4)


def test_a_vessel_goes_on_where_a_lump_ends() -> None:
    lump, vessel = numbers(liver(ball())), numbers(liver(tube()))
    assert (np.abs(lump - vessel) > 0.5).sum() > 20
    # Ends of the longest pair of opposite rays, in `_profiles`: within the lump, beyond the vessel's end.
    for view, long in ((liver(ball()), False), (liver(tube()), True)):
        rays = view.steps(view.along_rays(view.clipped, PLACE, 1))[0]  # (R, 26)
        inside = rays < -1
        assert bool((inside[6, :13] & inside[6, 13:]).any()) is long


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (0, 2)])
def test_a_place_is_the_same_however_the_patient_lies(axes: tuple[int, int]) -> None:
    cube = tuple(slice(0, 30) for _ in range(3))
    whole = liver(tube((14, 14, 15), 2.0) | ball(radius=4.0), marked={TUMOUR: ball(), CYST: ball()})
    region = Region(whole.region.reach[cube], whole.region.core[cube])
    logits = tuple(None if m is None else m[cube] for m in whole.logits)
    view = dataclasses.replace(
        whole, hu=whole.hu[cube], label=whole.label[cube], region=region, logits=logits
    )
    other = turned(view, 1, axes)
    index = np.zeros((30, 30, 30), dtype=bool)
    index[CENTRE] = True
    place = np.argwhere(np.rot90(index, 1, axes))
    before, after = numbers(view), numbers(other, place)
    changed = np.flatnonzero(~np.isclose(before, after, atol=1e-3)[0])
    assert len(changed) <= 3, "but for the position in the organ"


def test_what_hangs_together_tells_a_nodule_from_a_vessel_that_turns() -> None:
    """A vessel in three parts at right angles: no axis through the place shows how long it is."""
    z, y, x = CENTRE
    bent = tube(radius=1.5) & (np.indices(SHAPE)[0] >= z)
    bent |= (distance((z, y, x), (0, 2)) <= 1.5) & (np.indices(SHAPE)[1] >= y)
    lump = ball(radius=3.0)
    pieces = [
        _pieces(liver(shape, lesion_hu=150.0), PLACE)[0].reshape(len(HELD), -1) for shape in (lump, bent)
    ]
    (lump_log, _, lump_long, *_), (bent_log, _, bent_long, *_) = (p[1] for p in pieces)
    assert np.exp(lump_log) == pytest.approx(lump.sum(), rel=0.1)
    assert lump_long == 7
    assert bent_long > 12
    assert np.exp(bent_log) == pytest.approx(bent[2:27, 3:28, 4:29].sum(), rel=0.3)


def test_masks_that_are_not_searched_say_nothing() -> None:
    both = numbers(liver(ball(), marked={TUMOUR: ball(), CYST: ball()}))
    alone = numbers(liver(ball()))
    changed = np.flatnonzero(both[0] != alone[0])
    assert len(changed) == 1
    assert alone[0, changed[0]] == -13


def test_every_number_is_finite_at_the_edge_and_where_nothing_stands_out() -> None:
    places = np.array([[0, 0, 0], [SHAPE[0] - 1, SHAPE[1] - 1, SHAPE[2] - 1], list(CENTRE)])
    flat = liver(np.zeros(SHAPE, dtype=bool), marked={TUMOUR: ball()})
    assert np.isfinite(numbers(flat, places)).all()
    assert numbers(flat, places).shape[0] == 3


def test_an_organ_or_a_mask_that_is_missing_is_refused() -> None:
    view = liver(ball())
    with pytest.raises(ValueError, match="is not searched"):
        place_features(view, CYST, PLACE)
    gone = dataclasses.replace(view, label=np.zeros(SHAPE, dtype=np.uint8))
    with pytest.raises(ValueError, match="liver is not in the scan"):
        numbers(gone)
