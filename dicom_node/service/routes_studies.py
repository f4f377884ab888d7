"""Paths that say what the node knows: health, worklist, a study, its reading."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query, Response

import dicom_node
from dicom_node.archive import tag
from dicom_node.completeness import open_again
from dicom_node.reading_files import READING
from dicom_node.service import catalogue
from dicom_node.service.answering import Answerer
from dicom_node.service.errors import ApiError, described
from dicom_node.service.models import Health, Model, ReadingDocument, Studies, Study, Uid
from dicom_node.service.parts import Shared

logger = logging.getLogger(__name__)
router = APIRouter()


def model_of(answerer: Answerer) -> Model:
    """The model that answers."""
    identity = answerer.reader.identity
    return Model(name=identity.name, version=identity.version, digest=identity.digest)


@router.get("/health")
def health(parts: Shared) -> Health:
    """Who is there; needs no token."""
    return Health(version=dicom_node.__version__, model=model_of(parts.answering.now))


@router.get("/studies", responses=described(401, 422))
def studies(
    parts: Shared,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> Studies:
    """The worklist: studies that came over the DICOM network, newest images first."""
    total, found = catalogue.page(parts.archive, limit, offset)
    return Studies(total=total, studies=found)


@router.get("/studies/{study_uid}", responses=described(401, 404, 422))
def study(parts: Shared, study_uid: Uid) -> Study:
    """One study, or uploaded volume."""
    return catalogue.study(parts.archive, study_uid)


@router.post("/studies/{study_uid}/retry", status_code=202, responses=described(401, 404, 409, 422))
def retry(parts: Shared, study_uid: Uid) -> Study:
    """Have a study tried again that could not be read or was set aside; the reader takes it up at once."""
    known = catalogue.study(parts.archive, study_uid)
    if open_again(parts.archive.index, study_uid) is None:
        raise ApiError(
            409,
            f"there is nothing to try again; the study is {known.state}",
            "only a study that is failed, refused or set aside can be tried again; send new images to "
            "have it read anew",
        )
    logger.info("study tried again study=%s", tag(study_uid))
    return catalogue.study(parts.archive, study_uid)


@router.get("/series/{series_uid}", responses=described(401, 404, 422))
def series(parts: Shared, series_uid: Uid) -> Study:
    """The study that holds a series; its `series_instance_uid` says which one is read."""
    return catalogue.study_of_series(parts.archive, series_uid)


@router.get(
    "/studies/{study_uid}/reading",
    response_model=ReadingDocument,
    responses=described(401, 404, 409, 422),
)
def reading(parts: Shared, study_uid: Uid) -> Response:
    """The reading of the newest generation that is read."""
    held = catalogue.held(parts.archive, study_uid)
    try:
        document = (held.folder / READING).read_bytes()
    except OSError:
        raise ApiError(409, "the stored reading of the study is missing", "send the study again") from None
    return Response(document, media_type="application/json")
