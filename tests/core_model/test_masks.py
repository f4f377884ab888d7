"""Masks from the model's grid land on the right voxels of finer and coarser scans."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core_model.anatomy import organ, organs
from core_model.masks import label_volume, paste, region_of
from core_model.parts import without_strays
from core_model.volume import resampled_geometry, sub_geometry

RADII_MM = np.array([30.0, 22.0, 26.0])
LIVER = organ("liver").label


def scan_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> hd.Volume:
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) @ np.diag(spacing)
    affine[:3, 3] = (-60.0, -50.0, -200.0)
    return hd.Volume(np.zeros(shape, np.float32), affine, coordinate_system="PATIENT")


def middle_of(volume: hd.VolumeGeometry | hd.Volume) -> npt.NDArray[np.float64]:
    index = (np.array([volume.spatial_shape], dtype=float) - 1) / 2
    return np.asarray(volume.map_indices_to_reference(index)[0])


def depth_of(
    geometry: hd.VolumeGeometry | hd.Volume, centre: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """1 on the ellipsoid's surface, below inside, on every voxel of a grid."""
    index = np.argwhere(np.ones(geometry.spatial_shape, dtype=bool)).astype(float)
    points = geometry.map_indices_to_reference(index)
    distance = np.linalg.norm((points - centre) / RADII_MM, axis=1)
    return np.asarray(distance.reshape(geometry.spatial_shape))


def test_an_organ_that_wins_only_what_a_stray_leaves_is_not_drawn() -> None:
    like = scan_of((12, 12, 12), (4.0, 4.0, 4.0))
    spleen = organ("spleen").label
    probability = torch.zeros(1 + len(organs()), 12, 12, 12)
    probability[0] = 1.0
    for where in ((slice(2, 8),) * 3, (10, 10, 10)):  # the liver, and a stray of it
        probability[:, *where] = 0.0
        probability[LIVER, *where] = 0.995
    probability[spleen, 10, 10, 10] = 0.005
    clean = without_strays(probability)
    assert int(clean.argmax(0)[10, 10, 10]) == 0
    labels = label_volume(clean, like.get_geometry(), like).array
    assert set(np.unique(labels)) == {0, LIVER}


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((90, 70, 65), (1.5, 1.6, 1.9)), ((14, 80, 80), (10.0, 1.4, 1.4)), ((35, 30, 33), (4.0, 4.0, 4.0))],
)
def test_an_ellipsoid_lands_on_its_voxels(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    like = scan_of(shape, spacing)
    whole = resampled_geometry(like.get_geometry(), 4.0)
    cropped = sub_geometry(whole, *(slice(2, n - 2) for n in whole.spatial_shape))
    centre = middle_of(like)
    inside = depth_of(cropped, centre) <= 1
    probability = torch.zeros(1 + len(organs()), *inside.shape)
    probability[0] = torch.from_numpy(np.where(inside, 0.1, 0.9))
    probability[LIVER] = torch.from_numpy(np.where(inside, 0.9, 0.1))
    labels = label_volume(probability, cropped, like).array
    assert labels.shape == like.spatial_shape
    assert set(np.unique(labels)) == {0, LIVER}
    truth = depth_of(like, centre)
    # One model voxel (4 mm) of the smallest radius (22 mm) either side of the surface is open.
    assert (labels[truth < 1 - 4 / 22] == LIVER).all()
    assert (labels[truth > 1 + 4 / 22] == 0).all()


def test_nothing_outside_of_the_crop() -> None:
    like = scan_of((40, 40, 40), (2.0, 2.0, 2.0))
    crop = sub_geometry(resampled_geometry(like.get_geometry(), 4.0), slice(5, 9), slice(6, 12), slice(7, 11))
    probability = torch.zeros(1 + len(organs()), 4, 6, 4)
    probability[LIVER] = 1
    labels = label_volume(probability, crop, like).array
    where = np.argwhere(labels == LIVER)
    assert where.min(0).tolist() == [10, 12, 14]
    assert where.max(0).tolist() == [17, 23, 21]
    assert len(where) == 8 * 12 * 8


def test_a_crop_beside_the_scan_labels_nothing() -> None:
    like = scan_of((10, 10, 10), (2.0, 2.0, 2.0))
    affine = like.affine.copy()
    affine[:3, 3] += 500
    elsewhere = hd.VolumeGeometry(affine, spatial_shape=(4, 4, 4), coordinate_system="PATIENT")
    probability = torch.zeros(1 + len(organs()), 4, 4, 4)
    probability[LIVER] = 1
    assert not label_volume(probability, elsewhere, like).array.any()


def test_region_grows_the_organ_by_eight_millimetres() -> None:
    probability = torch.zeros(1 + len(organs()), 12, 12, 12)
    probability[0] = 0.5
    probability[LIVER, 5:7, 5:7, 5:7] = 1
    region = region_of(probability, 4.0, ["liver"])["liver"].reach
    assert region.nonzero().min(0).values.tolist() == [3, 3, 3]
    assert region.nonzero().max(0).values.tolist() == [8, 8, 8]
    assert int(region.sum()) == 6**3
    assert not bool(region_of(probability, 4.0, ["pancreas"])["pancreas"].reach.any())


def test_an_organs_core_fills_gaps_and_leaves_the_rind_out() -> None:
    probability = torch.zeros(1 + len(organs()), 24, 24, 24)
    probability[0] = 0.5
    probability[LIVER, 4:20, 4:20, 4:20] = 1
    probability[LIVER, 9:14, 9:14, 9:14] = 0  # a lesion that looks like no organ
    core = region_of(probability, 4.0, ["liver"])["liver"].core
    assert core.nonzero().min(0).values.tolist() == [5, 5, 5]
    assert core.nonzero().max(0).values.tolist() == [18, 18, 18]
    assert int(core.sum()) == 14**3
    assert not bool(region_of(probability, 4.0, ["pancreas"])["pancreas"].core.any())


@given(st.integers(0, 2**30), st.floats(0.7, 30), st.floats(0.6, 6), st.integers(1, 3))
def test_paste_is_never_empty_and_near_its_component(
    seed: int, slice_mm: float, pixel_mm: float, size: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (max(2, round(60 / slice_mm)), max(2, round(60 / pixel_mm)), max(2, round(50 / pixel_mm)))
    like = scan_of(shape, (slice_mm, pixel_mm, pixel_mm))
    geometry = resampled_geometry(like.get_geometry(), 4.0)
    mask = np.zeros(geometry.spatial_shape, dtype=bool)
    start = [int(rng.integers(0, n)) for n in mask.shape]
    mask[tuple(slice(s, s + size) for s in start)] = True
    probability = torch.from_numpy(np.where(mask, 0.55, 0).astype(np.float32))
    pasted = paste(probability, mask, geometry, like, threshold=0.5)
    assert pasted.shape == like.spatial_shape
    assert pasted.any()
    index = like.map_indices_to_reference(np.argwhere(pasted).astype(float))
    gap = np.abs(geometry.map_reference_to_indices(index).mean(0) - np.argwhere(mask).mean(0)) * 4
    assert (gap <= np.array([slice_mm, pixel_mm, pixel_mm]) / 2 + 8).all()


def test_paste_keeps_the_size_of_a_large_component() -> None:
    like = scan_of((60, 60, 60), (2.0, 2.0, 2.0))
    geometry = resampled_geometry(like.get_geometry(), 4.0)
    centre = middle_of(like)
    mask = depth_of(geometry, centre) <= 1
    pasted = paste(torch.from_numpy(mask.astype(np.float32)), mask, geometry, like, threshold=0.5)
    volume_ml = pasted.sum() * 8 / 1000
    assert volume_ml == pytest.approx(4 / 3 * np.pi * RADII_MM.prod() / 1000, rel=0.08)
    assert (depth_of(like, centre)[pasted] < 1 + 4 / 22).all()
