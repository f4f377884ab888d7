"""What label maps do not speak of: organs that a vocabulary has no class for may lie where it says "none".

Learnt from as background, such a map would unteach those organs: the pulmonary artery and the face, which
TotalSegmentator's version 2 has no class for. How far from what lies beside them they may be is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

# Reading organs that a TotalSegmentator v2 map has no class for: where they are, it says nothing.
V2_SILENT = frozenset({"pulmonary_artery", "face"})
BESIDE = {"pulmonary_artery": "heart", "face": "brain"}  # reading organ that each lies beside
REACH_MM = 40.0


def within_reach(near: npt.NDArray[np.bool_], spacing: float | Sequence[float]) -> npt.NDArray[np.bool_]:
    """Where an organ may be that lies beside another: within `REACH_MM` of it.

    Parameters
    ----------
    near: (slices, rows, columns), the other organ.
    spacing: mm.
    """
    if not near.any():
        return np.zeros_like(near)
    return np.asarray(distance_transform_edt(~near, sampling=spacing) <= REACH_MM)


__all__ = ["BESIDE", "REACH_MM", "V2_SILENT", "within_reach"]
