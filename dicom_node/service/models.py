"""The JSON that goes in and out of the service, as pydantic models: what OpenAPI publishes.

No behaviour. Positions are LPS in mm, times seconds since the epoch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from core_model.reading import Place, PointLPS

UID_PATTERN = r"^[0-9]+(\.[0-9]+)*$"
Uid = Annotated[str, Path(max_length=64, pattern=UID_PATTERN, description="a DICOM UID (PS3.5 9.1)")]
SliceIndex = Annotated[int, Path(ge=0, le=100_000, description="counts from 0, as `slice_index` of a hit")]
JobId = Annotated[str, Path(max_length=32, pattern="^[0-9a-f]{32}$", description="from the answer 202")]


def _sayable(text: str) -> str:
    """Refuse what no reader can be asked: blank text, and halves of UTF-16 pairs (valid in JSON)."""
    if not text.strip():
        raise ValueError("is blank; say what to look for")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate)") from None
    return text


Text = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_sayable)]


class Asked(BaseModel):
    """A text, in a body and never in a URL: URLs land in logs."""

    model_config = ConfigDict(extra="forbid")
    text: Text


class AskedPlaces(Asked):
    """A text to be found in one study."""

    k: Annotated[int, Field(ge=1, le=20, strict=True)] = 5


class AskedStudies(Asked):
    """A text to be found in all studies."""

    k: Annotated[int, Field(ge=1, le=50, strict=True)] = 10


class Model(BaseModel):
    """Which model answers."""

    name: str
    version: str
    digest: str


class Health(BaseModel):
    """Who is there, for a client to decide whether it can talk to it."""

    service: Literal["sightline"] = "sightline"
    version: str
    api: Literal[1] = 1
    model: Model
    research_only: Literal[True] = True


class DeliveryState(BaseModel):
    """How far the results of a reading have come at one destination."""

    destination: str
    state: Literal["pending", "delivered", "dead"]
    attempts: int
    reason: str | None


class Study(BaseModel):
    """A study that the node knows. `generation` counts its complete states from 1."""

    study_instance_uid: str
    series_instance_uid: str | None
    generation: int | None
    state: Literal[
        "receiving", "complete", "queued", "read", "refused", "unchanged", "failed", "set aside", "removed"
    ]
    reason: str | None
    images: int
    last_image_at: float
    read_at: float | None
    deliveries: list[DeliveryState]


class Studies(BaseModel):
    """One page of the worklist, newest first."""

    total: int
    studies: list[Study]


class Hit(BaseModel):
    """One place. `slab_lps_mm`: the ends of the axial slab along its normal, through the position."""

    rank: int
    position_lps_mm: PointLPS
    score: float
    organ: str
    slice_index: int
    sop_instance_uid: str | None
    slab_lps_mm: tuple[PointLPS, PointLPS]

    @classmethod
    def of(cls, place: Place) -> Hit:
        """From a place in a study."""
        low, high = place.slab_lps_mm
        return cls(
            rank=place.rank,
            position_lps_mm=_rounded(place.found.position_lps_mm),
            score=round(place.found.score, 6),
            organ=place.found.organ,
            slice_index=place.found.slice_index,
            sop_instance_uid=place.found.slice.sop_instance_uid,
            slab_lps_mm=(_rounded(low), _rounded(high)),
        )


class Hits(BaseModel):
    """Where a text is in one study, best first."""

    text: str
    model: Model
    hits: list[Hit]


class StudyHit(BaseModel):
    """One study of many, and where in it."""

    study_instance_uid: str
    series_instance_uid: str | None
    score: float
    hit: Hit


class StudyHits(BaseModel):
    """In which studies a text is, best first; `searched`: how many were looked at, `by`: by what."""

    text: str
    model: Model
    searched: int
    by: Literal["findings", "words"]
    hits: list[StudyHit]


class SliceStack(BaseModel):
    """How the slices of a study are shown.

    `to_lps`: (4, 4), rows first, (slice, y, x) of a picture -> LPS mm; whole numbers are centres of pixels.
    Where slices are spaced unevenly, y and x hold, and `heights_mm` says where each slice lies.
    `heights_mm`: LPS z of the middle of each slice.
    `letters`: patient directions at the left, right, top and bottom edge. `head_up`: 1 where the next slice
    lies nearer to the head, else -1.
    """

    slices: int
    height: int
    width: int
    pixel_mm: float
    letters: Annotated[list[str], Field(min_length=4, max_length=4)]
    to_lps: list[list[float]]
    heights_mm: list[float]
    head_up: Literal[1, -1]


class Outline(BaseModel):
    """An organ or a lesion that is drawn over the slices named, counted from 0."""

    name: str
    display: str
    colour: str
    slices: list[int]


class Outlines(BaseModel):
    """What the reading drew; `organs_kept` is false where the node keeps no organ masks."""

    organs_kept: bool
    organs: list[Outline]
    lesions: list[Outline]


class Job(BaseModel):
    """Work that takes longer than an answer may."""

    id: str
    kind: Literal["upload", "mask"]
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    progress: float
    stage: str
    error: str | None
    study: str | None


class ReadingDocument(BaseModel):
    """``reading.json`` as the README describes it."""

    model_config = ConfigDict(extra="allow")
    schema_: Literal["sightline-reading/1"] = Field(alias="schema")
    organs: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    lesions: list[dict[str, Any]]


class Mark(BaseModel):
    """What the radiologist says of one finding; `finding_index` counts `findings` of the reading from 0."""

    model_config = ConfigDict(extra="forbid")
    finding_index: Annotated[int, Field(ge=0, le=10_000, strict=True)]
    verdict: Literal["accept", "reject"]


class Correction(BaseModel):
    """A radiologist's correction, beside the segmentation."""

    model_config = ConfigDict(extra="forbid")
    observer_name: Annotated[str, Field(min_length=1, max_length=64)]
    marks: Annotated[list[Mark], Field(max_length=1000)] = []
    comment: Annotated[str, Field(max_length=1000)] = ""


class Corrected(BaseModel):
    """Under which UIDs a correction is kept."""

    segmentation_sop_instance_uid: str | None
    report_sop_instance_uid: str


def _rounded(point: PointLPS) -> PointLPS:
    return round(point[0], 3), round(point[1], 3), round(point[2], 3)
