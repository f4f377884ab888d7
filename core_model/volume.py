"""CT volumes in one orientation and spacing, on `highdicom.Volume`, the one geometry type.

Not a DICOM or NIfTI reader: those make the `highdicom.Volume` that comes in here.
Canonical order is ``"HPL"`` in highdicom's letters: the first array axis runs towards the
head, the second towards posterior, the third towards the patient's left, so that an array
(D, H, W) holds axial slices in radiological display order, feet first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch

CANONICAL_ORIENTATION = "HPL"
SLICES = 16  # resampled at a time
# What a CT can carry; below is padding (GE writes -2000 and lower), above is metal. PS3.3 C.8.2.1.
HU_MIN, HU_MAX = -1024.0, 3071.0


def canonical(volume: hd.Volume) -> hd.Volume:
    """The same voxels with axes permuted and flipped to `CANONICAL_ORIENTATION`.

    No resampling: oblique volumes stay oblique, only the closest axis order is chosen.

    Raises
    ------
    ValueError: if the volume is not 3D or has fewer than 2 voxels along an axis.
    """
    if volume.number_of_channel_dimensions != 0 or min(volume.spatial_shape) < 2:
        raise ValueError(
            f"volume has shape {volume.shape}; a single-channel 3D CT with at least 2 voxels "
            "along every axis is needed"
        )
    return volume.to_patient_orientation(CANONICAL_ORIENTATION)


def resampled_geometry(geometry: hd.VolumeGeometry, spacing_mm: float) -> hd.VolumeGeometry:
    """The grid with isotropic `spacing_mm` that covers the same extent, sharing its first corner.

    Our choice: corners (not centres) are aligned, and a started voxel counts whole, so the field
    of view is never smaller, and larger by less than one voxel.
    """
    shape = [
        max(1, math.ceil(n * s / spacing_mm - 1e-4))
        for n, s in zip(geometry.spatial_shape, geometry.spacing, strict=True)
    ]
    directions = geometry.direction
    first_corner = geometry.map_indices_to_reference(np.array([[-0.5, -0.5, -0.5]]))[0]
    origin = first_corner + directions @ np.full(3, spacing_mm / 2)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = origin
    return hd.VolumeGeometry(
        affine,
        spatial_shape=shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=geometry.frame_of_reference_uid,
    )


def _sampling_grid(source: hd.VolumeGeometry, target: hd.VolumeGeometry) -> torch.Tensor:
    """Per-axis scale and offset of target indices in source indices; both share directions."""
    matrix = source.inverse_affine @ target.affine
    return torch.from_numpy(np.concatenate([np.diag(matrix)[:3, None], matrix[:3, 3:]], axis=1))


def resample(
    tensor: torch.Tensor,
    source: hd.VolumeGeometry,
    target: hd.VolumeGeometry,
    *,
    antialias: bool,
    limits: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Trilinear resampling between two grids that share axis directions.

    Parameters
    ----------
    tensor: (C, D, H, W) of any number on `source`.
    source, target: geometries whose direction matrices agree (as `resampled_geometry` makes).
    antialias: average over the source voxels inside each target voxel when the target is coarser.
    limits: values are clamped to these first.

    Returns
    -------
    (C, D', H', W') float32 on `target`; outside of `source` the nearest voxel is repeated.

    Notes
    -----
    Separable: one axis after the other with a small weight matrix, which costs far less
    memory than a dense sampling grid.
    """
    scale_offset = _sampling_grid(source, target)

    def weights_of(axis: int) -> torch.Tensor:
        step, offset = scale_offset[axis].tolist()
        n_in, n_out = source.spatial_shape[axis], target.spatial_shape[axis]
        return _axis_weights(n_in, n_out, step, offset, antialias).to(tensor.device)

    # The last axis is contiguous: most of a CT's voxels go before any axis is moved, some slices at a time,
    # so that no second copy of the CT is made.
    weights = weights_of(2)
    parts = [
        (part.float() if limits is None else part.float().clamp(*limits)) @ weights.T
        for part in torch.split(tensor, SLICES, dim=1)
    ]
    out = torch.cat(parts, dim=1)  # (C, D, H, W')
    # From the left: nothing is moved, and what comes out is contiguous.
    out = weights_of(1) @ out  # (C, D, H', W')
    last = weights_of(0) @ out.flatten(2)  # (C, D', H' W')
    return last.view(*last.shape[:2], *out.shape[2:])


def _axis_weights(n_in: int, n_out: int, step: float, offset: float, antialias: bool) -> torch.Tensor:
    """(n_out, n_in) interpolation matrix: a triangle as wide as the coarser of the two spacings."""
    centres = torch.arange(n_out, dtype=torch.float64) * step + offset
    centres = centres.clamp(0, n_in - 1)
    width = max(1.0, abs(step)) if antialias else 1.0
    index = torch.arange(n_in, dtype=torch.float64)
    weights = (1 - (centres[:, None] - index[None]).abs() / width).clamp_min(0)
    return (weights / weights.sum(1, keepdim=True)).float()


def to_model_grid(volume: hd.Volume, spacing_mm: float) -> tuple[torch.Tensor, hd.VolumeGeometry]:
    """A canonical volume as a tensor on the model's isotropic grid.

    Returns
    -------
    (1, 1, D, H, W) float32 Hounsfield units, clamped to [HU_MIN, HU_MAX], and its geometry.
    """
    source = volume.get_geometry()
    target = resampled_geometry(source, spacing_mm)
    array = np.ascontiguousarray(volume.array)
    if array.dtype not in (np.int16, np.float32):
        array = array.astype(np.float32)
    limits = (HU_MIN, HU_MAX)
    tensor = resample(torch.from_numpy(array)[None], source, target, antialias=True, limits=limits)
    return tensor[None], target  # (1, 1, D, H, W)


def window(hu: torch.Tensor) -> torch.Tensor:
    """HU to the two channels that the network reads, each in -1..1. Our choice.

    Parameters
    ----------
    hu: (B, 1, D, H, W) Hounsfield units.

    Returns
    -------
    (B, 2, D, H, W): the wide window -1000..1000 HU, and the soft-tissue window -160..240 HU,
    in which a hypodense lesion of 30 HU difference is a visible step.
    """
    wide = hu.clamp(-1000, 1000) / 1000
    soft = (hu.clamp(-160, 240) - 40) / 200
    return torch.cat([wide, soft], dim=1)  # (B, 2, D, H, W)


def windows_hu(x: torch.Tensor) -> torch.Tensor:
    """The two channels of `window` in Hounsfield units, clipped as they are; (B, 2, D, H, W)."""
    x = x.float()
    return torch.cat([x[:, :1] * 1000, x[:, 1:] * 200 + 40], dim=1)


def sub_geometry(geometry: hd.VolumeGeometry, first: slice, second: slice, third: slice) -> hd.VolumeGeometry:
    """The part of a grid that the slices of its three axes name."""
    # highdicom annotates the index as a tuple of one element.
    return geometry[first, second, third]  # type: ignore[index]


def near_box(
    centre: npt.NDArray[np.floating | np.integer], reach: npt.NDArray[np.float64], shape: Sequence[int]
) -> tuple[slice, ...]:
    """The voxels of a grid that are not farther from a place than `reach` along any axis.

    Parameters
    ----------
    centre, reach: in voxels.
    shape: of the grid; a place beyond it may have no voxels.
    """
    low = np.clip(np.ceil(centre - reach), 0, shape).astype(int)
    high = np.clip(np.floor(centre + reach) + 1, low, shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def bounding_slices(mask: npt.NDArray[np.bool_], margin: Sequence[int]) -> tuple[slice, slice, slice]:
    """The slices of the smallest box round `mask`, grown by `margin` voxels and kept inside.

    Raises
    ------
    ValueError: if `mask` is empty.
    """
    if not mask.any():
        raise ValueError("mask is empty; a bounding box needs at least one voxel")
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low = max(0, int(hit[0]) - margin[axis])
        high = min(mask.shape[axis], int(hit[-1]) + 1 + margin[axis])
        box.append(slice(low, high))
    return box[0], box[1], box[2]
