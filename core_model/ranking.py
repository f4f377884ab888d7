"""A question's places in a study, best first: what masks knew of the dictionary, then where words agree.

Where a text means an abnormality, its known places come first, ordered by what the masks saw there and
how well the place agrees with the text; where it means an organ, the organ's own parts. Everything else,
and every further place, is found by the agreement of cells and slabs alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import logit, softmax

from core_model.anatomy import organ
from core_model.localization import Cell, Floats, Searchable, agreement, any_in_plane, place_at
from core_model.question import Question
from core_model.reading import Localization, Place, PointLPS, StudyEncoding

SNIPPET_TEMPERATURE = 0.1  # of the softmax over slabs, RadFinder's (model.md 2.3)
# Two places nearer than this are one: the neighbourhood that a place is judged by is 24 mm wide at
# 8 mm cells. Our choice.
APART_MM = 30.0
# What a cosine of 1 weighs beside the logit of what the masks saw. Our choice, by development patients.
WORDS = 10.0
LEAST_SEEN = 1e-4  # so that a logit is finite
GLOW_MM = 12.0  # standard deviation round a known place in a heat map
DIMMED = 0.5  # agreement beside known places in a heat map


def localize(study: Searchable, question: Question, *, by_slab: bool = False) -> Localization:
    """Where in the study a text is: the first of `ranked_places`."""
    return ranked_places(study, question, 1, by_slab=by_slab)[0].found


def ranked_places(
    study: Searchable, question: Question, k: int, *, by_slab: bool = False, apart_mm: float = APART_MM
) -> tuple[Place, ...]:
    """The best places of a text in a study, best first, none near a better one.

    Parameters
    ----------
    study: its encoding, made ready.
    question: made by the model that made the encoding.
    k: how many places are wanted.
    by_slab: slabs have a projector of their own (`ModelConfig.projectors` is "separate") and
        decide on the axial position, as in RadFinder; else the grid cells decide alone.
    apart_mm: smallest distance of two places.

    Returns
    -------
    Up to `k` places; fewer where the body has no room for more. The score of each is its cosine, of its
    slab with `by_slab`; known places are not ordered by it.

    Raises
    ------
    ValueError: if `k` is less than 1, or the encoding shows no body.
    """
    if k < 1:
        raise ValueError(f"k = {k}; ask for at least one place")
    if not study.inside.any():
        raise ValueError("encoding shows no body; read the study again")
    cosine = study.cosine(question.embedding)
    smooth = study.smoothed(cosine)
    scores = study.slab_scores(question.embedding) if by_slab else cosine.max(axis=(1, 2))
    free = study.inside.copy()
    places: list[Place] = []

    def take(cell: Cell, position: PointLPS, score: float) -> None:
        place = place_at(
            study,
            question.text,
            cell,
            score,
            rank=len(places) + 1,
            position_lps_mm=position,
            slab_scores=scores,
        )
        places.append(place)

    for _, position in _known(study, question, scores if by_slab else smooth):
        cell = study.cell_at(position)
        if len(places) < k and free[cell]:
            take(cell, position, float(scores[cell[0]] if by_slab else cosine[cell]))
            free &= ~_near(study.encoding, position, apart_mm)
    while len(places) < k and free.any():
        if by_slab:
            open_layers = any_in_plane(free)
            layer = int(np.where(open_layers, scores, -np.inf).argmax())
            free_here = np.zeros_like(free)
            free_here[layer] = free[layer]
            cell = _best(smooth, free_here)
            take(
                cell, _point(study.encoding, (_between(scores, layer, open_layers), *cell[1:])), scores[layer]
            )
            free[_near_layers(study.encoding, layer, apart_mm)] = False
        else:
            cell = _best(smooth, free)
            take(cell, _point(study.encoding, cell), float(cosine[cell]))
            free &= ~_near(study.encoding, places[-1].found.position_lps_mm, apart_mm)
    return tuple(places)


def heat(study: Searchable, question: Question, *, by_slab: bool = False) -> Floats:
    """A map of where a text may be, 0..1, for people to see. Our choice of scale.

    The agreement of cells with the text (`core_model.localization.agreement`); where places are known of
    what it means, each glows as strongly as it is likely beside the best, and the agreement is dimmed.

    Returns
    -------
    (d, h, w) float32 on the encoding's grid, 0 outside of the body; without slabs largest at the first of
    `ranked_places`, with them too where places are known.
    """
    share = agreement(study, question.embedding, by_slab=by_slab)
    said = (
        study.slab_scores(question.embedding) if by_slab else study.smoothed(study.cosine(question.embedding))
    )
    known = _known(study, question, said)
    if not known:
        return share
    glow = np.zeros_like(share)
    for weight, position in known:
        gap = _squared_mm(study.encoding, position)
        own = np.where(study.inside, np.exp(-(gap - gap.min()) / (2 * GLOW_MM**2)), 0.0)
        glow = np.maximum(glow, np.exp(weight - known[0][0]) * own)
    return np.maximum(glow, DIMMED * share).astype(np.float32)


def _known(study: Searchable, question: Question, said: Floats) -> list[tuple[float, PointLPS]]:
    """Places that are known of what the text means, with the logarithm of their weight, best first.

    Parameters
    ----------
    said: (d,) cosine of slabs or (d, h, w) of cells with the text.
    """
    meaning = question.meaning
    if meaning is None:
        return []
    if meaning.kind == "organ":
        return _parts(study, organ(meaning.name).label)
    ranked = []
    for known in study.encoding.known_places:
        if known.abnormality == meaning.name:
            cell = study.cell_at(known.position_lps_mm)
            slabs = slice(max(0, cell[0] - 1), cell[0] + 2)
            agrees = float(said[slabs].max() if said.ndim == 1 else said[cell])
            seen = float(logit(np.clip(known.score, LEAST_SEEN, 1 - LEAST_SEEN)))
            ranked.append((seen + WORDS * agrees, known.position_lps_mm))
    return sorted(ranked, key=lambda one: -one[0])


def _parts(study: Searchable, label: int) -> list[tuple[float, PointLPS]]:
    """Of each connected part of an organ the cell nearest to its middle; a part weighs its cells."""
    parts, count = ndimage.label((study.encoding.grid_organs == label) & study.inside)
    middles = []
    for number in range(1, count + 1):
        own = np.argwhere(parts == number)
        middle = own[((own - own.mean(0)) ** 2).sum(1).argmin()]
        middles.append((float(np.log(len(own))), _point(study.encoding, middle)))
    return sorted(middles, key=lambda one: -one[0])


def _point(encoding: StudyEncoding, index: npt.ArrayLike) -> PointLPS:
    """LPS of a place on the encoding's grid, in cells."""
    x, y, z = encoding.grid.map_indices_to_reference(np.array([index], dtype=np.float64))[0]
    return float(x), float(y), float(z)


def _best(values: Floats, among: npt.NDArray[np.bool_]) -> Cell:
    flat = int(np.where(among, values, -np.inf).argmax())
    layer, row, column = np.unravel_index(flat, values.shape)
    return int(layer), int(row), int(column)


def _near(encoding: StudyEncoding, position: PointLPS, apart_mm: float) -> npt.NDArray[np.bool_]:
    """(d, h, w) bool: the cells whose centres are nearer to a position than `apart_mm`."""
    return _squared_mm(encoding, position) < max(apart_mm, 1e-3) ** 2


def _squared_mm(encoding: StudyEncoding, position: PointLPS) -> npt.NDArray[np.float64]:
    """(d, h, w) squared distances of the cells' centres from a position."""
    centre = encoding.grid.map_reference_to_indices(np.array([position]))[0]
    axes = np.ogrid[tuple(slice(0, n) for n in encoding.grid.spatial_shape)]
    gaps = zip(axes, centre, encoding.grid.spacing, strict=True)
    return np.asarray(sum(((axis - c) * mm) ** 2 for axis, c, mm in gaps))


def _near_layers(encoding: StudyEncoding, layer: int, apart_mm: float) -> npt.NDArray[np.bool_]:
    """(d,) bool: the layers whose centres are nearer to that of `layer` than `apart_mm`."""
    gap = np.abs(np.arange(encoding.grid.spatial_shape[0]) - layer) * encoding.grid.spacing[0]
    return np.asarray(gap < max(apart_mm, 1e-3))


def _between(scores: Floats, layer: int, free: npt.NDArray[np.bool_]) -> float:
    """Axial index of a slab, drawn towards the better of its neighbours that are not taken.

    The mean under the softmax over the slab and one on either side: finer than a slab,
    and, unlike a mean over the whole scan, not torn between two places (our choice).
    """
    near = np.arange(max(0, layer - 1), min(len(scores), layer + 2))
    near = near[free[near]]
    return float((softmax(scores[near] / SNIPPET_TEMPERATURE) * near).sum())
