"""How well places in a study fit the part of an organ that a text names (`core_model.stated_site`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core_model.localization import Searchable
from core_model.reading import PointLPS
from core_model.stated_site import Share, Site

SLACK = 0.3  # share of the organ's extent beyond the named part from which a place does not fit at all
BESIDE_MM = 10.0  # across the midline: on neither side
LEAST_CELLS = 8  # of an organ of which parts can be told
ENDS = (1.0, 99.0)  # percentiles between which an organ extends: single cells are drawn anywhere

_Extent = tuple[float, float]


@dataclass(frozen=True)
class SiteFit:
    """A named part of an organ in one study. Use `SiteFit.of`.

    Attributes
    ----------
    site: that is named.
    midline: of the body from right to left, LPS mm.
    upward, leftward: where the organ (its side) begins and ends, LPS mm; None where that is not asked or
        not to be told.
    """

    site: Site
    midline: float
    upward: _Extent | None = None
    leftward: _Extent | None = None

    @classmethod
    def of(cls, study: Searchable, site: Site, label: int) -> SiteFit | None:
        """Of an organ by its label; None where the study shows next to nothing of it.

        Heights are not told of an organ that goes on above or below the scan.
        """
        encoding = study.encoding
        cells = np.argwhere(encoding.grid_organs == label)
        if len(cells) < LEAST_CELLS:
            return None
        points = encoding.grid.map_indices_to_reference(cells.astype(float))  # (N, 3), LPS
        bare = cls(site, study.midline)
        if site.side is not None:
            own = (points[:, 0] - study.midline) * bare.towards > 0
            if own.sum() < LEAST_CELLS:
                return bare
            cells, points = cells[own], points[own]
        layers = cells[:, 0]
        cut = layers.min() == 0 or layers.max() == encoding.grid.spatial_shape[0] - 1
        return cls(
            site,
            study.midline,
            None if site.upward is None or cut else _extent(points[:, 2]),
            None if site.leftward is None else _extent(points[:, 0]),
        )

    @property
    def towards(self) -> float:
        """1 where the named side is the left, to which the first axis of LPS runs; else -1."""
        return 1.0 if self.site.side == "left" else -1.0

    def misfit(self, position: PointLPS) -> float:
        """0 for a place in the named part, 1 far from it, or on the other side."""
        if self.site.side is not None and (position[0] - self.midline) * self.towards < -BESIDE_MM:
            return 1.0
        return max(
            _outside(self.upward, position[2], self.site.upward),
            _outside(self.leftward, position[0], self.site.leftward),
        )


def _extent(along: npt.NDArray[np.float64]) -> _Extent:
    low, high = np.percentile(along, ENDS)
    return float(low), float(high)


def _outside(extent: _Extent | None, at: float, share: Share | None) -> float:
    if extent is None or share is None:
        return 0.0
    own = (at - extent[0]) / max(extent[1] - extent[0], 1e-6)
    return float(np.clip(max(share[0] - own, own - share[1]) / SLACK, 0.0, 1.0))
