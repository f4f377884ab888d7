"""What is seen of places where an organ may have a lesion, in numbers that a judge weighs.

Grey values along rays in 26 directions, on shells and on opposite sides, because a vessel goes on where
a lump ends; what hangs together with the place, for the same reason; curvature at four scales; which organs
lie around, how far the surface is; what the masks of all abnormalities say there, and of the organ's other
places. The same for a place however the patient lies, as far as 26 directions allow, but for its position
in the organ. Knows no text and decides nothing (`core_model.boosted_trees` does). Our choice; neither paper
judges places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.lumps import Lumps, derivatives, lumps_of
from core_model.masks import Region
from core_model.volume import bounding_slices

RADII = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # voxels from the place; 4 to 48 mm at 4 mm
BACKGROUND = slice(4, 7)  # of `RADII`: what a place stands out of
SCALES = (1.0, 1.6, 2.5, 4.0)  # standard deviations in voxels at which curvature is taken
QUANTILES = (0.04, 0.25, 0.5, 0.75, 0.96)  # of the directions
PAIRS = slice(1, 6)  # of `RADII`: where opposite sides are compared
STEP_HU, STEP_HU_LUNG = 20.0, 100.0  # differences that become 1
SEEN_HU, SEEN_HU_LUNG = (-150.0, 400.0), (-1000.0, 250.0)  # grey values count as no darker and no brighter
FAT_HU, BRIGHT_HU, GAS_HU = -40.0, 180.0, -500.0
LEAST_CONTRAST = 0.25  # steps; a place with less stands out of nothing
UNBOUNDED = 16.0  # voxels: half of a place's contrast is left on the whole ray
LOGITS = (-13.0, 8.0)  # of masks, beyond which they say no more
MARGIN = 6  # voxels around an organ that are smoothed with it
LAST = 500  # rank of what is no lump
NEAR = 12  # voxels in each direction in which what hangs together is followed
HELD = (0.3, 0.5, 0.7)  # of a place's contrast, that what hangs together with it has at least
# Voxels beyond an organ in which its tumours are sought, where they displace it or hang on it.
BEYOND = {"adrenals": 6, "colon": 3, "pancreas": 3, "urinary_bladder": 3}
VESSELS = ("aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein", "heart", "pulmonary_artery")

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def directions() -> npt.NDArray[np.float64]:
    """(26, 3) unit vectors to the neighbours of a voxel; the second half is opposite to the first."""
    half = np.array([d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)], dtype=np.float64)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    return np.concatenate([half, -half])


@dataclass(frozen=True)
class OrganView:
    """One organ in a scan, and what was seen there; all on one grid of (D, H, W) voxels.

    Attributes
    ----------
    name: of the reading organ.
    hu: (D, H, W) Hounsfield units.
    label: (D, H, W) the most probable organ of each voxel.
    region: where its abnormalities are searched.
    logits: (A, D, H, W) of the masks of all abnormalities of the dictionary, or None for one that is not
        searched.
    """

    name: str
    hu: Floats
    label: npt.NDArray[np.integer]
    region: Region
    logits: tuple[Floats | None, ...]

    @cached_property
    def own(self) -> npt.NDArray[np.bool_]:
        """(D, H, W) the organ's voxels."""
        return np.asarray(self.label == organ(self.name).label)

    @cached_property
    def levels(self) -> tuple[float, float]:
        """Median of the organ's grey values, and the distance of their quartiles."""
        low, middle, high = np.percentile(self.hu[self.own], [25, 50, 75])
        return float(middle), float(high - low)

    @cached_property
    def reach(self) -> npt.NDArray[np.bool_]:
        """(D, H, W) where the organ's tumours are sought: its reach, what it encloses, and `BEYOND`."""
        sought = np.asarray((self.region.reach | self.region.core).cpu().numpy())
        beyond = BEYOND.get(self.name, 0)
        if beyond and self.own.any():
            box = bounding_slices(self.own, margin=(beyond,) * 3)
            sought = sought.copy()
            sought[box] |= ndimage.binary_dilation(self.own[box], np.ones((3, 3, 3)), iterations=beyond)
        return sought

    @cached_property
    def lumps(self) -> tuple[Lumps, ...]:
        """Of the image, where the organ's tumours are sought; the organ must be in the scan."""
        return lumps_of(self.clipped, self.reach)

    @property
    def step_hu(self) -> float:
        """The difference that becomes 1."""
        return STEP_HU_LUNG if self.name == "lung" else STEP_HU

    @cached_property
    def clipped(self) -> Floats:
        """(D, H, W) Hounsfield units within those that tell something of this organ."""
        return np.clip(self.hu, *(SEEN_HU_LUNG if self.name == "lung" else SEEN_HU))

    def steps(self, hu: Floats) -> Floats:
        """Hounsfield units as steps from the organ's median."""
        return np.asarray((hu - self.levels[0]) / self.step_hu, dtype=np.float32)

    def along_rays(self, image: npt.NDArray[np.generic], places: Indices, order: int) -> Floats:
        """(N, R, 26) values of an image at `RADII` from each place; `order` of the interpolation."""
        points = places[:, None, None] + np.array(RADII, dtype=np.float64)[:, None, None] * directions()
        points = points.reshape(-1, 3).T
        found = ndimage.map_coordinates(image, points, order=order, mode="nearest")
        return np.asarray(found.reshape(len(places), len(RADII), -1))


def place_features(view: OrganView, kind: int, places: Indices) -> Floats:
    """What is seen of some places of an organ.

    Parameters
    ----------
    kind: index in the dictionary of the tumour that is looked for.
    places: (N, 3) voxels, N at least 1; all that are to be compared with each other.

    Returns
    -------
    (N, F), finite.

    Raises
    ------
    ValueError: if the organ is not in the scan, or the kind's mask is not.
    """
    if view.logits[kind] is None or not view.own.any():
        raise ValueError(f"{view.name} is not in the scan, or abnormality {kind} is not searched")
    parts = [
        *_levels(view, places),
        *_profiles(view, places),
        *_pieces(view, places),
        *_surroundings(view, places),
        *_curvature(view, places),
        *_lumps(view, places),
        *_situation(view, places),
        *_evidence(view, kind, places),
        np.tile([float(i == kind) for i, a in enumerate(abnormalities()) if a.tumour], (len(places), 1)),
    ]
    columns = [np.asarray(p, dtype=np.float32).reshape(len(places), -1) for p in parts]
    return np.concatenate(columns, 1)


def _levels(view: OrganView, places: Indices) -> list[npt.ArrayLike]:
    """Contrast of the voxel; the organ's grey value and spread."""
    return [view.steps(view.clipped[tuple(places.T)]), *(np.full(len(places), x) for x in view.levels)]


def _profiles(view: OrganView, places: Indices) -> list[npt.ArrayLike]:
    """Contrast on shells and on opposite sides, and how far it reaches in each direction."""
    rays = view.steps(view.along_rays(view.clipped, places, 1)).clip(-12, 12)  # (N, R, 26)
    one, other = np.split(rays[:, PAIRS], 2, axis=2)
    lower, upper = np.sort(np.minimum(one, other), 2), np.sort(np.maximum(one, other), 2)
    parts: list[npt.ArrayLike] = [rays.mean(2), rays.std(2)]
    parts.append(np.quantile(rays, QUANTILES, axis=2).transpose(1, 0, 2))
    parts += [lower[..., [12, 11, 10, 6]], upper[..., [0, 1, 2, 6]]]  # of the 13 axes
    background, middle, contrast = _contrast(view, places, rays)
    ended = (rays - background[:, None, None]) / contrast[:, None, None] < 0.5
    reach = np.where(ended.any(1), np.array(RADII, dtype=np.float64)[ended.argmax(1)], UNBOUNDED)  # (N, 26)
    across = np.sort(reach[:, :13] + reach[:, 13:], 1)
    parts += [np.sort(reach, 1)[:, [0, 3, 6, 13, 19, 22, 25]], np.log(reach).mean(1)]
    return [*parts, middle - background, middle, across[:, [0, 1, 6, 11, 12]]]


def _contrast(view: OrganView, places: Indices, rays: Floats) -> tuple[Floats, Floats, Floats]:
    """(N,) steps of the background, of the place, and between the two, `LEAST_CONTRAST` at least."""
    background = np.median(rays[:, BACKGROUND].reshape(len(places), -1), 1).astype(np.float32)
    middle = view.steps(cube_means(view.clipped, places, 1))
    contrast = middle - background
    least = np.where(contrast < 0, -LEAST_CONTRAST, LEAST_CONTRAST)
    return background, middle, np.where(np.abs(contrast) < LEAST_CONTRAST, least, contrast).astype(np.float32)


def _pieces(view: OrganView, places: Indices) -> list[npt.ArrayLike]:
    """Size and shape of what hangs together with each place and keeps `HELD` of its contrast.

    A nodule ends by itself; a vessel leads to others, however it turns.
    """
    rays = view.steps(view.along_rays(view.clipped, places, 1)).clip(-12, 12)  # (N, R, 26)
    background, _, contrast = _contrast(view, places, rays)
    found = []
    for place, far, step in zip(places, background, contrast, strict=True):
        box = _cube(place, NEAR, view.hu.shape)
        at = tuple(int(c) - s.start for c, s in zip(place, box, strict=True))
        kept = (view.steps(view.clipped[box]) - far) / step
        # The place itself belongs to its piece, however the noise lies.
        kept[at] = 1.0
        own = view.own[box]
        found.append([x for share in HELD for x in _piece(kept >= share, at, own)])
    return [np.array(found, dtype=np.float32)]


def _piece(kept: npt.NDArray[np.bool_], at: tuple[int, ...], own: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    """Logarithm of its size, sides of its box, how full that is, how far it lies, how much is the organ."""
    labels, _ = ndimage.label(kept)
    piece = labels == labels[at]
    index = np.argwhere(piece)
    sides = np.sort(np.ptp(index, 0) + 1).astype(np.float64)
    size = float(len(index))
    gap = float(np.linalg.norm(index - np.array(at), axis=1).mean())
    edge = float((index == 0).any() or (index == np.array(kept.shape) - 1).any())
    compact = gap / np.cbrt(size)
    return np.log(size), sides[0], sides[2], size / sides.prod(), compact, edge, float(own[piece].mean())


def _surroundings(view: OrganView, places: Indices) -> list[npt.ArrayLike]:
    """Which organs and tissues lie on the shells."""
    label = view.along_rays(view.label, places, 0)
    hu = view.along_rays(view.hu, places, 1)
    vessels = [organ(name).label for name in VESSELS]
    return [
        (label == organ(view.name).label).mean(2),
        (label == 0).mean(2)[:, ::2],
        np.isin(label, vessels).mean(2)[:, ::2],
        (hu < FAT_HU).mean(2)[:, :7],
        (hu > BRIGHT_HU).mean(2)[:, :7],
        (hu < GAS_HU).mean(2)[:, 1:7:2],
    ]


def _curvature(view: OrganView, places: Indices) -> list[npt.ArrayLike]:
    """Grey value, slope and the three principal curvatures at each of `SCALES`.

    A lump curves along all axes, a vessel along two, a surface along one.
    """
    box = bounding_slices(view.own, margin=(MARGIN,) * 3)
    at = _inside(places, box)
    parts: list[npt.ArrayLike] = []
    for scale in SCALES:
        smooth = ndimage.gaussian_filter(view.clipped[box], scale)
        value, slope, second = derivatives(smooth, at)
        curvatures = np.linalg.eigvalsh(second * scale**2) / view.step_hu
        parts += [curvatures, view.steps(value), np.linalg.norm(slope, axis=1) * scale / view.step_hu]
    return parts


def _lumps(view: OrganView, places: Indices) -> list[npt.ArrayLike]:
    """Curvature and rank of the lump of each size and sign that lies at a place; 0 and `LAST` without one."""
    parts: list[npt.ArrayLike] = []
    for lumps in view.lumps:
        curvature, rank = np.zeros(len(places)), np.full(len(places), np.log(LAST))
        for number, place in enumerate(places):
            here = np.flatnonzero((np.abs(lumps.index - place) <= 1).all(1))
            if len(here):
                curvature[number] = lumps.curvature[here[0]] / view.step_hu
                rank[number] = np.log(1 + min(int(here[0]), LAST - 1))
        parts += [curvature, rank]
    return parts


def _situation(view: OrganView, places: Indices) -> list[npt.ArrayLike]:
    """Depth in the organ, position in its box, its size, and whether the scan ends in it."""
    box = bounding_slices(view.own, margin=(MARGIN,) * 3)
    at = tuple(_inside(places, box).T)
    inside = ndimage.distance_transform_edt(view.own[box])
    outside = ndimage.distance_transform_edt(~view.own[box])
    tight = bounding_slices(view.own, margin=(0, 0, 0))
    first, last = (np.array([getattr(s, end) for s in tight]) for end in ("start", "stop"))
    ends = float(first[0] == 0) + 2.0 * float(last[0] == view.own.shape[0])
    return [
        (inside - outside)[at],
        view.region.core.cpu().numpy()[tuple(places.T)],
        (places - first) / (last - first),
        np.full(len(places), np.log(view.own.sum())),
        np.full(len(places), ends),
    ]


def _evidence(view: OrganView, kind: int, places: Indices) -> list[npt.ArrayLike]:
    """What the masks say near the places, and each place's rank among them."""
    nowhere = np.full(len(places), LOGITS[0], dtype=np.float32)
    every = [nowhere if m is None else cube_maxima(m, places) for m in view.logits]
    mask = view.logits[kind]
    assert mask is not None  # `place_features` has seen to it
    means = [cube_means(mask, places, reach).clip(*LOGITS) for reach in (1, 2, 4)]
    smooth = view.steps(
        np.array([view.clipped[_cube(place, 3, view.clipped.shape)].mean() for place in places], np.float32)
    )
    return [
        np.stack(every, 1).clip(*LOGITS),
        *means,
        means[0] - means[0].max(),
        (means[0][:, None] < means[0][None]).sum(1),
        np.full(len(places), len(places)),
        np.argsort(np.argsort(smooth, kind="stable"), kind="stable"),
        smooth - np.median(smooth),
    ]


def _inside(places: Indices, box: tuple[slice, ...]) -> Indices:
    """Places as voxels of a box; those outside are moved to its border."""
    first = np.array([s.start for s in box])
    last = np.array([s.stop for s in box]) - 1
    return np.asarray(np.clip(places, first, last) - first)


def _cube(place: Indices, reach: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, int(c) - reach), min(n, int(c) + reach + 1)) for c, n in zip(place, shape, strict=True)
    )


def cube_means(image: Floats, places: Indices, reach: int) -> Floats:
    """(N,) mean over the cube of `reach` voxels round each place."""
    return np.array([image[_cube(place, reach, image.shape)].mean() for place in places], dtype=np.float32)


def cube_maxima(image: Floats, places: Indices) -> Floats:
    """(N,) highest value of each place and its 26 neighbours."""
    return np.array([image[_cube(place, 1, image.shape)].max() for place in places], dtype=np.float32)


__all__ = ["OrganView", "cube_maxima", "cube_means", "directions", "place_features"]
