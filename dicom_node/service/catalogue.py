"""What the service knows of studies: the worklist, and where the results of one lie.

Only looks into the index; decides and changes nothing. A study comes from the network, or is a
volume that was uploaded (`dicom_node.service.uploads`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.archive import Archive, results_folder
from dicom_node.completeness import UNREAD
from dicom_node.index import Delivery, Generation, Instance, ReadingRow, Result, Upload
from dicom_node.index import Study as StudyRow
from dicom_node.service.errors import ApiError
from dicom_node.service.models import DeliveryState, Study
from dicom_node.service.uploads import upload_folder


@dataclass(frozen=True)
class Results:
    """Where the results of the newest read generation of a study, or of an upload, lie.

    Attributes
    ----------
    study_instance_uid: as in paths.
    key: of the reading; another key means other results.
    folder: where its files lie.
    """

    study_instance_uid: str
    key: str
    folder: Path


@dataclass(frozen=True)
class Held(Results):
    """Results with the slices that they are of.

    Attributes
    ----------
    slices: what names the slices that were read (`dicom_node.instances.Instance.reference`), in
        slice order; none for an upload.
    """

    slices: tuple[str, ...]

    @property
    def is_upload(self) -> bool:
        """Whether it is an uploaded volume, which has no DICOM headers."""
        return not self.slices


def page(archive: Archive, limit: int, offset: int) -> tuple[int, list[Study]]:
    """How many studies came from the network, and some of them, newest images first."""
    with archive.index.reading() as session:
        total = session.scalar(sa.select(sa.func.count()).select_from(StudyRow)) or 0
        rows = session.scalars(
            sa.select(StudyRow)
            .order_by(StudyRow.last_ct_at.desc(), StudyRow.study_instance_uid)
            .limit(limit)
            .offset(offset)
        ).all()
        return total, _studies(session, rows)


def study(archive: Archive, study_instance_uid: str) -> Study:
    """One study or upload.

    Raises
    ------
    ApiError: 404, the node knows none of this UID.
    """
    with archive.index.reading() as session:
        row = session.get(StudyRow, study_instance_uid)
        if row is not None:
            return _studies(session, [row])[0]
        upload = session.get(Upload, study_instance_uid)
    if upload is None:
        raise _unknown("study")
    return _uploaded(upload)


def study_of_series(archive: Archive, series_instance_uid: str) -> Study:
    """The study, or the newest upload, that a series is of.

    Raises
    ------
    ApiError: 404, the node knows no such series.
    """
    with archive.index.reading() as session:
        found = session.scalar(
            sa.select(Instance.study_instance_uid)
            .where(Instance.series_instance_uid == series_instance_uid, Instance.is_ct)
            .limit(1)
        ) or session.scalar(  # where the files name no series, its UID is derived
            sa.select(Generation.study_instance_uid)
            .where(Generation.series_instance_uid == series_instance_uid)
            .limit(1)
        )
        upload = session.scalar(
            sa.select(Upload)
            .where(Upload.series_instance_uid == series_instance_uid)
            .order_by(Upload.finished_at.desc())
            .limit(1)
        )
    if found is not None:
        return study(archive, found)
    if upload is None:
        raise _unknown("series")
    return _uploaded(upload)


@cache
def _newest_read(*more: Any) -> sa.Select[Any]:
    """The reading, and `more`, of the newest read generation of study ``uid``; composed once."""
    return (
        sa.select(Generation.reading_key, *more)
        .where(Generation.study_instance_uid == sa.bindparam("uid"), Generation.state == "read")
        .order_by(Generation.number.desc())
        .limit(1)
    )


def results(archive: Archive, study_instance_uid: str) -> Results:
    """Where the results of a study lie; raises as `held`, which costs more."""
    return _results(archive, study_instance_uid)[0]


def held(archive: Archive, study_instance_uid: str) -> Held:
    """The results of a study.

    Raises
    ------
    ApiError: 404, no such study; 409, it is not read, and the error says how far it is.
    """
    found, newest = _results(archive, study_instance_uid, Generation.sop_instance_uids)
    slices = () if newest is None else tuple(newest.sop_instance_uids or ())
    return Held(found.study_instance_uid, found.key, found.folder, slices)


def _results(archive: Archive, study_instance_uid: str, *more: Any) -> tuple[Results, sa.Row[Any] | None]:
    """Results, and what was asked of their generation; None of an upload. Raises as `held`."""
    with archive.index.reading() as session:
        newest = session.execute(_newest_read(*more), {"uid": study_instance_uid}).first()
        upload = session.get(Upload, study_instance_uid) if newest is None else None
    if newest is not None and newest.reading_key is not None:
        folder = results_folder(archive, newest.reading_key)
        return Results(study_instance_uid, newest.reading_key, folder), newest
    if upload is not None:
        return Results(study_instance_uid, upload.key, upload_folder(archive, upload.key)), None
    known = study(archive, study_instance_uid)
    reason = f" ({known.reason})" if known.reason else ""
    cure = "send the study again, complete and readable" if known.state in UNREAD else "ask again in a while"
    raise ApiError(409, f"the study is not read; it is {known.state}{reason}", cure)


def _unknown(what: str) -> ApiError:
    cure = "send it to the node, or upload the volume to /api/1/uploads"
    return ApiError(404, f"the node knows no {what} of this UID", cure)


def _uploaded(row: Upload) -> Study:
    return Study(
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        generation=None,
        state="read",
        reason=None,
        images=row.images,
        last_image_at=row.uploaded_at,
        read_at=row.finished_at,
        deliveries=[],
    )


def _studies(session: Session, rows: Sequence[StudyRow]) -> list[Study]:
    """Rows with what other tables know of them, in the same order."""
    uids = [row.study_instance_uid for row in rows]
    counted = session.execute(
        sa.select(Instance.study_instance_uid, sa.func.count())
        .where(Instance.study_instance_uid.in_(uids), Instance.is_ct)
        .group_by(Instance.study_instance_uid)
    )
    counts = {uid: int(count) for uid, count in counted}
    generations: dict[str, list[Generation]] = {uid: [] for uid in uids}
    for generation in session.scalars(
        sa.select(Generation).where(Generation.study_instance_uid.in_(uids)).order_by(Generation.number)
    ):
        generations[generation.study_instance_uid].append(generation)
    return [
        _study(session, row, counts.get(row.study_instance_uid, 0), generations[row.study_instance_uid])
        for row in rows
    ]


def _study(session: Session, row: StudyRow, images: int, generations: list[Generation]) -> Study:
    newest = generations[-1] if generations else None
    read = next((g for g in reversed(generations) if g.state == "read"), None)
    reading = None if read is None else session.get(ReadingRow, read.reading_key)
    receiving = row.waiting or newest is None
    chosen = read or newest
    return Study.model_validate(
        {
            "study_instance_uid": row.study_instance_uid,
            "series_instance_uid": None if chosen is None else chosen.series_instance_uid,
            "generation": None if newest is None else newest.number,
            "state": "receiving" if receiving or newest is None else newest.state,
            "reason": None if receiving or newest is None else newest.reason,
            "images": images,
            "last_image_at": row.last_ct_at,
            "read_at": None if reading is None else reading.finished_at,
            "deliveries": [] if reading is None else _deliveries(session, reading.key),
        }
    )


def _deliveries(session: Session, key: str) -> list[DeliveryState]:
    """Per destination: the worst state of the results, and the reason of one that is not there."""
    rows = session.scalars(
        sa.select(Delivery)
        .join(Result, Result.sop_instance_uid == Delivery.sop_instance_uid)
        .where(Result.reading_key == key)
        .order_by(Delivery.destination, Result.rank)
    ).all()
    states = []
    for name in dict.fromkeys(row.destination for row in rows):
        own = [row for row in rows if row.destination == name]
        worst = next(
            (state for state in ("dead", "pending") if any(r.state == state for r in own)), "delivered"
        )
        reasons = [row.reason for row in own if row.state != "delivered" and row.reason]
        attempts = max(row.attempts for row in own)
        states.append(
            DeliveryState.model_validate(
                {
                    "destination": name,
                    "state": worst,
                    "attempts": attempts,
                    "reason": next(iter(reasons), None),
                }
            )
        )
    return states
