"""Nodules come before vessels and surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from core_model.lumps import LUMP_SCALES, derivatives, lumps_of
from tests.core_model.lesion_scans import CENTRE, SHAPE, ball, distance

EVERYWHERE = np.ones(SHAPE, dtype=bool)


def image(*things: np.ndarray) -> np.ndarray:
    return np.where(np.logical_or.reduce(things), 100.0, 0.0).astype(np.float32)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_nodule_comes_before_a_vessel_and_a_wall(sign: int) -> None:
    nodule = (8, 8, 8)
    vessel = distance((15, 22, 22), (1, 2)) <= 1.5
    wall = np.indices(SHAPE)[2] >= 30
    found = lumps_of(sign * image(ball(nodule, 2.0), vessel, wall), EVERYWHERE)
    assert [(one.scale, one.bright) for one in found] == [(s, b) for s in LUMP_SCALES for b in (True, False)]
    for one in found[:4]:
        if one.bright is (sign > 0):
            assert one.index[0].tolist() == list(nodule)
            assert one.curvature[0] > 3 * one.curvature[1:].max(initial=0)
        assert (one.curvature > 0).all()
        assert (np.diff(one.curvature) <= 0).all()


def test_lumps_are_sought_within_reach_only() -> None:
    near, far = ball((6, 6, 6), 2.0), ball((22, 22, 22), 2.0)
    reach = np.zeros(SHAPE, dtype=bool)
    reach[2:12, 2:12, 2:12] = True
    for one in lumps_of(image(near, far), reach):
        assert all(reach[tuple(index)] for index in one.index)
    assert lumps_of(image(near, far), reach)[0].index[0].tolist() == [6, 6, 6]


def test_derivatives_of_a_paraboloid() -> None:
    z, y, x = (a.astype(np.float32) for a in np.indices(SHAPE))
    value, slope, second = derivatives(z**2 + 3 * y * x + 2 * x, np.array([CENTRE]))
    assert value[0] == CENTRE[0] ** 2 + 3 * CENTRE[1] * CENTRE[2] + 2 * CENTRE[2]
    np.testing.assert_allclose(slope[0], [2 * CENTRE[0], 3 * CENTRE[2], 3 * CENTRE[1] + 2], rtol=1e-5)
    np.testing.assert_allclose(second[0], [[2, 0, 0], [0, 0, 3], [0, 3, 0]], atol=1e-4)
