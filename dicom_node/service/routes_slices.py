"""Paths of the pictures that the page in the browser shows: slices, outlines, heat maps, as PNG."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response

from core_model.anatomy import organs as reading_organs
from dicom_node.results.colours import LESION, RGB, organ_colour
from dicom_node.service import catalogue
from dicom_node.service.errors import ApiError, described
from dicom_node.service.models import Asked, Outline, Outlines, SliceIndex, SliceStack, Uid
from dicom_node.service.parts import Parts, Shared
from dicom_node.service.routes_queries import searchable
from dicom_node.service.segments import Segment, lesion_segments, organ_segments
from dicom_node.service.slice_pictures import WINDOWS, heat_png, outlines_png, slice_png
from dicom_node.service.slice_source import Planes, Stack

router = APIRouter()
Window = Literal["soft", "lung", "bone"]
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}


class PngResponse(Response):
    """The bytes of one picture."""

    media_type = "image/png"


def _png(content: bytes) -> PngResponse:
    """The answer; it shows a patient, so that no browser may keep it on disk."""
    return PngResponse(content, headers={"Cache-Control": "no-store"})


@router.get("/studies/{study_uid}/slices", responses=described(401, 404, 409, 422))
def slices(parts: Shared, study_uid: Uid) -> SliceStack:
    """How many slices the series has that was read, and how their pictures lie in the patient."""
    stack = parts.slices.stack(catalogue.held(parts.archive, study_uid))
    layout = stack.layout
    return SliceStack(
        slices=stack.shape[0],
        height=layout.height,
        width=layout.width,
        pixel_mm=round(layout.pixel_mm, 6),
        letters=list(layout.letters),
        to_lps=layout.to_lps.tolist(),
        heights_mm=stack.heights_mm,
        head_up=1 if layout.head_up > 0 else -1,
    )


@router.get("/studies/{study_uid}/outlines", responses=described(401, 404, 409, 422))
def outlines(parts: Shared, study_uid: Uid) -> Outlines:
    """What the reading drew, in which colour, and on which slices."""
    held = catalogue.held(parts.archive, study_uid)
    organs, lesions = (parts.slices.labels(held, kind) for kind in ("organs", "lesions"))
    found = lesion_segments(parts.slices.document(held)["lesions"])
    return Outlines(
        organs_kept=organs.kept,
        organs=_shown(organ_segments(), organs),
        lesions=_shown(found, lesions),
    )


@router.get(
    "/studies/{study_uid}/slices/{slice_index}/image",
    response_class=PngResponse,
    responses={**_PNG, **described(401, 404, 409, 422)},
)
def image(parts: Shared, study_uid: Uid, slice_index: SliceIndex, window: Window = "soft") -> PngResponse:
    """One slice in grey: the patient's right on the left, anterior up, square pixels."""
    held, stack = _one(parts, study_uid, slice_index)
    hu = parts.slices.hounsfield(held, slice_index)
    return _png(slice_png(hu, stack.layout, WINDOWS[window]))


@router.get(
    "/studies/{study_uid}/slices/{slice_index}/outlines",
    response_class=PngResponse,
    responses={**_PNG, **described(401, 404, 409, 422)},
)
def slice_outlines(
    parts: Shared, study_uid: Uid, slice_index: SliceIndex, organs: bool = True, lesions: bool = True
) -> PngResponse:
    """The outlines of organs and lesions on one slice, to be laid over its image."""
    held, stack = _one(parts, study_uid, slice_index)
    drawn = outlines_png(
        stack.layout,
        parts.slices.labels(held, "organs").plane(slice_index) if organs else None,
        parts.slices.labels(held, "lesions").plane(slice_index) if lesions else None,
        {organ.label: organ_colour(organ.name) for organ in reading_organs()},
        LESION,
    )
    return _png(drawn)


@router.post(
    "/studies/{study_uid}/slices/{slice_index}/heatmap",
    response_class=PngResponse,
    responses={**_PNG, **described(400, 401, 404, 409, 413, 422)},
)
def slice_heatmap(parts: Shared, study_uid: Uid, slice_index: SliceIndex, asked: Asked) -> PngResponse:
    """How well the places of one slice agree with a text, to be stretched over its image."""
    held, stack = _one(parts, study_uid, slice_index)
    study, answerer = searchable(parts, study_uid)
    question = answerer.texts.get(asked.text)
    share = parts.slices.heat(held, study, question, by_slab=answerer.reader.by_slab)
    return _png(heat_png(share, study.encoding.grid, stack.layout_at(slice_index), slice_index))


def _one(parts: Parts, study_uid: str, slice_index: int) -> tuple[catalogue.Held, Stack]:
    """The study of a slice.

    Raises
    ------
    ApiError: 404, the study or its slice is not there; 409, there is nothing to show.
    """
    held = catalogue.held(parts.archive, study_uid)
    stack = parts.slices.stack(held)
    if slice_index >= len(held.slices):
        count = len(held.slices)
        raise ApiError(404, "the study has no such slice", f"it has {count}, counted from 0 to {count - 1}")
    return held, stack


def _shown(segments: list[Segment], planes: Planes) -> list[Outline]:
    return [
        Outline(
            name=segment.id,
            display=segment.name,
            colour=_hex(segment.colour),
            slices=planes.slices_of[segment.label],
        )
        for segment in segments
        if segment.label in planes.slices_of
    ]


def _hex(colour: RGB) -> str:
    """The colour as CSS writes it.

    >>> _hex((255, 40, 0))
    '#ff2800'
    """
    return "#" + "".join(f"{value:02x}" for value in colour)
