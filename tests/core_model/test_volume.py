"""Orientation, resampling and windows: where a voxel lies must survive all of them."""

from __future__ import annotations

import itertools

import highdicom as hd
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core_model.volume import (
    CANONICAL_ORIENTATION,
    HU_MAX,
    HU_MIN,
    bounding_slices,
    canonical,
    resample,
    resampled_geometry,
    to_model_grid,
    window,
)

orders = st.permutations([0, 1, 2])
flips = st.tuples(*[st.sampled_from([-1, 1])] * 3)
shapes = st.tuples(*[st.integers(2, 6)] * 3)
spacings = st.tuples(*[st.floats(0.4, 9)] * 3)


def volume_of(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    order: list[int],
    flip: tuple[int, ...],
    tilt: float = 0,
) -> hd.Volume:
    """Voxels numbered in array order, on any of the 48 axis orders, tilted about x by radians."""
    directions = np.eye(3)[:, order] * np.array(flip)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions @ np.diag(spacing)
    affine[:3, 3] = (11.0, -7.0, 93.0)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return hd.Volume(array, affine, coordinate_system="PATIENT")


def positions_by_value(volume: hd.Volume) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """LPS position of the voxels, sorted by their value."""
    index = np.argwhere(np.ones(volume.spatial_shape, dtype=bool))
    points = volume.map_indices_to_reference(index.astype(float))
    return np.asarray(points[np.argsort(volume.array.ravel())])


@given(shapes, spacings, orders, flips, st.floats(-0.5, 0.5))
def test_canonical_keeps_every_voxel_in_its_place(
    shape: tuple[int, ...], spacing: tuple[float, ...], order: list[int], flip: tuple[int, ...], tilt: float
) -> None:
    volume = volume_of(shape, spacing, order, flip, tilt)
    upright = canonical(volume)
    assert "".join(o.value for o in upright.get_closest_patient_orientation()) == CANONICAL_ORIENTATION
    np.testing.assert_allclose(positions_by_value(upright), positions_by_value(volume), atol=1e-6)


@pytest.mark.parametrize("order", list(itertools.permutations([0, 1, 2])))
@pytest.mark.parametrize("flip", list(itertools.product([-1, 1], repeat=3)))
def test_canonical_of_all_48_axis_orders(order: tuple[int, ...], flip: tuple[int, ...]) -> None:
    upright = canonical(volume_of((2, 3, 4), (1, 2, 3), list(order), flip))
    np.testing.assert_allclose(upright.direction, [[0, 0, 1], [0, 1, 0], [1, 0, 0]], atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 1, 4)])
def test_canonical_refuses_what_is_no_volume(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 2 voxels"):
        canonical(volume_of(shape, (1, 1, 1), [0, 1, 2], (1, 1, 1)))


@given(shapes, spacings, orders, flips, st.floats(1, 8))
def test_resampled_geometry_covers_the_same_extent(
    shape: tuple[int, ...], spacing: tuple[float, ...], order: list[int], flip: tuple[int, ...], to_mm: float
) -> None:
    source = volume_of(shape, spacing, order, flip).get_geometry()
    target = resampled_geometry(source, to_mm)
    np.testing.assert_allclose(target.spacing, [to_mm] * 3)
    np.testing.assert_allclose(target.direction, source.direction, atol=1e-9)
    first = [g.map_indices_to_reference(np.full((1, 3), -0.5))[0] for g in (source, target)]
    np.testing.assert_allclose(first[1], first[0], atol=1e-6)
    have = np.array(source.spatial_shape) * source.spacing
    got = np.array(target.spatial_shape) * to_mm
    assert (got > have - 1e-3 * to_mm).all()
    assert (got < have + to_mm).all()


@given(spacings, st.floats(1, 6), st.booleans())
def test_a_linear_ramp_is_resampled_exactly(
    spacing: tuple[float, ...], to_mm: float, antialias: bool
) -> None:
    source = volume_of((9, 8, 10), spacing, [2, 1, 0], (1, 1, 1)).get_geometry()
    target = resampled_geometry(source, to_mm)
    slope, offset = np.array([0.7, -1.3, 2.1]), 5.0

    def ramp(geometry: hd.VolumeGeometry) -> torch.Tensor:
        index = np.argwhere(np.ones(geometry.spatial_shape, dtype=bool)).astype(float)
        values = geometry.map_indices_to_reference(index) @ slope + offset
        return torch.from_numpy(values.reshape(geometry.spatial_shape)).float()

    out = resample(ramp(source)[None], source, target, antialias=antialias)[0]
    assert out.shape == torch.Size(target.spatial_shape)
    # Inside the outer voxel centres nothing is repeated; averaging is never exact at the border.
    index = np.argwhere(np.ones(target.spatial_shape, dtype=bool)).astype(float)
    at = source.map_reference_to_indices(target.map_indices_to_reference(index))
    inside = ((at >= 0) & (at <= np.array(source.spatial_shape) - 1)).all(1).reshape(target.spatial_shape)
    if not antialias:
        torch.testing.assert_close(
            out[torch.from_numpy(inside)], ramp(target)[torch.from_numpy(inside)], rtol=1e-4, atol=2e-3
        )
    assert float(out.min()) >= float(ramp(source).min()) - 1e-2
    assert float(out.max()) <= float(ramp(source).max()) + 1e-2


def test_antialias_averages_thin_slices() -> None:
    volume = volume_of((40, 4, 4), (1, 4, 4), [2, 1, 0], (1, 1, 1))
    source = volume.get_geometry()
    stripes = torch.zeros(1, 40, 4, 4)
    stripes[:, ::2] = 100
    target = resampled_geometry(source, 4.0)
    inner = resample(stripes, source, target, antialias=True)[:, 1:-1]
    assert 49 < float(inner.min()) <= float(inner.max()) < 51


def test_model_grid_is_clamped_to_what_a_ct_carries() -> None:
    volume = volume_of((4, 4, 4), (4, 4, 4), [2, 1, 0], (1, 1, 1))
    array = np.full((4, 4, 4), -3024.0, dtype=np.float32)
    array[2] = 30000
    hu, geometry = to_model_grid(volume.with_array(array), 4.0)
    assert hu.shape == (1, 1, *geometry.spatial_shape)
    assert (float(hu.min()), float(hu.max())) == (HU_MIN, HU_MAX)


def test_window_of_known_values() -> None:
    hu = torch.tensor([-3000.0, -1000, -160, 40, 240, 1000, 3000]).reshape(1, 1, 7, 1, 1)
    wide, soft = window(hu)[0].reshape(2, 7).tolist()
    assert wide == pytest.approx([-1, -1, -0.16, 0.04, 0.24, 1, 1])
    assert soft == pytest.approx([-1, -1, -1, 0, 1, 1, 1])


@given(st.integers(0, 2**30), st.tuples(*[st.integers(0, 3)] * 3))
def test_bounding_slices_hold_all_and_no_more(seed: int, margin: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask.ravel()[rng.choice(mask.size, size=int(rng.integers(1, 5)), replace=False)] = True
    tight, wide = bounding_slices(mask, (0, 0, 0)), bounding_slices(mask, margin)
    assert mask[tight].sum() == mask.sum()
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        ends = np.asarray(mask[tight].any(axis=other))
        assert ends[[0, -1]].all()
        assert wide[axis].start == max(0, tight[axis].start - margin[axis])
        assert wide[axis].stop == min(mask.shape[axis], tight[axis].stop + margin[axis])


def test_bounding_slices_of_nothing() -> None:
    with pytest.raises(ValueError, match="empty"):
        bounding_slices(np.zeros((2, 2, 2), dtype=bool), (0, 0, 0))
