"""Paths of what takes longer than an answer may: uploads, masks of texts, and the jobs themselves."""

from __future__ import annotations

import hashlib
import time
import uuid
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from dicom_node.config import OWN
from dicom_node.errors import SightlineError
from dicom_node.index import Upload
from dicom_node.reading_files import READING
from dicom_node.service import catalogue
from dicom_node.service.errors import ApiError, described
from dicom_node.service.models import UID_PATTERN, Asked, Job, JobId, Uid
from dicom_node.service.nrrd_files import NrrdError
from dicom_node.service.parts import Parts, Shared
from dicom_node.service.routes_queries import NRRD
from dicom_node.service.uploads import Uploaded, check_header, upload_folder
from dicom_node.service.worker import MaskTask, Report, UploadTask

router = APIRouter()
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/studies/{study_uid}/mask", status_code=202, responses=described(400, 401, 404, 409, 413, 422, 429)
)
def mask(parts: Shared, study_uid: Uid, asked: Asked) -> Job:
    """Draw what a text describes; the job's result is ``.seg.nrrd`` on the CT's grid."""
    held = catalogue.held(parts.archive, study_uid)
    now = parts.answering.now
    now.texts.get(asked.text)  # refuses what holds nothing to look for
    target = parts.jobs.folder / f"{uuid.uuid4().hex}.seg.nrrd"
    files = {uid: parts.archive.path(uid) for uid in {one.partition("#")[0] for one in held.slices}}
    model = now.reader.identity.digest
    task = MaskTask(asked.text, target, held.slices, files, held.folder, model)
    return parts.jobs.submit("mask", task, study=study_uid, result=target, media_type=NRRD)


@router.post(
    "/uploads", status_code=202, openapi_extra=_BODY, responses=described(400, 401, 409, 413, 422, 429)
)
async def upload(
    parts: Shared,
    request: Request,
    series_instance_uid: Annotated[str | None, Query(max_length=64, pattern=UID_PATTERN)] = None,
) -> Job:
    """Read a CT that the node does not know: one NRRD file in Hounsfield units, raw or gzip.

    When the job is done its `study` can be asked as any other. The same bytes are the same study.
    """
    await run_in_threadpool(_refuse_without_room, parts)
    source = parts.jobs.folder / f"{uuid.uuid4().hex}.upload"
    digest = hashlib.sha256()
    queued = False
    try:
        with source.open("xb") as file:
            async for chunk in request.stream():
                digest.update(chunk)
                file.write(chunk)
        job = await run_in_threadpool(_queue, parts, source, digest.hexdigest(), series_instance_uid)
        queued = True
    finally:
        if not queued:
            source.unlink(missing_ok=True)
    return job


@router.get("/jobs/{job_id}", responses=described(401, 404, 422))
def job(parts: Shared, job_id: JobId) -> Job:
    """How far a job is."""
    return parts.jobs.get(job_id)


@router.get(
    "/jobs/{job_id}/result",
    response_class=Response,
    responses={
        200: {"content": {NRRD: _BYTES, "application/json": {"schema": {"type": "object"}}}},
        **described(401, 404, 409, 422),
    },
)
def result(parts: Shared, job_id: JobId) -> Response:
    """What a job gave: ``.seg.nrrd`` of a mask, the reading of an upload."""
    content, media_type = parts.jobs.result(job_id)
    return Response(content, media_type=media_type)


@router.delete("/jobs/{job_id}", responses=described(401, 404, 422))
def cancel(parts: Shared, job_id: JobId) -> Job:
    """End a job; one that is over stays as it is."""
    return parts.jobs.cancel(job_id)


def _refuse_without_room(parts: Parts) -> None:
    parts.jobs.refuse_if_full()
    room = parts.archive.free_bytes() - (parts.config.service.upload_mib << 20)
    if room < parts.config.reserve_gib * 2**30:
        raise ApiError(409, "the disk of the node is full", "make room there, or lower reserve_gib")


def _reads_with(parts: Parts, digest: str) -> str:
    """The model and who draws the organs, as uploads are named by."""
    return digest if parts.config.organs == OWN else f"{digest} {parts.config.settings_digest}"


def _queue(parts: Parts, source: Path, sha256: str, series_instance_uid: str | None) -> Job:
    """Check the header of an uploaded file and queue its reading."""
    try:
        check_header(source)
    except NrrdError as error:
        raise ApiError(422, error.message, error.cure) from None
    except SightlineError as error:
        words, _, cure = error.message.partition("; ")
        raise ApiError(422, words, cure or "send a CT of the body in millimetres") from None
    model = parts.answering.now.reader.identity.digest
    named = Uploaded.of(sha256, _reads_with(parts, model))
    folder = upload_folder(parts.archive, named.key)
    uploaded_at = time.time()

    def finish(report: Report) -> None:
        row = Upload(
            study_instance_uid=named.study_instance_uid,
            key=named.key,
            series_instance_uid=series_instance_uid,
            images=report.images,
            uploaded_at=uploaded_at,
            finished_at=time.time(),
        )
        with parts.archive.index.writing() as session:
            session.merge(row)

    task = UploadTask(source, folder, series_instance_uid, model)
    return parts.jobs.submit(
        "upload",
        task,
        study=named.study_instance_uid,
        result=folder / READING,
        media_type="application/json",
        finish=finish,
    )
