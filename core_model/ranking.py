"""A question's places in a study, best first: what masks knew of the dictionary, then where words agree.

Where a text means an abnormality, its known places compete, by what the masks saw there and how well the
place, its size and its site in the organ agree with the text, with the place that agrees best. A text that is
no more than the abnormality's name says little of the place: its words weigh less. Where a text means an
organ, the organ's own parts come first. Everything else, and every further place, is found by the agreement
of cells and slabs alone.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import logit

from core_model.abnormality import abnormality
from core_model.anatomy import organ
from core_model.localization import Cell, Floats, Searchable, agreement, any_in_plane, place_at
from core_model.question import Question
from core_model.reading import Localization, Place, PointLPS, StudyEncoding
from core_model.site_fit import SiteFit
from core_model.volume import near_box

SNIPPET_TEMPERATURE = 0.1  # of the softmax over slabs, RadFinder's (model.md 2.3)
# Two places nearer than this are one: the neighbourhood that a place is judged by is 24 mm wide at
# 8 mm cells. Our choice.
APART_MM = 30.0
# How known places and words are weighed against one another; by development patients, our choice.
WORDS = 20.0  # of a cosine that is lower than the best of the study by 1, beside the logit of what was seen
NAME_WORDS = 5.0  # the same where the text is no more than a name
NAMED = 0.9  # cosine with a wording of the dictionary from which it is; of sentences one in six, of names all
MOST_SEEN = 9.0  # logits beyond count no more
SIZE = 10.0  # of a size that does not fit what the text states
SITE = 8.0  # of a place far from the part of the organ that the text names
MOST_DOUBLINGS = 1.0  # from which a size does not fit at all
UNSEEN = -9.0  # logit of the place that words alone would choose
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
    search = _Search(study, question, by_slab, apart_mm)
    for _, position in _known(study, question, search.scores if by_slab else search.smooth):
        if len(search.places) < k and search.free.any():
            search.take(position)
    while len(search.places) < k and search.free.any():
        search.take(None)
    return tuple(search.places)


class _Search:
    """Places that were taken, and the cells that are still free."""

    def __init__(self, study: Searchable, question: Question, by_slab: bool, apart_mm: float) -> None:
        self.places: list[Place] = []
        self.free = study.inside.copy()
        self._study = study
        self._text = question.text
        self._by_slab = by_slab
        self._apart_mm = apart_mm
        self._embedding = question.embedding
        self.scores = study.slab_scores(question.embedding) if by_slab else self._cosine.max(axis=(1, 2))

    @cached_property
    def _cosine(self) -> Floats:
        """(d, h, w); slabs decide without it."""
        return self._study.cosine(self._embedding)

    @cached_property
    def smooth(self) -> Floats:
        """(d, h, w) of `Searchable.smoothed`."""
        return self._study.smoothed(self._cosine)

    def take(self, position: PointLPS | None) -> None:
        """Take a known place, unless it is near a better one; None takes the one that agrees best."""
        if position is not None:
            cell = self._study.cell_at(position)
            if self.free[cell]:
                self._add(cell, position)
                self._leave(position)
        elif self._by_slab:
            open_layers = any_in_plane(self.free)
            layer = int(np.where(open_layers, self.scores, -np.inf).argmax())
            smooth = self._study.smoothed_layer(self._embedding, layer)
            _, row, column = _best(smooth[None], self.free[layer : layer + 1])
            cell = (layer, row, column)
            axial = _between(self.scores, layer, open_layers)
            self._add(cell, self._study.point_at((axial, *cell[1:])))
            self.free[_near_layers(self._study.encoding, layer, self._apart_mm)] = False
        else:
            cell = _best(self.smooth, self.free)
            middle = self._study.point_at(cell)
            self._add(cell, middle)
            self._leave(middle)

    def _leave(self, position: PointLPS) -> None:
        """Take away the cells whose centres are nearer to a position than `apart_mm`."""
        apart = max(self._apart_mm, 1e-3)
        centre, reach = self._study.index_of(position), apart / np.array(self._study.encoding.grid.spacing)
        box = near_box(centre, reach, self.free.shape)
        self.free[box] &= _squared_mm(self._study, position, box) >= apart**2

    def _add(self, cell: Cell, position: PointLPS) -> None:
        place = place_at(
            self._study,
            self._text,
            cell,
            float(self.scores[cell[0]] if self._by_slab else self._cosine[cell]),
            rank=len(self.places) + 1,
            position_lps_mm=position,
            slab_scores=self.scores,
        )
        self.places.append(place)


def heat(study: Searchable, question: Question, *, by_slab: bool = False) -> Floats:
    """A map of where a text may be, 0..1, for people to see. Our choice of scale.

    The agreement of cells with the text (`core_model.localization.agreement`); places that are known of what
    it means glow as strongly as they are likely, and where one of them leads the agreement is dimmed.

    Returns
    -------
    (d, h, w) float32 on the encoding's grid, 0 outside of the body; largest at the first of
    `ranked_places`, with slabs only where that is a known place.
    """
    share = agreement(study, question.embedding, by_slab=by_slab)
    said = study.smoothed(study.cosine(question.embedding))
    ranked = _known(study, question, study.slab_scores(question.embedding) if by_slab else said)
    if not ranked:
        return share
    best, leader = ranked[0]
    shown = share if leader is None else DIMMED * share
    for weight, position in ranked:
        if position is not None:
            gap = _squared_mm(study, position)
            glow = np.exp(weight - best - (gap - gap.min()) / (2 * GLOW_MM**2))
            shown = np.maximum(shown, np.where(study.inside, glow, 0.0))
    return shown.astype(np.float32)


def _known(study: Searchable, question: Question, said: Floats) -> list[tuple[float, PointLPS | None]]:
    """Places that are known of what the text means, with the logarithm of their weight, best first.

    Parameters
    ----------
    said: (d,) cosine of slabs or (d, h, w) of cells with the text.

    Returns
    -------
    None stands for the place that words alone would choose. Empty where nothing is known.
    """
    meaning = question.meaning
    if meaning is None:
        return []
    if meaning.kind == "organ":
        return _parts(study, organ(meaning.name).label)
    places = [known for known in study.encoding.known_places if known.abnormality == meaning.name]
    sized = any(known.diameter_mm is not None for known in places)
    fit = None
    if question.site is not None:
        fit = SiteFit.of(study, question.site, organ(abnormality(meaning.name).organ).label)
    words = NAME_WORDS if meaning.similarity >= NAMED else WORDS
    ranked: list[tuple[float, PointLPS | None]] = []
    for known in places:
        cell = study.cell_at(known.position_lps_mm)
        slabs = slice(max(0, cell[0] - 1), cell[0] + 2)
        agrees = float(said[slabs].max() if said.ndim == 1 else said[cell])
        weight = float(np.clip(logit(known.score), -MOST_SEEN, MOST_SEEN))
        weight += words * (agrees - float(said.max()))
        if sized and question.size_mm is not None:
            weight -= SIZE * _misfit(question.size_mm, known.diameter_mm)
        if fit is not None:
            weight -= SITE * fit.misfit(known.position_lps_mm)
        ranked.append((weight, known.position_lps_mm))
    if not ranked:
        return []
    return sorted([*ranked, (UNSEEN, None)], key=lambda one: -one[0])


def _misfit(stated_mm: float, seen_mm: float | None) -> float:
    """How far a size is from the stated one: 0 for the same, 1 from `MOST_DOUBLINGS` on and for none."""
    if seen_mm is None:
        return 1.0
    return min(1.0, abs(float(np.log2(seen_mm / stated_mm))) / MOST_DOUBLINGS)


def _parts(study: Searchable, label: int) -> list[tuple[float, PointLPS | None]]:
    """Of each connected part of an organ the cell nearest to its middle; a part weighs its cells."""
    parts, count = ndimage.label((study.encoding.grid_organs == label) & study.inside)
    middles: list[tuple[float, PointLPS | None]] = []
    for number in range(1, count + 1):
        own = np.argwhere(parts == number)
        middle = own[((own - own.mean(0)) ** 2).sum(1).argmin()]
        middles.append((float(np.log(len(own))), study.point_at(middle)))
    return sorted(middles, key=lambda one: -one[0])


def _best(values: Floats, among: npt.NDArray[np.bool_]) -> Cell:
    flat = int(np.where(among, values, -np.inf).argmax())
    layer, row, column = np.unravel_index(flat, values.shape)
    return int(layer), int(row), int(column)


def _squared_mm(
    study: Searchable, position: PointLPS, box: tuple[slice, ...] | None = None
) -> npt.NDArray[np.float64]:
    """(d, h, w) squared distances of the cells' centres from a position; of those in `box`, where given."""
    axes = np.ogrid[box or tuple(slice(0, n) for n in study.inside.shape)]
    gaps = zip(axes, study.index_of(position), study.encoding.grid.spacing, strict=True)
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
    weight = np.exp((scores[near] - scores[layer]) / SNIPPET_TEMPERATURE)  # a softmax, but for its sum
    return float((weight * near).sum() / weight.sum())
