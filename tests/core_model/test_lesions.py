"""Components and measurements with known answers."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from core_model.lesions import _outline, components, in_plane_axes, measure

Mask = npt.NDArray[np.bool_]


def box_mask(depth: int, height: int, width: int) -> Mask:
    mask = np.zeros((depth + 2, height + 3, width + 4), dtype=bool)
    mask[1 : 1 + depth, 1 : 1 + height, 2 : 2 + width] = True
    return mask


def ellipsoid(shape: tuple[int, int, int], spacing: tuple[float, ...], radii_mm: tuple[float, ...]) -> Mask:
    axes = [(np.arange(n) - (n - 1) / 2) * s / r for n, s, r in zip(shape, spacing, radii_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.asarray(z**2 + y**2 + x**2 <= 1)


def test_components_are_separate_and_sorted() -> None:
    probability = np.zeros((6, 6, 12), dtype=np.float32)
    probability[1:3, 1:3, 1:3] = 0.6
    probability[3:5, 3:5, 7:10] = 0.9
    probability[0, 0, 11] = 0.99  # too small
    found = components(probability, 0.5, min_voxels=2)
    assert [c.voxels for c in found] == [12, 8]
    assert [c.score for c in found] == pytest.approx([0.9, 0.6])
    assert found[0].mask.sum() == 12
    assert found[0].mask[3, 3, 7]
    assert not (found[0].mask & found[1].mask).any()


def test_components_join_over_corners() -> None:
    probability = np.zeros((4, 4, 4), dtype=np.float32)
    probability[1, 1, 1] = probability[2, 2, 2] = 0.8
    assert len(components(probability, 0.5, min_voxels=1)) == 1


def test_score_is_the_mean_of_the_eight_highest() -> None:
    probability = np.full((1, 1, 20), 0.5, dtype=np.float32)
    probability[0, 0, :8] = np.linspace(0.6, 0.95, 8)
    [only] = components(probability, 0.5, min_voxels=1)
    assert only.score == pytest.approx(0.775)


def test_evidence_counts_in_the_core_only() -> None:
    probability = np.full((1, 2, 20), 0.99, dtype=np.float32)
    probability[:, :, 10] = 0
    probability[:, :, :3] = 0.7
    core = np.zeros(probability.shape, dtype=bool)
    core[:, :, :3] = True
    [only] = components(probability, 0.5, min_voxels=2, core=core)
    assert only.score == pytest.approx(0.7), "the brighter rest lies outside"
    assert only.voxels == 20, "but belongs to it"


def test_no_component_below_the_threshold() -> None:
    assert components(np.full((3, 3, 3), 0.49, dtype=np.float32), 0.5, 1) == []


@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.floats(0.3, 5), st.floats(0.3, 5))
def test_axes_of_a_box(depth: int, height: int, width: int, row_mm: float, column_mm: float) -> None:
    """The long axis of a rectangle is its diagonal; the short one its extent across it."""
    a, b = height * row_mm, width * column_mm
    long_axis, short_axis = in_plane_axes(box_mask(depth, height, width), row_mm, column_mm)
    assert long_axis == pytest.approx(np.hypot(a, b))
    assert short_axis == pytest.approx(2 * a * b / np.hypot(a, b))


def test_axes_of_an_ellipsoid_with_anisotropic_spacing() -> None:
    spacing, radii = (3.0, 0.5, 0.8), (20.0, 15.0, 9.0)
    mask = ellipsoid((15, 81, 41), spacing, radii)
    long_axis, short_axis = in_plane_axes(mask, spacing[1], spacing[2])
    assert long_axis == pytest.approx(30, abs=1.2)
    assert short_axis == pytest.approx(18, abs=1.8)


def test_axes_come_from_the_slice_with_the_longest() -> None:
    mask = np.zeros((3, 10, 10), dtype=bool)
    mask[0, 2:4, 2:4] = True
    mask[2, 5, 1:9] = True
    long_axis, short_axis = in_plane_axes(mask, 1.0, 1.0)
    assert long_axis == pytest.approx(np.hypot(8, 1))
    assert short_axis < 2


def test_one_voxel_is_as_long_as_its_diagonal() -> None:
    mask = np.zeros((1, 1, 1), dtype=bool)
    mask[0, 0, 0] = True
    assert in_plane_axes(mask, 3.0, 4.0)[0] == pytest.approx(5.0)


@given(st.integers(0, 2**30), st.floats(0.3, 4), st.floats(0.3, 4))
def test_axes_of_any_mask_are_ordered_and_bounded(seed: int, row_mm: float, column_mm: float) -> None:
    mask = np.random.default_rng(seed).random((3, 6, 7)) < 0.3
    mask[0, 0, 0] = True
    long_axis, short_axis = in_plane_axes(mask, row_mm, column_mm)
    assert 0 < short_axis <= long_axis + 1e-9
    assert long_axis <= np.hypot(6 * row_mm, 7 * column_mm) + 1e-9


@given(seed=st.integers(0, 10_000), share=st.floats(0.02, 0.9))
def test_the_outline_is_the_hull_of_all_corners(seed: int, share: float) -> None:
    plane = np.random.default_rng(seed).random((9, 11)) < share
    plane[4, 5] = True
    index = np.argwhere(plane)
    corners = np.concatenate([index + np.array([dy, dx]) for dy in (-0.5, 0.5) for dx in (-0.5, 0.5)])
    expected = {tuple(corners[v]) for v in ConvexHull(corners).vertices}
    assert {tuple(point) for point in _outline(plane)} == expected


def test_measure_in_patient_coordinates() -> None:
    spacing = (3.0, 0.5, 0.8)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) @ np.diag(spacing)
    affine[:3, 3] = (10, 20, -300)
    mask = ellipsoid((15, 81, 41), spacing, (20.0, 15.0, 9.0))
    hu = np.where(mask, 35.0, -80.0).astype(np.float32)
    size = measure(mask, hd.Volume(hu, affine, coordinate_system="PATIENT"))
    assert size.volume_ml == pytest.approx(4 / 3 * np.pi * 20 * 15 * 9 / 1000, rel=0.02)
    assert size.mean_hu == pytest.approx(35)
    assert size.centroid_lps_mm == pytest.approx((10 + 20 * 0.8, 20 + 40 * 0.5, -300 + 7 * 3))
    assert size.long_axis_mm == pytest.approx(30, abs=1.2)


def test_measure_refuses_an_empty_mask() -> None:
    volume = hd.Volume(np.zeros((2, 2, 2), np.float32), np.eye(4), coordinate_system="PATIENT")
    with pytest.raises(ValueError, match="mask is empty"):
        measure(np.zeros((2, 2, 2), dtype=bool), volume)
