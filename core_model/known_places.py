"""Where each abnormality of the dictionary most likely is: what is kept of masks for later questions.

A question comes when image and masks are gone. For every abnormality some places are kept, whether it
was reported or not: who asks for a lesion knows, or wants to see, what speaks for one. Our choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core_model.abnormality import Abnormality
from core_model.detection import Seen
from core_model.lesions import Component
from core_model.reading import KnownPlace, point_lps
from core_model.volume import near_box

MOST = 8  # of one abnormality; by development patients, our choice
APART_MM = 30.0  # as places of a text (`core_model.ranking`)
LEAST = 0.01  # probability of a peak that counts
PIECE = 0.3  # of a peak, down to which the second look's mask is one piece; by development patients
PIECE_MM = 100.0  # how far from its peak a piece is followed


def known_places(
    seen: Seen, searched: Sequence[Abnormality], geometry: hd.VolumeGeometry, again: Collection[str] = ()
) -> tuple[KnownPlace, ...]:
    """The likeliest places of every abnormality; no peak is nearer than `APART_MM` to a likelier place of it.

    Of what the second look draws they are the pieces of its mask, by their peaks. Of other tumours the judged
    candidates come first, by the judge's score; then, and for all else, peaks of the mask. All lie inside the
    organ's reach.

    Parameters
    ----------
    seen: of the detector that searches `searched`, in this order.
    geometry: of the masks.
    again: names of the abnormalities that the second look draws.

    Returns
    -------
    Up to `MOST` per abnormality, in the order of `searched`, the likeliest first.
    """
    places: list[KnownPlace] = []
    for i, entry in enumerate(searched):
        mask, spacing = seen.masks[i].numpy(), np.array(geometry.spacing)  # (D, H, W)
        peaks = _pieces(mask, spacing) if entry.name in again else _best(mask, seen.candidates[i], spacing)
        for peak in peaks:
            point = geometry.map_indices_to_reference(peak.index[None])[0]
            diameter = sphere_diameter(peak.voxels * float(np.prod(geometry.spacing)))
            places.append(KnownPlace(entry.name, point_lps(point), peak.score, diameter or None))
    return tuple(places)


@dataclass(frozen=True)
class _Peak:
    """A place in voxels; `voxels` of the piece that it is the middle of, 0 where it is of none."""

    index: npt.NDArray[np.float64]
    score: float
    voxels: int


def sphere_diameter(volume: float) -> float:
    """Diameter of a sphere, mm, of its volume in mm3."""
    return float((6.0 * volume / np.pi) ** (1 / 3))


def _best(
    mask: npt.NDArray[np.float32], found: Sequence[Component], spacing: npt.NDArray[np.float64]
) -> Iterator[_Peak]:
    """Up to `MOST` places: those of candidates, then peaks."""
    free = mask.copy()
    for _ in range(MOST):
        candidate = next((c for c in found if (free[c.mask] > 0).any()), None)
        if candidate is not None:
            peak = _Peak(np.argwhere(candidate.mask).mean(0), candidate.score, candidate.voxels)
            free[candidate.mask] = 0.0
            found = [c for c in found if c is not candidate]
        else:
            strongest = np.unravel_index(int(free.argmax()), free.shape)
            peak = _Peak(np.array(strongest, dtype=np.float64), float(free[strongest]), 0)
            if peak.score < LEAST:
                return
        yield peak
        _empty(free, peak.index, spacing)


def _pieces(mask: npt.NDArray[np.float32], spacing: npt.NDArray[np.float64]) -> Iterator[_Peak]:
    """Up to `MOST` places: the middles of what is drawn round the peaks."""
    free = mask.copy()
    for _ in range(MOST):
        peak = np.array(np.unravel_index(int(free.argmax()), free.shape))
        score = float(free[tuple(peak)])
        if score < LEAST:
            return
        box = near_box(peak, PIECE_MM / spacing, free.shape)
        low = [side.start for side in box]
        parts, _ = ndimage.label(free[box] >= PIECE * score)
        own = parts == parts[tuple(peak - low)]
        middle = np.argwhere(own).mean(0) + low
        free[box][own] = 0.0
        _empty(free, middle, spacing)
        yield _Peak(middle, score, int(own.sum()))


def _empty(
    free: npt.NDArray[np.float32], centre: npt.NDArray[np.float64], spacing: npt.NDArray[np.float64]
) -> None:
    """Zero round `centre`, in voxels, up to `APART_MM`."""
    box = near_box(centre, APART_MM / spacing, free.shape)
    axes = np.ogrid[box]
    gap = sum(((a - c) * s) ** 2 for a, c, s in zip(axes, centre, spacing, strict=True))
    free[box][gap < APART_MM**2] = 0.0
