"""What a mask of organs says of each: whether it is there, how large it is, whether the scan cuts it off.

Not who drew it: `core_model.reader` and `core_model.organ_segmenter` know.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np

from core_model.anatomy import organs
from core_model.reading import OrganReading


def readings_of(mask: hd.Volume, least_ml: float) -> tuple[OrganReading, ...]:
    """One reading per reading organ, in the order of their labels.

    Parameters
    ----------
    mask: uint8 reading organ labels; the first axis is the slice axis.
    least_ml: volume from which an organ counts as present.
    """
    # Plane by plane: at once numpy would make a whole scan's labels eight times as wide.
    counts = np.zeros(len(organs()) + 1, dtype=np.int64)
    for plane in mask.array:
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    edge = set(np.unique(mask.array[[0, -1]]).tolist())
    voxel_ml = float(np.prod(mask.spacing)) / 1000
    readings = []
    for o in organs():
        volume_ml = float(counts[o.label]) * voxel_ml
        present = volume_ml >= least_ml
        readings.append(
            OrganReading(
                name=o.name,
                label=o.label,
                present=present,
                volume_ml=volume_ml if present else 0.0,
                truncated=present and o.label in edge,
            )
        )
    return tuple(readings)
