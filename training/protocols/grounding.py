"""Sentences in space: error along the axis, and masks against masks, as ReXrank and RadFinder score them.

Pure functions of positions and masks of one sentence; what is read off a volume is `grounded`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from training.judging import dice_of

Bools = npt.NDArray[np.bool_]
HIT = 0.1  # ReXrank: global Dice from which a finding is hit
HIT_VOXTELL = 0.05  # VoxTell's HIT5%
INSTANCE = 0.2  # ReXrank: Dice from which a predicted instance is a true one
POSITION_MM = 12.0  # RadFinder: one depth position
NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # instances are 26-connected components: our reading


@dataclass(frozen=True)
class AxialTruth:
    """Where along the slice axis a mask is, in mm from the lowest slice.

    Attributes
    ----------
    centre: of its voxels.
    low, high: its lowest and highest slice.
    length: from the lowest to the highest slice of the scan.
    """

    centre: float
    low: float
    high: float
    length: float

    def error(self, found: float) -> float:
        """Distance of a position from the centre in mm: the protocol's error."""
        return abs(found - self.centre)

    def outside(self, found: float) -> float:
        """Distance from the nearest slice that shows the finding in mm; 0 on those."""
        return max(self.low - found, found - self.high, 0.0)

    def positions(self, found: float) -> int:
        """Error in whole positions of 12 mm from the lowest slice, RadFinder's unit."""
        return abs(int(found // POSITION_MM) - int(self.centre // POSITION_MM))


def axial_truth(mask: Bools, spacing_mm: float) -> AxialTruth:
    """Of a mask (slices, rows, columns).

    Raises
    ------
    ValueError: if the mask is empty.
    """
    per_slice = mask.sum((1, 2))
    where = np.flatnonzero(per_slice)
    if not len(where):
        raise ValueError("mask is empty; a finding without a voxel has no position")
    centre = float((np.arange(len(mask)) * per_slice).sum() / per_slice.sum())
    ends = where[0] * spacing_mm, where[-1] * spacing_mm
    return AxialTruth(centre * spacing_mm, float(ends[0]), float(ends[1]), (len(mask) - 1) * spacing_mm)


@dataclass(frozen=True)
class Overlap:
    """A predicted mask of one finding against its true one.

    Attributes
    ----------
    dice: of both whole masks (ReXrank: global Dice).
    found: instances of the true mask with a predicted partner of Dice >= 0.2.
    predicted, planted: instances of the predicted and of the true mask.
    instance_dice: mean over the instances of the true mask of the Dice with their partner, 0 without one.
    """

    dice: float
    found: int
    predicted: int
    planted: int
    instance_dice: float


def overlap(predicted: Bools, truth: Bools) -> Overlap:
    """Compare two masks of one grid, (slices, rows, columns).

    Instances are matched one to one so that the sum of Dice is greatest; a pair below 0.2 is none. Matching
    and connectivity are our reading: ReXrank's page names the limits alone.

    Raises
    ------
    ValueError: if the masks differ in shape.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted has shape {predicted.shape}, truth {truth.shape}; one grid is needed")
    ours, n_ours = ndimage.label(predicted, NEIGHBOURS)
    theirs, n_theirs = ndimage.label(truth, NEIGHBOURS)
    sizes = np.bincount(ours.ravel(), minlength=n_ours + 1)[1:], np.bincount(theirs.ravel(), minlength=1)[1:]
    both = predicted & truth
    shared = np.zeros((n_ours, n_theirs))
    np.add.at(shared, (ours[both] - 1, theirs[both] - 1), 1)
    table = 2 * shared / np.maximum(sizes[0][:, None] + sizes[1][None], 1)
    table[table < INSTANCE] = 0
    # Only what touches can match: a prediction of many specks stays cheap.
    touching = np.flatnonzero(table.any(1))
    rows, columns = linear_sum_assignment(-table[touching]) if len(touching) else ([], [])
    matched = table[touching][rows, columns] if len(touching) else np.zeros(0)
    return Overlap(
        dice=dice_of(int(both.sum()), int(predicted.sum()), int(truth.sum())),
        found=int((matched >= INSTANCE).sum()),
        predicted=n_ours,
        planted=n_theirs,
        instance_dice=float(matched.sum() / n_theirs) if n_theirs else 0.0,
    )
