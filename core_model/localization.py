"""Text -> place, on a stored `StudyEncoding`: a dot product, no image and no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import softmax

from core_model.anatomy import organs
from core_model.reading import Localization, SliceReference, StudyEncoding

SNIPPET_TEMPERATURE = 0.1  # of the softmax over slabs, RadFinder's (model.md 2.3)


def localize(
    encoding: StudyEncoding, text: str, embedding: npt.NDArray[np.float32], *, by_slab: bool = False
) -> Localization:
    """Where in the study a text is.

    Parameters
    ----------
    encoding: of the study.
    text: what was asked.
    embedding: (E,) unit length, of the text.
    by_slab: slabs have a projector of their own (`ModelConfig.projectors` is "separate") and
        decide on the axial position, as in RadFinder; else the grid cells decide alone.

    Returns
    -------
    Localization: the grid cell whose neighbourhood agrees best with the text, and with `by_slab`
        the best of the slab that agrees best.
    """
    features = encoding.grid_features.astype(np.float32)  # (d, h, w, E)
    inside = np.abs(features).max(-1) > 0
    cosine = np.where(inside, features @ embedding, -1.0)  # (d, h, w)
    weight = ndimage.uniform_filter(inside.astype(np.float32), 3)
    smooth = ndimage.uniform_filter(np.where(inside, cosine, 0.0), 3) / np.maximum(weight, 1e-3)
    smooth = np.where(inside, smooth, -1.0)
    if by_slab:
        slab_scores = np.where(inside.any((1, 2)), encoding.slab_features @ embedding, -1.0)  # (d,)
        layer = int(slab_scores.argmax())
        smooth[np.arange(len(smooth)) != layer] = -2.0
    else:
        slab_scores = cosine.max(axis=(1, 2))
    best = np.unravel_index(int(smooth.argmax()), smooth.shape)
    cell = np.array([best], dtype=np.float64)
    if by_slab:
        cell[0, 0] = _between_slabs(slab_scores)
    position = encoding.grid.map_indices_to_reference(cell)[0]
    index, reference = nearest_slice(encoding.slices, position)
    return Localization(
        text=text,
        position_lps_mm=(float(position[0]), float(position[1]), float(position[2])),
        slice=reference,
        slice_index=index,
        score=float(slab_scores[best[0]] if by_slab else cosine[best]),
        organ=_organ_at(encoding, best),
        slab_scores=slab_scores.astype(np.float32),
    )


def _between_slabs(scores: npt.NDArray[Any]) -> float:
    """Axial index of the best slab, drawn towards the better of its neighbours.

    The mean under the softmax over the best slab and one on either side: finer than a slab,
    and, unlike a mean over the whole scan, not torn between two places (our choice).
    """
    best = int(scores.argmax())
    near = np.arange(max(0, best - 1), min(len(scores), best + 2))
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


def _organ_at(encoding: StudyEncoding, cell: tuple[np.intp, ...]) -> str:
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
