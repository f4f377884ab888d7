"""The contract between the model and everybody else: what a reading consists of.

Frozen dataclasses only; no computation, no file formats, no DICOM objects. Positions are
patient coordinates in the DICOM patient coordinate system (LPS, mm; PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt

Status = Literal["present", "absent", "undetermined"]
PointLPS = tuple[float, float, float]


def point_lps(values: npt.NDArray[np.floating]) -> PointLPS:
    """Three numbers of an array as a position, LPS mm."""
    x, y, z = values
    return float(x), float(y), float(z)


@dataclass(frozen=True)
class ModelIdentity:
    """Which model read: its name, version and the SHA-256 of its checkpoint's tensors and config."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True)
class OrganDrawing:
    """Who drew organs in the place of the model's own head.

    Attributes
    ----------
    model: its name, its version, and the SHA-256 of its weights.
    source: who made it.
    organs: names of the reading organs that it can draw; all others the reading's model drew.
    """

    model: ModelIdentity
    source: str
    organs: tuple[str, ...]


@dataclass(frozen=True)
class OrganReading:
    """One reading organ.

    Attributes
    ----------
    name: name of the reading organ (`core_model.anatomy`).
    label: its value in `Reading.organ_mask`, 1..36.
    present: whether the organ was found in the field of view.
    volume_ml: volume inside the scan, millilitres (0.0 where absent).
    truncated: True if the organ touches the first or last slice, so that it may be cut off.
    """

    name: str
    label: int
    present: bool
    volume_ml: float
    truncated: bool


@dataclass(frozen=True)
class Finding:
    """One abnormality that was searched for in one organ.

    Attributes
    ----------
    organ, abnormality: names in the organ table and the abnormality dictionary.
    probability: probability that the abnormality is present, 0..1; None where undetermined
        because the organ is not in the field of view.
    status: present, absent, or undetermined (organ not in view, or score between thresholds).
    position_lps_mm: where the evidence is strongest, or None where the organ is not in view.
    """

    organ: str
    abnormality: str
    probability: float | None
    status: Status
    position_lps_mm: PointLPS | None


@dataclass(frozen=True)
class Lesion:
    """One connected lesion of a tumour type.

    Attributes
    ----------
    label: its value in `Reading.lesion_mask` and its segment number in the lesion SEG, from 1.
    organ, type: reading organ, and name of the (tumour) abnormality.
    probability: detection score, 0..1.
    volume_ml: millilitres.
    long_axis_mm: largest in-slice diameter (RECIST 1.1 long axis), on the slice where it is largest.
    short_axis_mm: largest diameter perpendicular to it on the same slice.
    mean_hu: mean of the CT inside the mask, Hounsfield units.
    centroid_lps_mm: centre of gravity.
    """

    label: int
    organ: str
    type: str
    probability: float
    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float
    mean_hu: float
    centroid_lps_mm: PointLPS


@dataclass(frozen=True)
class SliceReference:
    """One slice of the series that was read, in the order of the volume's first axis.

    Attributes
    ----------
    position_lps_mm: a point of the slice.
    sop_instance_uid: None where the source was not DICOM (NIfTI).
    normal_lps: (unit) normal of the slice, where the volume was resampled from slices that are
        not its planes; None where slice k is plane k of the volume.
    """

    position_lps_mm: PointLPS
    sop_instance_uid: str | None
    normal_lps: PointLPS | None = None


@dataclass(frozen=True)
class KnownPlace:
    """Where an abnormality of the dictionary most likely is, if it is there at all.

    Attributes
    ----------
    abnormality: name in the dictionary.
    position_lps_mm: LPS.
    score: 0..1; how much of the abnormality is seen there. Compares within one abnormality of one study.
    diameter_mm: of the sphere that has the volume of what is seen; None where it is no separate thing.
    """

    abnormality: str
    position_lps_mm: PointLPS
    score: float
    diameter_mm: float | None = None


@dataclass(frozen=True)
class StudyEncoding:
    """Everything that is kept of a volume to answer text queries without the image or a GPU.

    Attributes
    ----------
    global_feature: (E,) float32, unit length; to compare with `Reader.embed_report`.
    organ_features: (36, E) float32, unit length; rows of absent organs are zero.
    organ_present: (36,) bool.
    slab_features: (S, E) float32, unit length; one per axial slab (grid layer) of the canonical grid.
    slab_centres_mm: (S, 3) LPS position of the middle of each slab (body centre in plane).
    grid: Volume of (d, h, w) with E channels flattened away: `grid_features` on its geometry.
    grid_features: (d, h, w, E) float16, unit length; zero outside the body.
    grid_organs: (d, h, w) uint8, reading organ label of each grid cell (0 = none).
    slices: the slices of the source series.
    model: which model made it.
    series_instance_uid: of the source, or None (NIfTI).
    known_places: what the masks show of the dictionary, by abnormality, the likeliest first.
    """

    global_feature: npt.NDArray[np.float32]
    organ_features: npt.NDArray[np.float32]
    organ_present: npt.NDArray[np.bool_]
    slab_features: npt.NDArray[np.float32]
    slab_centres_mm: npt.NDArray[np.float32]
    grid: hd.VolumeGeometry
    grid_features: npt.NDArray[np.float16]
    grid_organs: npt.NDArray[np.uint8]
    slices: tuple[SliceReference, ...]
    model: ModelIdentity
    series_instance_uid: str | None = None
    known_places: tuple[KnownPlace, ...] = ()


@dataclass(frozen=True)
class Localization:
    """Where a text is found in one study.

    Attributes
    ----------
    text: the query.
    position_lps_mm: best position.
    slice: the source slice nearest to it.
    slice_index: index of that slice along the volume's first axis.
    score: cosine similarity of the best grid cell with the text, -1..1; of the best slab where the
        model has slab projectors.
    organ: reading organ at or nearest to the position.
    slab_scores: (S,) cosine similarity per slab, in slab order.
    """

    text: str
    position_lps_mm: PointLPS
    slice: SliceReference
    slice_index: int
    score: float
    organ: str
    slab_scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """One of several places where a text may be in one study.

    Attributes
    ----------
    rank: 1 for the best.
    found: the place as `Localization`.
    slab_lps_mm: the two ends of the axial slab (grid layer) along its normal, through the position.
    """

    rank: int
    found: Localization
    slab_lps_mm: tuple[PointLPS, PointLPS]


@dataclass(frozen=True)
class Reading:
    """What the model says about one volume.

    Attributes
    ----------
    organs: one entry per reading organ, in label order.
    findings: one entry per abnormality of the dictionary, in table order.
    lesions: in label order, largest probability first.
    organ_mask: uint8 `highdicom.Volume` on the *input* volume's geometry, values = organ labels.
    lesion_mask: uint8 `highdicom.Volume` on the *input* volume's geometry, values = lesion labels.
    encoding: for later text queries.
    model: which model read.
    seconds: duration of each stage by name.
    device: e.g. ``"cpu (bf16)"`` or ``"cuda:0 NVIDIA H200"``.
    organs_by: who drew the organs, where it was not the model alone.
    """

    organs: tuple[OrganReading, ...]
    findings: tuple[Finding, ...]
    lesions: tuple[Lesion, ...]
    organ_mask: hd.Volume
    lesion_mask: hd.Volume
    encoding: StudyEncoding
    model: ModelIdentity
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    organs_by: OrganDrawing | None = None
