"""Candidates: the places where an organ may have a tumour, and the outline of each.

Wherever the mask of any abnormality of an organ peaks there may be a lesion: a tumour that its own mask
hardly shows often stands out in that of a cyst. And wherever the image has a lump, dark or bright: a nodule
that is a few voxels large may have no peak of its own. What is one is for the judge to say; nothing is
decided here. Our choice; neither paper has candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core_model.lumps import LUMP_SCALES
from core_model.place_features import LOGITS, RADII, UNBOUNDED, OrganView, cube_means, directions
from core_model.volume import bounding_slices

OWN_PEAKS, OTHER_PEAKS = 40, 20  # of a tumour's own mask, of each other abnormality's of the organ
LUMPS, FINE_LUMPS = 25, 60  # of each size and sign, the most curved; of the smallest bright ones
APART = 2.5  # voxels between two places
BOX = 12  # voxels that an outline may reach in each direction
HALF = 0.5  # of what a mask or a grey value stands out by: where an outline ends
SHARPNESS = 12.0  # how little an outline's reach in one direction says of others
LONGEST = 2.0  # reach in one direction, as a multiple of the middle one of all

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Candidate:
    """A place that may be a tumour.

    Attributes
    ----------
    place: voxel (z, y, x) on the masks' grid.
    score: probability that it is one, of the judge.
    box: part of the grid that holds its outline.
    inside: bool, of the box's shape; the outline, `place` always in it.
    """

    place: tuple[int, int, int]
    score: float
    box: Box
    inside: Bools

    @cached_property
    def voxels(self) -> int:
        """Of its outline."""
        return int(self.inside.sum())

    def mask(self, shape: Sequence[int]) -> Bools:
        """(D, H, W) bool, its outline on a grid of `shape`."""
        mask = np.zeros(tuple(shape), dtype=bool)
        mask[self.box] = self.inside
        return mask


def candidate_places(view: OrganView, kind: int, others: Sequence[int]) -> Indices:
    """Where the organ may have a tumour of a kind.

    Parameters
    ----------
    kind: index of the tumour; others: of the organ's other abnormalities.

    Returns
    -------
    (N, 3) voxels of the view's reach, no two nearer than `APART`, lumps first: a place in the middle of a
    lump shows more of it than one beside it. None where the organ is not in the scan.
    """
    places = np.zeros((0, 3), dtype=np.int64)
    if not view.own.any():
        return places
    found = [
        lumps.index[: FINE_LUMPS if lumps.bright and lumps.scale == LUMP_SCALES[0] else LUMPS]
        for lumps in view.lumps
    ]
    for index in (kind, *others):
        mask = view.logits[index]
        if mask is not None:
            found.append(peaks(mask, view.reach, OWN_PEAKS if index == kind else OTHER_PEAKS))
    for place in np.concatenate(found):
        if not len(places) or np.linalg.norm(places - place, axis=1).min() >= APART:
            places = np.concatenate([places, place[None]])
    return places


def peaks(logits: Floats, reach: Bools, most: int) -> Indices:
    """Up to `most` local maxima within `reach`, highest first, no two nearer than `APART` voxels.

    Parameters
    ----------
    logits, reach: (D, H, W); what is no higher than the lowest of `LOGITS` is no peak.
    """
    where = bounding_slices(reach, margin=(0, 0, 0))
    part = logits[where]
    top = (part == ndimage.maximum_filter(part, 3)) & reach[where] & (part > LOGITS[0])
    index = np.argwhere(top) + np.array([s.start for s in where])
    left = index[np.argsort(-logits[tuple(index.T)], kind="stable")]
    kept: list[npt.NDArray[np.int64]] = []
    while len(left) and len(kept) < most:
        kept.append(left[0])
        left = left[np.linalg.norm(left - left[0], axis=1) >= APART]
    return np.array(kept, dtype=np.int64).reshape(-1, 3)


def outlined(view: OrganView, kind: int, place: npt.NDArray[np.int64], score: float) -> Candidate:
    """A candidate with its outline: where the mask keeps half its height, and where the grey value does.

    Parameters
    ----------
    kind: index of the tumour whose mask is meant; it must be there.
    place: (3,) voxel.
    """
    shape = view.hu.shape
    box = tuple(
        slice(max(0, int(c) - BOX), min(n, int(c) + BOX + 1)) for c, n in zip(place, shape, strict=True)
    )
    at = place - np.array([s.start for s in box])
    mask = view.logits[kind]
    assert mask is not None  # its candidates were sought in it
    probability = 1 / (1 + np.exp(-mask[box].astype(np.float64)))
    pieces, _ = ndimage.label(probability >= HALF * probability[tuple(at)])
    lump, near = _lump(view, place, at, pieces.shape)
    inside = ((pieces == pieces[tuple(at)]) & near) | lump
    return Candidate((int(place[0]), int(place[1]), int(place[2])), score, (box[0], box[1], box[2]), inside)


def _lump(view: OrganView, place: Indices, at: Indices, shape: tuple[int, ...]) -> tuple[Bools, Bools]:
    """Voxels of a box nearer to `at` than the grey value keeps half of its contrast in their direction.

    And those that are near enough to belong to it at all: a mask runs on along vessels.
    """
    rays = view.along_rays(view.clipped, place[None], 1)[0]  # (R, 26)
    middle = float(cube_means(view.clipped, place[None], 1)[0])
    background = float(np.median(rays[4:7]))
    contrast = middle - background
    if abs(contrast) < 1:
        contrast = 1.0 if contrast >= 0 else -1.0
    ended = (rays - background) / contrast < HALF
    reach = np.where(ended.any(0), np.array(RADII, dtype=np.float64)[ended.argmax(0)] - 0.5, UNBOUNDED / 3)
    longest = LONGEST * float(np.median(reach)) + 0.5
    reach = np.minimum(reach, longest)
    offset = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) - at
    length = np.linalg.norm(offset, axis=-1)
    cosine = offset @ directions().T / np.maximum(length, 1e-6)[..., None]  # (d, h, w, 26)
    weight = np.exp(SHARPNESS * (cosine - 1))
    lump = np.asarray(length <= (weight * reach).sum(-1) / weight.sum(-1))
    return lump, np.asarray(length <= longest)
