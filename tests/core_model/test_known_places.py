"""What is kept of masks for later questions."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import pytest
import torch

from core_model.abnormality import abnormality
from core_model.detection import Seen
from core_model.known_places import APART_MM, MOST, known_places
from core_model.lesions import Component

SPACING_MM = 4.0
SHAPE = (40, 36, 44)
KINDS = (abnormality("liver_tumour"), abnormality("gallstones"))


def geometry() -> hd.VolumeGeometry:
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = (-80.0, -60.0, 15.0)
    return hd.VolumeGeometry(affine, spatial_shape=SHAPE, coordinate_system="PATIENT")


def ball(centre: tuple[int, int, int], radius: float) -> torch.Tensor:
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij"))
    gap = (index - torch.tensor(centre)[:, None, None, None]).float().norm(dim=0)
    return gap <= radius


def lps(centre: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(geometry().map_indices_to_reference(np.array([centre], dtype=float))[0])


def painted(*parts: tuple[torch.Tensor, float]) -> torch.Tensor:
    mask = torch.zeros(SHAPE)
    for where, value in parts:
        mask[where] = value
    return mask


FIRST, SECOND = (12, 12, 12), (28, 20, 30)


@pytest.fixture
def tumours() -> torch.Tensor:
    """Two of them; the peak of the larger lies at its rim."""
    mask = painted((ball(FIRST, 5), 0.5), (ball(SECOND, 2), 0.7))
    mask[12, 12, 17] = 0.9
    return mask


def test_pieces_of_the_second_look_are_places_with_their_middle_and_size(tumours: torch.Tensor) -> None:
    piece = Component(
        ball((34, 30, 6), 2).numpy(), 0.99, 33
    )  # of the first mask, where nothing is drawn again
    seen = Seen(torch.stack([tumours, torch.zeros(SHAPE)]), ((piece,), ()))
    places = known_places(seen, KINDS, geometry(), {"liver_tumour"})
    assert [round(place.score, 3) for place in places] == [0.9, 0.7]
    for place, centre, radius in zip(places, (FIRST, SECOND), (5, 2), strict=True):
        np.testing.assert_allclose(place.position_lps_mm, lps(centre), atol=0.1)
        voxels = int(ball(centre, radius).sum())
        assert place.diameter_mm == pytest.approx((6 * voxels * SPACING_MM**3 / np.pi) ** (1 / 3))


def test_a_piece_ends_where_a_likelier_one_began() -> None:
    """Two that touch, far apart enough to be two places."""
    low, high = ball((12, 12, 12), 5), ball((12, 12, 21), 4)
    seen = Seen(torch.stack([painted((low, 0.2), (high, 0.9)), torch.zeros(SHAPE)]), ((), ()))
    first, second = known_places(seen, KINDS, geometry(), {"liver_tumour"})
    np.testing.assert_allclose(first.position_lps_mm, lps((12, 12, 21)), atol=0.1)
    assert second.score == pytest.approx(0.2)
    assert second.position_lps_mm[0] < lps((12, 12, 14))[0]


def test_what_is_not_drawn_again_has_its_candidates_and_peaks(tumours: torch.Tensor) -> None:
    piece = Component((tumours == 0.7).numpy(), 0.6, int((tumours == 0.7).sum()))
    stones = painted((ball((20, 20, 20), 1), 0.4))
    places = known_places(Seen(torch.stack([tumours, stones]), ((piece,), ())), KINDS, geometry())
    said = [(p.abnormality, round(p.score, 3)) for p in places]
    assert said[:2] == [("liver_tumour", 0.6), ("liver_tumour", 0.9)]
    assert said[-1] == ("gallstones", 0.4)
    assert places[0].diameter_mm is not None
    assert places[1].diameter_mm is None


@pytest.mark.parametrize("again", [(), ("liver_tumour", "gallstones")])
def test_places_are_few_and_apart(again: tuple[str, ...]) -> None:
    noise = torch.from_numpy(np.random.default_rng(1).random((2, *SHAPE), dtype=np.float32))
    places = known_places(Seen(noise, ((), ())), KINDS, geometry(), again)
    for kind in KINDS:
        points = np.array([p.position_lps_mm for p in places if p.abnormality == kind.name])
        assert 1 <= len(points) <= MOST
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
        assert again or (gaps[~np.eye(len(points), dtype=bool)] >= APART_MM).all()


def test_nothing_drawn_is_no_place() -> None:
    assert known_places(Seen(torch.zeros(2, *SHAPE), ((), ())), KINDS, geometry(), ("liver_tumour",)) == ()
