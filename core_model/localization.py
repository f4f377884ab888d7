"""How well a text agrees with each part of a stored `StudyEncoding`: a dot product, no image and no GPU.

Which places that makes of a study is `core_model.ranking`'s.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core_model.anatomy import organs
from core_model.reading import Localization, Place, PointLPS, SliceReference, StudyEncoding, point_lps

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
    nearest_organ: (d, h, w) uint8, label of the organ of a cell, or of the nearest cell that has one; 0
        everywhere if the study shows no organ.
    nbytes: memory that it takes with its encoding.
    """

    def __init__(self, encoding: StudyEncoding) -> None:
        self.encoding = encoding
        self.inside: npt.NDArray[np.bool_] = np.abs(encoding.grid_features).max(-1) > 0
        self._where = np.flatnonzero(self.inside)
        # Cells lie layer after layer: those of layer k are _first[k] to _first[k + 1].
        self._first = np.append(0, self.inside.sum((1, 2)).cumsum())
        self._cells: Floats = encoding.grid_features[self.inside].astype(np.float32)  # (N, E)
        weight = ndimage.uniform_filter(self.inside.astype(np.float32), 3)
        self._weight: Floats = np.maximum(weight, 1e-3)
        self.nearest_organ = _nearest_organ(encoding)
        own = (self.inside, self._where, self._cells, self._weight, self.nearest_organ)
        stored = (encoding.grid_features, encoding.grid_organs, encoding.slab_features)
        self.nbytes = sum(int(array.nbytes) for array in (*own, *stored))

    @property
    def body_slabs(self) -> npt.NDArray[np.bool_]:
        """(d,) bool, the slabs that show the body."""
        return any_in_plane(self.inside)

    @cached_property
    def midline(self) -> float:
        """The body's middle from right to left, LPS mm."""
        middle = np.argwhere(self.inside).mean(0, keepdims=True)
        return float(self.encoding.grid.map_indices_to_reference(middle)[0, 0])

    @cached_property
    def _to_index(self) -> npt.NDArray[np.float64]:
        """(4, 4) from LPS to cells: highdicom inverts the affine anew for every position."""
        return np.asarray(self.encoding.grid.inverse_affine)

    @cached_property
    def _to_point(self) -> npt.NDArray[np.float64]:
        """(4, 4) from cells to LPS."""
        return np.asarray(self.encoding.grid.affine)

    def index_of(self, position_lps_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(3,) where on the grid a position is, in cells."""
        turned = self._to_index[:3, :3] @ np.asarray(position_lps_mm, dtype=np.float64)
        return np.asarray(turned + self._to_index[:3, 3])

    def point_at(self, index: npt.ArrayLike) -> PointLPS:
        """The position of a place on the grid, (3,) in cells."""
        moved = self._to_point[:3, :3] @ np.asarray(index, dtype=np.float64)
        return point_lps(moved + self._to_point[:3, 3])

    @cached_property
    def planes(self) -> SlicePlanes:
        """Of its slices; ValueError where there is none."""
        return SlicePlanes(self.encoding.slices)

    def cell_at(self, position_lps_mm: PointLPS) -> Cell:
        """The cell that holds a position; the nearest one where it lies outside of the grid."""
        index, last = np.rint(self.index_of(position_lps_mm)), np.array(self.inside.shape) - 1
        z, y, x = np.clip(index, 0, last).astype(int)
        return int(z), int(y), int(x)

    def cosine(self, embedding: Floats) -> Floats:
        """(d, h, w) cosine of each cell with a unit vector (E,); -1 outside of the body."""
        cosine = np.full(self.inside.size, -1.0, dtype=np.float32)
        cosine[self._where] = self._cells @ embedding
        return cosine.reshape(self.inside.shape)

    def smoothed(self, cosine: Floats) -> Floats:
        """(d, h, w) mean of `cosine` over the body's cells among 3x3x3 neighbours; -1 outside."""
        mean = ndimage.uniform_filter(np.where(self.inside, cosine, 0.0), 3) / self._weight
        return np.where(self.inside, mean, np.float32(-1.0))

    def smoothed_layer(self, embedding: Floats, layer: int) -> Floats:
        """(h, w): one layer of `smoothed` of `cosine`, for the cost of three."""
        total = np.zeros(self.inside[layer].size, dtype=np.float32)
        # Beyond an end of the grid its last layer counts once more, as in `smoothed`.
        for near in (max(layer - 1, 0), layer, min(layer + 1, len(self.inside) - 1)):
            cells = slice(self._first[near], self._first[near + 1])
            total[self._where[cells] - near * total.size] += self._cells[cells] @ embedding
        mean = ndimage.uniform_filter(total.reshape(self.inside[layer].shape), 3) / 3 / self._weight[layer]
        return np.where(self.inside[layer], mean, np.float32(-1.0))

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


def agreement(study: Searchable, embedding: Floats, *, by_slab: bool = False) -> Floats:
    """How well every cell agrees with a text, 0..1, for a heat map. Our choice of scale.

    Relative to the study: 0 is the median over the body and below, 1 the best cell. Cosines of
    one text differ little over a body, so that a map of them would show nothing. With `by_slab` the
    cells of a slab are weighed with the agreement of the slab.

    Returns
    -------
    (d, h, w) float32 on the encoding's grid, 0 outside of the body.
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


def place_at(
    study: Searchable,
    text: str,
    cell: Cell,
    score: float,
    *,
    rank: int = 1,
    position_lps_mm: PointLPS | None = None,
    slab_scores: Floats | None = None,
) -> Place:
    """The place of one cell.

    Parameters
    ----------
    position_lps_mm: where exactly; None for the cell's centre.
    slab_scores: (d,); None where slabs were not asked.
    """
    position = position_lps_mm or study.point_at(cell)
    number, reference = study.planes.nearest(position)
    found = Localization(
        text=text,
        position_lps_mm=position,
        slice=reference,
        slice_index=number,
        score=score,
        organ=_organ_name(int(study.nearest_organ[cell])),
        slab_scores=np.zeros(0, np.float32) if slab_scores is None else slab_scores.astype(np.float32),
    )
    _, row, column = study.index_of(position)
    low, high = (study.point_at((cell[0] + half, row, column)) for half in (-0.5, 0.5))
    return Place(rank, found, (low, high))


def any_in_plane(cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(d,) bool: whether a layer of (d, h, w) has a cell."""
    layers: npt.NDArray[np.bool_] = np.logical_or.reduce(cells, axis=(1, 2))
    return layers


def nearest_slice(
    slices: tuple[SliceReference, ...], position_lps_mm: npt.ArrayLike
) -> tuple[int, SliceReference]:
    """The slice whose plane is nearest to a position, with its index.

    Raises
    ------
    ValueError: if there is no slice.
    """
    return SlicePlanes(slices).nearest(position_lps_mm)


class SlicePlanes:
    """The planes of a study's slices, made ready for many positions.

    Raises
    ------
    ValueError: if there is no slice.
    """

    def __init__(self, slices: tuple[SliceReference, ...]) -> None:
        if not slices:
            raise ValueError("slices is empty; a study has at least one slice")
        points = np.array([s.position_lps_mm for s in slices])
        self._slices = slices
        normal = np.zeros(3)  # of a single slice: it is the nearest one to every position
        if slices[0].normal_lps is not None:
            normal = np.array(slices[0].normal_lps)
        elif len(points) > 1:
            way = points[-1] - points[0]
            normal = way / np.linalg.norm(way)
        self._normal = normal
        self._along = points @ normal

    def nearest(self, position_lps_mm: npt.ArrayLike) -> tuple[int, SliceReference]:
        """The slice whose plane is nearest to a position, with its index."""
        index = int(np.abs(self._along - np.asarray(position_lps_mm) @ self._normal).argmin())
        return index, self._slices[index]


def _nearest_organ(encoding: StudyEncoding) -> npt.NDArray[np.uint8]:
    labels = encoding.grid_organs
    if not labels.any():
        return np.zeros_like(labels)
    nearest = ndimage.distance_transform_edt(
        labels == 0, sampling=encoding.grid.spacing, return_distances=False, return_indices=True
    )
    return np.asarray(labels[tuple(nearest)])


def _organ_name(label: int) -> str:
    return organs()[label - 1].name if label else ""
