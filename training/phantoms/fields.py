"""Random fields that phantoms are made of: smooth noise, and a short name for uniform draws.

Everything is drawn from a `numpy.random.Generator`, so a seed gives the same phantom on every
machine (torch's own generators differ between devices).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """One uniform draw as a plain float."""
    return float(rng.uniform(low, high))


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], wavelength: float) -> torch.Tensor:
    """Gaussian noise of about unit variance whose features are `wavelength` voxels wide.

    Parameters
    ----------
    shape: (D, H, W).
    wavelength: voxels between independent values; below 1.5 it is white noise.

    Returns
    -------
    (D, H, W) float32.
    """
    if wavelength <= 1.5:
        return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
    coarse = [max(2, math.ceil(n / wavelength) + 1) for n in shape]
    seeds = torch.from_numpy(rng.standard_normal((1, 1, *coarse), dtype=np.float32))
    field = F.interpolate(seeds, size=tuple(shape), mode="trilinear", align_corners=True)
    return field[0, 0] * 1.5  # linear interpolation loses about a third of the deviation


def gaussian_blur(volume: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Separable Gaussian blur.

    Parameters
    ----------
    volume: (D, H, W) float32.
    sigma: standard deviation per axis, voxels; values below 0.2 leave the axis alone.
    """
    out = volume[None, None]
    for axis, s in enumerate(sigma):
        if s < 0.2:
            continue
        radius = max(1, math.ceil(2.5 * s))
        x = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-(x**2) / (2 * s * s))
        kernel = kernel / kernel.sum()
        weight_shape = [1, 1, 1, 1, 1]
        weight_shape[2 + axis] = kernel.numel()
        padding = [0] * 6
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        out = F.conv3d(F.pad(out, padding, mode="replicate"), kernel.view(weight_shape))
    return out[0, 0]


Box = tuple[slice, slice, slice]


def bounding_box(mask: torch.Tensor, margin: int = 2) -> Box | None:
    """The box round the true voxels of a (D, H, W) mask, grown by `margin`; None if there is none."""
    box = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        line = mask.amax(dim=others) if mask.dtype != torch.bool else mask.any(others[1]).any(others[0])
        hit = line.nonzero().flatten()
        if len(hit) == 0:
            return None
        box.append(slice(max(0, int(hit[0]) - margin), min(mask.shape[axis], int(hit[-1]) + 1 + margin)))
    return box[0], box[1], box[2]


def eroded(mask: torch.Tensor, voxels: int) -> torch.Tensor:
    """The part of a (D, H, W) bool mask that lies `voxels` steps below its surface.

    Six-neighbour erosion by shifted ANDs; what touches the array's border is not eroded there.
    """
    out = mask
    for _ in range(voxels):
        inner = out.clone()
        for axis in range(3):
            n = out.shape[axis] - 1
            inner.narrow(axis, 0, n).logical_and_(out.narrow(axis, 1, n))
            inner.narrow(axis, 1, n).logical_and_(out.narrow(axis, 0, n))
        out = inner
    return out
