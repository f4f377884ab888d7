"""How far studies have come: what the index knows of them, for people and for the demo.

Only looks; decides and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.archive import Archive, results_folder
from dicom_node.delivery import stored_back_at
from dicom_node.index import REPORT_RANK, CorrectionRow, Delivery, Generation, ReadingRow, Result, Study


@dataclass(frozen=True)
class Line:
    """A study in one line. Times are seconds since the epoch.

    Attributes
    ----------
    study_instance_uid: of the study.
    last_image_at: when its last CT image came.
    state, reason: of its newest complete state (`dicom_node.index.Generation`); ``receiving`` before.
    results: DICOM objects that the node made of it.
    corrections: how many a radiologist sent.
    delivered, pending, dead: deliveries, of results and corrections, to all destinations.
    """

    study_instance_uid: str
    last_image_at: float
    state: str
    reason: str | None
    results: int
    corrections: int
    delivered: int
    pending: int
    dead: int


def newest_studies(archive: Archive, limit: int) -> tuple[Line, ...]:
    """The studies that came last, newest first."""
    with archive.index.reading() as session:
        studies = session.scalars(sa.select(Study).order_by(Study.last_ct_at.desc()).limit(limit)).all()
        return tuple(_line(session, study) for study in studies)


def _line(session: Session, study: Study) -> Line:
    uid = study.study_instance_uid
    newest = session.scalar(
        sa.select(Generation)
        .where(Generation.study_instance_uid == uid)
        .order_by(Generation.number.desc())
        .limit(1)
    )
    receiving = study.waiting or newest is None
    corrections = (
        sa.select(sa.func.count()).select_from(CorrectionRow).where(CorrectionRow.study_instance_uid == uid)
    )
    results = (
        sa.select(sa.func.count())
        .select_from(Result)
        .join(ReadingRow, ReadingRow.key == Result.reading_key)
        .where(ReadingRow.study_instance_uid == uid, Result.rank <= REPORT_RANK)
    )
    rows = session.execute(
        sa.select(Delivery.state, sa.func.count())
        .join(Result, Result.sop_instance_uid == Delivery.sop_instance_uid)
        .join(ReadingRow, ReadingRow.key == Result.reading_key)
        .where(ReadingRow.study_instance_uid == uid)
        .group_by(Delivery.state)
    )
    deliveries = {state: int(count) for state, count in rows}
    return Line(
        study_instance_uid=uid,
        last_image_at=study.last_ct_at,
        state="receiving" if receiving or newest is None else newest.state,
        reason=None if receiving or newest is None else newest.reason,
        results=session.scalar(results) or 0,
        corrections=session.scalar(corrections) or 0,
        delivered=deliveries.get("delivered", 0),
        pending=deliveries.get("pending", 0),
        dead=deliveries.get("dead", 0),
    )


@dataclass(frozen=True)
class Progress:
    """One complete state of a study. Times are seconds since the epoch.

    Attributes
    ----------
    number: 1 for the first complete state.
    state, reason: as in `dicom_node.index.Generation`.
    last_received_at: when its last CT image came.
    complete_at: when it was found complete.
    seconds: per stage of the reading, in order; empty before it is read.
    peak_rss_bytes: peak resident memory of the reader; 0 before.
    device: what it was read on; empty before.
    stored_back_at: when the last result was stored at the last destination; None before, and
        where no destination is configured.
    folder: where the results lie once the state is ``read``; None where no series was chosen.
    """

    number: int
    state: str
    reason: str | None
    last_received_at: float
    complete_at: float
    seconds: dict[str, float]
    peak_rss_bytes: int
    device: str
    stored_back_at: float | None
    folder: Path | None


def study_progress(archive: Archive, study_instance_uid: str) -> tuple[Progress, ...]:
    """All complete states of a study so far, oldest first; none if it is unknown or incomplete."""
    with archive.index.reading() as session:
        rows = session.execute(
            sa.select(Generation, ReadingRow)
            .outerjoin(ReadingRow, ReadingRow.key == Generation.reading_key)
            .where(Generation.study_instance_uid == study_instance_uid)
            .order_by(Generation.number)
        ).all()
    return tuple(_progress(archive, generation, reading) for generation, reading in rows)


def _progress(archive: Archive, generation: Generation, reading: ReadingRow | None) -> Progress:
    key = generation.reading_key
    return Progress(
        number=generation.number,
        state=generation.state,
        reason=generation.reason,
        last_received_at=generation.last_ct_at,
        complete_at=generation.complete_at,
        seconds={} if reading is None else reading.seconds,
        peak_rss_bytes=0 if reading is None else reading.peak_rss_bytes,
        device="" if reading is None else reading.device,
        stored_back_at=None if key is None else stored_back_at(archive, key),
        folder=None if key is None else results_folder(archive, key),
    )
