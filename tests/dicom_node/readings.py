"""Readings made by hand, with ellipsoids for organs and lesions: input for the result tests.

The numbers of a lesion are measured on its ellipsoid, not by the code under test.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from core_model.reading import (
    Finding,
    Lesion,
    ModelIdentity,
    OrganReading,
    Reading,
    SliceReference,
    StudyEncoding,
)

MODEL = ModelIdentity("sightline-test", "0.0.1", "ab" * 32)
KEY = "0123456789abcdef" * 4

# Centre and half axes as fractions of the volume: slices, rows, columns.
ORGANS = {
    "liver": ((0.5, 0.45, 0.30), (0.40, 0.25, 0.20)),
    "spleen": ((0.6, 0.55, 0.80), (0.20, 0.15, 0.08)),
    "kidneys": ((0.3, 0.70, 0.60), (0.22, 0.08, 0.07)),
    "aorta": ((0.5, 0.62, 0.50), (0.60, 0.05, 0.04)),
}
LESIONS = (
    ("liver", "liver_tumour", (0.55, 0.42, 0.28), (0.20, 0.10, 0.08), 0.91),
    ("kidneys", "renal_tumour", (0.30, 0.70, 0.60), (0.14, 0.05, 0.05), 0.64),
)


def ellipsoid(
    shape: tuple[int, ...], centre: tuple[float, ...], half_axes: tuple[float, ...]
) -> npt.NDArray[np.bool_]:
    """Boolean array, True inside; centre and half axes as fractions of `shape`."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = sum(
        ((axis / n - c) / h) ** 2 for axis, n, c, h in zip(axes, shape, centre, half_axes, strict=True)
    )
    return np.asarray(distance <= 1)


def make_reading(volume: hd.Volume, slices: list[Dataset] | None = None, *, lesions: bool = True) -> Reading:
    """A reading of `volume` with four organs, and two lesions if `lesions`.

    Findings: liver tumour and renal tumour present (or absent), pancreas not in view and so
    undetermined, liver cyst undetermined by score, everything else absent.
    """
    shape = volume.spatial_shape
    organ_mask = np.zeros(shape, np.uint8)
    for name, (centre, half_axes) in ORGANS.items():
        organ_mask[ellipsoid(shape, centre, half_axes)] = organ(name).label
    lesion_mask = np.zeros(shape, np.uint8)
    found = []
    for label, (name, kind, centre, half_axes, probability) in enumerate(LESIONS if lesions else (), 1):
        inside = ellipsoid(shape, centre, half_axes)
        lesion_mask[inside] = label
        found.append(_lesion(volume, inside, label, (name, kind, probability)))
    return Reading(
        organs=tuple(_organ(volume, organ_mask, entry.name, entry.label) for entry in organs()),
        findings=tuple(_finding(entry.organ, entry.name, volume, found) for entry in abnormalities()),
        lesions=tuple(found),
        organ_mask=volume.with_array(organ_mask),
        lesion_mask=volume.with_array(lesion_mask),
        encoding=_encoding(volume, slices),
        model=MODEL,
        seconds={"encode": 1.25, "lesions": 0.5},
        device="cpu (float32)",
    )


def _voxel_ml(volume: hd.Volume) -> float:
    return float(np.prod(volume.spacing)) / 1000


def _centroid(volume: hd.Volume, inside: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    x, y, z = volume.map_indices_to_reference(np.argwhere(inside).mean(axis=0)[None])[0]
    return float(x), float(y), float(z)


def _lesion(
    volume: hd.Volume, inside: npt.NDArray[np.bool_], label: int, what: tuple[str, str, float]
) -> Lesion:
    name, kind, probability = what
    return Lesion(
        label=label,
        organ=name,
        type=kind,
        probability=probability,
        volume_ml=float(inside.sum()) * _voxel_ml(volume),
        long_axis_mm=14.5 + label,
        short_axis_mm=9.25 + label,
        mean_hu=float(volume.array[inside].mean()),
        centroid_lps_mm=_centroid(volume, inside),
    )


def _organ(volume: hd.Volume, mask: npt.NDArray[np.uint8], name: str, label: int) -> OrganReading:
    inside = mask == label
    return OrganReading(
        name=name,
        label=label,
        present=bool(inside.any()),
        volume_ml=float(inside.sum()) * _voxel_ml(volume),
        truncated=bool(inside[0].any() or inside[-1].any()),
    )


def _finding(name: str, kind: str, volume: hd.Volume, lesions: list[Lesion]) -> Finding:
    if name not in ORGANS:
        return Finding(name, kind, None, "undetermined", None)
    for lesion in lesions:
        if lesion.type == kind:
            return Finding(name, kind, lesion.probability, "present", lesion.centroid_lps_mm)
    inside = ellipsoid(volume.spatial_shape, *ORGANS[name])
    if kind == "liver_cyst":
        return Finding(name, kind, 0.48, "undetermined", _centroid(volume, inside))
    return Finding(name, kind, 0.04, "absent", _centroid(volume, inside))


def _encoding(volume: hd.Volume, slices: list[Dataset] | None) -> StudyEncoding:
    n = volume.spatial_shape[0]
    corners = volume.map_indices_to_reference(np.array([[k, 0, 0] for k in range(n)]))
    uids = [str(s.SOPInstanceUID) for s in slices] if slices is not None else [None] * n
    unit = np.zeros(4, np.float32)
    unit[0] = 1
    return StudyEncoding(
        global_feature=unit,
        organ_features=np.zeros((36, 4), np.float32),
        organ_present=np.zeros(36, bool),
        slab_features=np.tile(unit, (2, 1)),
        slab_centres_mm=np.zeros((2, 3), np.float32),
        grid=volume.get_geometry(),
        grid_features=np.zeros((1, 1, 1, 4), np.float16),
        grid_organs=np.zeros((1, 1, 1), np.uint8),
        slices=tuple(
            SliceReference((float(x), float(y), float(z)), uid)
            for (x, y, z), uid in zip(corners, uids, strict=True)
        ),
        model=MODEL,
        series_instance_uid=str(slices[0].SeriesInstanceUID) if slices is not None else None,
    )
