"""Text -> place, on a stored `StudyEncoding`: a dot product, no image and no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import softmax

from core_model.anatomy import organs
from core_model.reading import Localization, Place, PointLPS, SliceReference, StudyEncoding

SNIPPET_TEMPERATURE = 0.1  # of the softmax over slabs, RadFinder's (model.md 2.3)
# Two places nearer than this are one: the neighbourhood that a place is judged by is 24 mm wide at
# 8 mm cells. Our choice.
APART_MM = 30.0

Floats = npt.NDArray[np.float32]
Cell = tuple[int, int, int]


class Searchable:
    """A `StudyEncoding` made ready for many questions: what does not depend on the text is done once.

    Parameters
    ----------
    encoding: of the study; it is kept.

    Attributes
    ----------
    inside: (d, h, w) bool, the cells that show the body.
    nbytes: memory that it takes with its encoding.
    """

    def __init__(self, encoding: StudyEncoding) -> None:
        self.encoding = encoding
        self.inside: npt.NDArray[np.bool_] = np.abs(encoding.grid_features).max(-1) > 0
        self._cells: Floats = encoding.grid_features[self.inside].astype(np.float32)  # (N, E)
        weight = ndimage.uniform_filter(self.inside.astype(np.float32), 3)
        self._weight: Floats = np.maximum(weight, 1e-3)
        own = (self.inside, self._cells, self._weight)
        stored = (encoding.grid_features, encoding.grid_organs, encoding.slab_features)
        self.nbytes = sum(int(array.nbytes) for array in (*own, *stored))

    @property
    def body_slabs(self) -> npt.NDArray[np.bool_]:
        """(d,) bool, the slabs that show the body."""
        return _any_in_plane(self.inside)

    def cosine(self, embedding: Floats) -> Floats:
        """(d, h, w) cosine of each cell with a unit vector (E,); -1 outside of the body."""
        cosine = np.full(self.inside.shape, -1.0, dtype=np.float32)
        cosine[self.inside] = self._cells @ embedding
        return cosine

    def smoothed(self, cosine: Floats) -> Floats:
        """(d, h, w) mean of `cosine` over the body's cells among 3x3x3 neighbours; -1 outside."""
        mean = ndimage.uniform_filter(np.where(self.inside, cosine, 0.0), 3) / self._weight
        return np.where(self.inside, mean, np.float32(-1.0))

    def neighbourhoods(self) -> Floats:
        """(N, E) mean feature round each cell of the body, in the order of `inside`.

        Its product with a text is what `smoothed` makes of the text's cosine: both are linear.
        """
        grid = np.zeros((*self.inside.shape, self._cells.shape[1]), dtype=np.float32)
        grid[self.inside] = self._cells
        mean: Floats = ndimage.uniform_filter(grid, (3, 3, 3, 1))[self.inside]
        return mean / self._weight[self.inside][:, None]

    def slab_scores(self, embedding: Floats) -> Floats:
        """(d,) cosine of each slab with a unit vector (E,); -1 where a slab shows no body."""
        scores = self.encoding.slab_features @ embedding
        return np.where(self.body_slabs, scores, np.float32(-1.0))


def localize(encoding: StudyEncoding, text: str, embedding: Floats, *, by_slab: bool = False) -> Localization:
    """Where in the study a text is: the first of `ranked_places`, whose parameters it has.

    Returns
    -------
    Localization: the grid cell whose neighbourhood agrees best with the text, and with `by_slab`
        the best of the slab that agrees best.
    """
    return ranked_places(Searchable(encoding), text, embedding, 1, by_slab=by_slab)[0].found


def ranked_places(
    study: Searchable,
    text: str,
    embedding: Floats,
    k: int,
    *,
    by_slab: bool = False,
    apart_mm: float = APART_MM,
) -> tuple[Place, ...]:
    """The best places of a text in a study, best first, none near a better one.

    Non-maximum suppression: the best cell is taken, every cell nearer to it than `apart_mm` is
    left out, and so on. With `by_slab` it is slabs that are taken and left out, along the scan's
    axis, and of each the best cell.

    Parameters
    ----------
    study: its encoding, made ready.
    text: what was asked.
    embedding: (E,) unit length, of the text.
    k: how many places are wanted.
    by_slab: slabs have a projector of their own (`ModelConfig.projectors` is "separate") and
        decide on the axial position, as in RadFinder; else the grid cells decide alone.
    apart_mm: smallest distance of two places.

    Returns
    -------
    Up to `k` places; fewer where the body has no room for more. The first is `localize`'s.

    Raises
    ------
    ValueError: if `k` is less than 1, or the encoding shows no body.
    """
    if k < 1:
        raise ValueError(f"k = {k}; ask for at least one place")
    if not study.inside.any():
        raise ValueError("encoding shows no body; read the study again")
    cosine = study.cosine(embedding)
    smooth = study.smoothed(cosine)
    scores = study.slab_scores(embedding) if by_slab else cosine.max(axis=(1, 2))
    free = study.inside.copy()
    places: list[Place] = []
    while len(places) < k and free.any():
        if by_slab:
            open_slabs = np.where(_any_in_plane(free), scores, -np.inf)
            layer = int(open_slabs.argmax())
            free_here = np.zeros_like(free)
            free_here[layer] = free[layer]
            cell = _best(smooth, free_here)
            axial = _between_slabs(scores, layer, _any_in_plane(free))
            score = float(scores[layer])
            free[_near_layers(study.encoding, layer, apart_mm)] = False
        else:
            cell = _best(smooth, free)
            axial, score = float(cell[0]), float(cosine[cell])
            free &= ~_near(study.encoding, cell, apart_mm)
        found = _localization(study.encoding, text, cell, axial, score=score, slab_scores=scores)
        places.append(Place(len(places) + 1, found, _slab_ends(study.encoding, cell)))
    return tuple(places)


def agreement(study: Searchable, embedding: Floats, *, by_slab: bool = False) -> Floats:
    """How well every cell agrees with a text, 0..1, for a heat map. Our choice of scale.

    Relative to the study: 0 is the median over the body and below, 1 the best cell. Cosines of
    one text differ little over a body, so that a map of them would show nothing. With `by_slab` the
    cells of a slab are weighed with the agreement of the slab.

    Returns
    -------
    (d, h, w) float32 on the encoding's grid, 0 outside of the body; largest at the first of
    `ranked_places` unless `by_slab`.
    """
    smooth = study.smoothed(study.cosine(embedding))
    share = _above_median(smooth, study.inside)
    if by_slab:
        scores = study.slab_scores(embedding)
        share *= _above_median(scores, study.body_slabs)[:, None, None]
    return share


def _above_median(values: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    """0 at the median of the values inside and below it and outside, 1 at their greatest."""
    if not inside.any():
        return np.zeros_like(values)
    low, high = float(np.median(values[inside])), float(values[inside].max())
    share = np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0)
    return np.where(inside, share, 0.0).astype(np.float32)


def place_at(study: Searchable, text: str, cell: Cell, score: float) -> Place:
    """The place of one cell, chosen elsewhere; rank 1, and no slab scores."""
    found = _localization(
        study.encoding, text, cell, float(cell[0]), score=score, slab_scores=np.zeros(0, np.float32)
    )
    return Place(1, found, _slab_ends(study.encoding, cell))


def _slab_ends(encoding: StudyEncoding, cell: Cell) -> tuple[PointLPS, PointLPS]:
    """The two ends of the slab of a cell along its normal, through the cell's centre; LPS mm."""
    ends = np.array([[cell[0] + half, cell[1], cell[2]] for half in (-0.5, 0.5)])
    low, high = encoding.grid.map_indices_to_reference(ends)
    return _point(low), _point(high)


def _localization(
    encoding: StudyEncoding, text: str, cell: Cell, axial: float, *, score: float, slab_scores: Floats
) -> Localization:
    index = np.array([[axial, cell[1], cell[2]]], dtype=np.float64)
    position = encoding.grid.map_indices_to_reference(index)[0]
    number, reference = nearest_slice(encoding.slices, position)
    return Localization(
        text=text,
        position_lps_mm=_point(position),
        slice=reference,
        slice_index=number,
        score=score,
        organ=_organ_at(encoding, cell),
        slab_scores=slab_scores.astype(np.float32),
    )


def _any_in_plane(cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(d,) bool: whether a layer of (d, h, w) has a cell."""
    layers: npt.NDArray[np.bool_] = np.logical_or.reduce(cells, axis=(1, 2))
    return layers


def _best(values: Floats, among: npt.NDArray[np.bool_]) -> Cell:
    flat = int(np.where(among, values, -np.inf).argmax())
    layer, row, column = np.unravel_index(flat, values.shape)
    return int(layer), int(row), int(column)


def _near(encoding: StudyEncoding, cell: Cell, apart_mm: float) -> npt.NDArray[np.bool_]:
    """(d, h, w) bool: the cells whose centres are nearer to that of `cell` than `apart_mm`."""
    axes = np.ogrid[tuple(slice(0, n) for n in encoding.grid.spatial_shape)]
    gaps = zip(axes, cell, encoding.grid.spacing, strict=True)
    return np.asarray(sum(((axis - c) * mm) ** 2 for axis, c, mm in gaps) < max(apart_mm, 1e-3) ** 2)


def _near_layers(encoding: StudyEncoding, layer: int, apart_mm: float) -> npt.NDArray[np.bool_]:
    """(d,) bool: the layers whose centres are nearer to that of `layer` than `apart_mm`."""
    gap = np.abs(np.arange(encoding.grid.spatial_shape[0]) - layer) * encoding.grid.spacing[0]
    return np.asarray(gap < max(apart_mm, 1e-3))


def _point(values: npt.NDArray[Any]) -> PointLPS:
    return float(values[0]), float(values[1]), float(values[2])


def _between_slabs(scores: Floats, layer: int, free: npt.NDArray[np.bool_]) -> float:
    """Axial index of a slab, drawn towards the better of its neighbours that are not taken.

    The mean under the softmax over the slab and one on either side: finer than a slab,
    and, unlike a mean over the whole scan, not torn between two places (our choice).
    """
    near = np.arange(max(0, layer - 1), min(len(scores), layer + 2))
    near = near[free[near]]
    return float((softmax(scores[near] / SNIPPET_TEMPERATURE) * near).sum())


def nearest_slice(
    slices: tuple[SliceReference, ...], position_lps_mm: npt.ArrayLike
) -> tuple[int, SliceReference]:
    """The slice whose plane is nearest to a position, with its index.

    Raises
    ------
    ValueError: if there is no slice.
    """
    if not slices:
        raise ValueError("slices is empty; a study has at least one slice")
    points = np.array([s.position_lps_mm for s in slices])
    if len(points) == 1:
        return 0, slices[0]
    normal = points[-1] - points[0]
    normal = normal / np.linalg.norm(normal)
    distance = np.abs((points - np.asarray(position_lps_mm)) @ normal)
    index = int(distance.argmin())
    return index, slices[index]


def _organ_at(encoding: StudyEncoding, cell: Cell) -> str:
    """Organ of a cell, or of the nearest cell that has one; empty if the study shows no organ."""
    labels = encoding.grid_organs
    value = int(labels[cell])
    if value == 0:
        where = np.argwhere(labels > 0)
        if len(where) == 0:
            return ""
        gap = (where - np.array(cell)) * np.array(encoding.grid.spacing)
        value = int(labels[tuple(where[int((gap**2).sum(1).argmin())])])
    return organs()[value - 1].name
