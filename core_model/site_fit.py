"""How well a place in a study fits the part of an organ that a text names (`core_model.stated_site`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core_model.localization import Searchable
from core_model.reading import PointLPS
from core_model.stated_site import Share, Site

SLACK = 0.3  # share of the organ's extent beyond the named part from which a place does not fit at all
BESIDE_MM = 10.0  # across the midline: on neither side
LEAST_CELLS = 8  # of an organ of which parts can be told
ENDS = (1.0, 99.0)  # percentiles between which an organ extends: single cells are drawn anywhere

Points = npt.NDArray[np.float64]


def site_misfit(study: Searchable, site: Site, label: int, position: PointLPS) -> float:
    """0 for a place in the named part of the organ, 1 far from it, or on the other side.

    0 as well where the study does not tell: it shows next to nothing of the organ, or not the end from which
    the part is counted.

    Parameters
    ----------
    label: of the reading organ.
    """
    encoding = study.encoding
    cells = np.argwhere(encoding.grid_organs == label)
    if len(cells) < LEAST_CELLS:
        return 0.0
    points = encoding.grid.map_indices_to_reference(cells.astype(float))  # (N, 3), LPS
    if site.side is not None:
        midline = _midline(study)
        towards = 1.0 if site.side == "left" else -1.0  # the first axis of LPS runs to the left
        if (position[0] - midline) * towards < -BESIDE_MM:
            return 1.0
        own = (points[:, 0] - midline) * towards > 0
        if own.sum() < LEAST_CELLS:
            return 0.0
        cells, points = cells[own], points[own]
    worst = 0.0
    if site.upward is not None and not _cut(cells[:, 0], encoding.grid.spatial_shape[0]):
        worst = max(worst, _outside(points[:, 2], position[2], site.upward))
    if site.leftward is not None:
        worst = max(worst, _outside(points[:, 0], position[0], site.leftward))
    return worst


def _midline(study: Searchable) -> float:
    """The body's middle from right to left, LPS."""
    inside = np.argwhere(study.inside)
    middle = study.encoding.grid.map_indices_to_reference(inside.mean(0, keepdims=True))
    return float(middle[0, 0])


def _cut(layers: npt.NDArray[np.int64], count: int) -> bool:
    """Whether an organ goes on above or below the scan."""
    return bool(layers.min() == 0 or layers.max() == count - 1)


def _outside(organ: Points, at: float, share: Share) -> float:
    low, high = np.percentile(organ, ENDS)
    own = (at - low) / max(high - low, 1e-6)
    return float(np.clip(max(share[0] - own, own - share[1]) / SLACK, 0.0, 1.0))
