"""Paths that ask one study: places, heat map, masks of the reading."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from core_model.localization import Searchable
from core_model.ranking import heat, ranked_places
from dicom_node.service import catalogue
from dicom_node.service.answering import Answerer
from dicom_node.service.errors import ApiError, described
from dicom_node.service.masks import Kind, stored_masks
from dicom_node.service.models import Asked, AskedPlaces, Hit, Hits, Uid
from dicom_node.service.nrrd_files import volume_nrrd
from dicom_node.service.parts import Parts, Shared
from dicom_node.service.routes_studies import model_of

router = APIRouter()
NRRD = "application/x-nrrd"
NRRD_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {NRRD: {"schema": {"type": "string", "format": "binary"}}}}
}


class NrrdResponse(Response):
    """The bytes of one NRRD file."""

    media_type = NRRD


def searchable(parts: Parts, study_uid: str) -> tuple[Searchable, Answerer]:
    """The encoding of a study, and the model that made it, which alone can be asked about it.

    Raises
    ------
    ApiError: 404 or 409, the study is not known, not read, or was read by a model that is gone.
    """
    study = parts.encodings.get(catalogue.results(parts.archive, study_uid))
    answerer = parts.answering.by(study.encoding.model)
    if not study.inside.any():
        raise ApiError(409, "the stored encoding of the study shows no body", "send the study again")
    return study, answerer


@router.post("/studies/{study_uid}/query", responses=described(400, 401, 404, 409, 413, 422))
def query(parts: Shared, study_uid: Uid, asked: AskedPlaces) -> Hits:
    """The best places of a text in a study, best first, none near a better one."""
    study, answerer = searchable(parts, study_uid)
    question = answerer.texts.get(asked.text)
    places = ranked_places(study, question, asked.k, by_slab=answerer.reader.by_slab)
    return Hits(text=asked.text, model=model_of(answerer), hits=[Hit.of(place) for place in places])


@router.post(
    "/studies/{study_uid}/heatmap",
    response_class=NrrdResponse,
    responses={**NRRD_FILE, **described(400, 401, 404, 409, 413, 422)},
)
def heatmap(parts: Shared, study_uid: Uid, asked: Asked) -> NrrdResponse:
    """How well every cell agrees with a text: 0 at the median of the body, 1 at the best cell; LPS, mm."""
    study, answerer = searchable(parts, study_uid)
    share = heat(study, answerer.texts.get(asked.text), by_slab=answerer.reader.by_slab)
    return NrrdResponse(volume_nrrd(study.encoding.grid.with_array(share)))


@router.get(
    "/studies/{study_uid}/segmentation/{kind}",
    response_class=NrrdResponse,
    responses={**NRRD_FILE, **described(401, 404, 409, 422)},
)
def segmentation(parts: Shared, study_uid: Uid, kind: Kind) -> NrrdResponse:
    """The masks of the reading on the CT's grid, as ``.seg.nrrd`` of 3D Slicer; LPS, mm."""
    return NrrdResponse(stored_masks(parts.archive, catalogue.held(parts.archive, study_uid), kind))
