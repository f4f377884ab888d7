"""A study as some of its places: what a search over many studies looks at instead of all cells.

An encoding has some ten thousand cells; ten thousand studies of them fit into no memory. Chosen are
places as unlike one another as possible (farthest-point traversal), so that the odd one, which a
query looks for, is always among them. Not the search itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core_model.localization import Cell, Searchable

# 16 KiB a study at 64 half-precision numbers each, 160 MiB for ten thousand studies. Our choice;
# `benchmarks.archive_query --encoding FILE` measures what a stored encoding loses by it.
MOST = 128
SAME = 1e-3  # distance of features under which two places are one


@dataclass(frozen=True)
class Landmarks:
    """Places of one study.

    Attributes
    ----------
    vectors: (M, E) float32; their product with a text's embedding scores the place as
        `core_model.ranking.ranked_places` ranks it.
    cells: M cells of the encoding's grid.
    """

    vectors: npt.NDArray[np.float32]
    cells: tuple[Cell, ...]


def landmarks(study: Searchable, *, by_slab: bool = False, most: int = MOST) -> Landmarks:
    """Choose up to `most` places of a study.

    Parameters
    ----------
    by_slab: slabs decide on the axial position (`core_model.ranking.ranked_places`): every slab
        is a place then, at the cell of the body nearest to its middle.

    Raises
    ------
    ValueError: if the encoding shows no body.
    """
    if not study.inside.any():
        raise ValueError("encoding shows no body; read the study again")
    if by_slab:
        layers = np.flatnonzero(study.body_slabs)
        features = study.encoding.slab_features[layers].astype(np.float32)
        return Landmarks(features, tuple(_middle(study, int(layer)) for layer in layers))
    vectors = study.neighbourhoods()
    chosen = _farthest(vectors, most)
    cells = np.argwhere(study.inside)[chosen]
    return Landmarks(vectors[chosen], tuple((int(z), int(y), int(x)) for z, y, x in cells))


def _farthest(vectors: npt.NDArray[np.float32], most: int) -> list[int]:
    """Indices of vectors as far from one another as can be, first the one farthest from their mean.

    Every vector is at most as far from the nearest chosen one as the last chosen was.
    """
    squares = (vectors**2).sum(1)

    def squared_distance(to: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        distance: npt.NDArray[np.float32] = squares - 2 * (vectors @ to) + (to**2).sum()
        return distance

    chosen = [int(squared_distance(vectors.mean(0)).argmax())]
    nearest = squared_distance(vectors[chosen[0]])
    while len(chosen) < min(most, len(vectors)):
        following = int(nearest.argmax())
        if nearest[following] < SAME**2:
            break
        chosen.append(following)
        np.minimum(nearest, squared_distance(vectors[following]), out=nearest)
    return chosen


def _middle(study: Searchable, layer: int) -> Cell:
    cells = np.argwhere(study.inside[layer])
    row, column = cells[((cells - cells.mean(0)) ** 2).sum(1).argmin()]
    return layer, int(row), int(column)
