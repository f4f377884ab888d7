"""Probabilities on the model's grid -> label masks on the scan's own grid.

Probabilities are interpolated, then decided, so that borders are smooth; the work goes organ by
organ, because 36 of them on 300 slices of 512x512 would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from core_model.anatomy import organ
from core_model.pooling import box_max
from core_model.volume import bounding_slices, resample, sub_geometry

LEAST = 0.01  # a probability that never is an organ's greatest (`core_model.parts`); our choice
REACH_MM = 8.0  # how far beyond its organ a lesion may bulge; our choice
GAP_MM = 16.0  # holes and bays up to twice as wide belong to an organ's core: a lesion can look like none
RIND_MM = 4.0  # of an organ's surface that is no core


def label_volume(probability: torch.Tensor, geometry: hd.VolumeGeometry, like: hd.Volume) -> hd.Volume:
    """The most probable organ of every voxel of a scan.

    Parameters
    ----------
    probability: (1 + O, D, H, W) on `geometry`; channel 0 is "none".
    like: the scan, sharing axis directions with `geometry`.

    Returns
    -------
    uint8 Volume on the scan's grid, 0 where none, outside of `geometry` too.
    """
    out = np.zeros(like.spatial_shape, dtype=np.uint8)
    inside = _extent(geometry, like)
    if inside is None:
        return like.with_array(out)
    best = resample(probability[:1], geometry, sub_geometry(like.get_geometry(), *inside), antialias=False)[0]
    label = torch.zeros(best.shape, dtype=torch.uint8)
    for channel in torch.unique(probability.argmax(0)).tolist():
        if channel == 0:
            continue
        # An organ is looked for in its own box, not in the whole scan.
        box = bounding_slices((probability[channel] > LEAST).numpy(), margin=(1, 1, 1))
        source = sub_geometry(geometry, *box)
        own = _extent(source, like)
        if own is None:
            continue
        target = sub_geometry(like.get_geometry(), *own)
        values = resample(probability[channel][box][None], source, target, antialias=False)[0]
        z, y, x = (slice(s.start - w.start, s.stop - w.start) for s, w in zip(own, inside, strict=True))
        highest = best[z, y, x]
        label[z, y, x].masked_fill_(values > highest, channel)
        torch.maximum(highest, values, out=highest)
    out[inside] = label.numpy()
    return like.with_array(out)


def _extent(geometry: hd.VolumeGeometry, like: hd.Volume) -> tuple[slice, slice, slice] | None:
    """The scan's voxels whose centres lie in `geometry`; None if none do."""
    corners = np.array([[-0.5] * 3, [n - 0.5 for n in geometry.spatial_shape]])
    index = like.map_reference_to_indices(geometry.map_indices_to_reference(corners))
    low, high = np.ceil(index.min(0)).astype(int), np.floor(index.max(0)).astype(int)
    box = [
        slice(max(0, int(a)), min(n, int(b) + 1))
        for a, b, n in zip(low, high, like.spatial_shape, strict=True)
    ]
    if any(s.start >= s.stop for s in box):
        return None
    return box[0], box[1], box[2]


@dataclass(frozen=True)
class Region:
    """Where the abnormalities of an organ are searched; both (D, H, W) bool.

    Attributes
    ----------
    reach: the organ grown by `REACH_MM`: where their voxels may lie.
    core: the organ closed by `GAP_MM`, without its rind: where there must be evidence of a lesion. At
        the surface muscle and vessels beside an organ look like lesions of it.
    """

    reach: torch.Tensor
    core: torch.Tensor


def region_of(probability: torch.Tensor, spacing_mm: float, names: Iterable[str]) -> dict[str, Region]:
    """The region of each searched organ, by its name.

    Parameters
    ----------
    probability: (1 + O, D, H, W).
    names: the reading organs that are searched.
    """
    label = probability.argmax(0)
    reach, gap, rind = (max(1, round(mm / spacing_mm)) for mm in (REACH_MM, GAP_MM, RIND_MM))
    regions = {}
    for name in sorted(set(names)):
        own = label == organ(name).label
        region = Region(torch.zeros_like(own), torch.zeros_like(own))
        if own.any():
            # An organ is small: pooling its own box costs a fraction of pooling the scan.
            box = bounding_slices(own.numpy(), margin=(max(reach, rind),) * 3)
            inside = own[box][None, None].float()
            wide = F.pad(inside, [gap] * 6)  # else an organ near the scan's end would be closed up to it
            core = -box_max(-box_max(wide, 2 * gap + 1), 2 * (gap + rind) + 1)
            region.reach[box] = box_max(inside, 2 * reach + 1)[0, 0] > 0
            region.core[box] = core[0, 0, gap:-gap, gap:-gap, gap:-gap] > 0
        regions[name] = region
    return regions


def paste(
    probability: torch.Tensor,
    mask: npt.NDArray[np.bool_],
    geometry: hd.VolumeGeometry,
    like: hd.Volume,
    threshold: float,
) -> npt.NDArray[np.bool_]:
    """One component of a probability map as a mask on the scan's grid.

    Parameters
    ----------
    probability: (D, H, W) on `geometry`, zero outside the component.
    mask: (D, H, W) bool, the component.
    like: the scan.
    threshold: the voxel threshold that made the component.

    Returns
    -------
    bool array of the scan's shape. Never empty: a component so small that interpolation
    smooths it below the threshold keeps its strongest voxel's half height instead, and one that
    falls between the slices of a coarse scan the voxel nearest to it.
    """
    out = np.zeros(like.spatial_shape, dtype=bool)
    box = bounding_slices(mask, margin=(2, 2, 2))
    part = sub_geometry(geometry, *box)
    inside = _extent(part, like)
    if inside is not None:
        target = sub_geometry(like.get_geometry(), *inside)
        fine = resample(probability[box][None], part, target, antialias=False)[0].numpy()
        level = min(threshold, 0.5 * float(fine.max()))
        out[inside] = fine >= max(level, 1e-6)
    if not out.any():
        strongest = np.unravel_index(int(probability.argmax()), tuple(probability.shape))
        point = geometry.map_indices_to_reference(np.array([strongest], dtype=np.float64))
        nearest = np.round(like.map_reference_to_indices(point)[0]).astype(int)
        out[tuple(np.clip(nearest, 0, np.array(like.spatial_shape) - 1))] = True
    return out
