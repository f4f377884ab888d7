"""How far a study has come: what the index knows of it, for people and for the demo.

Only looks; decides and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from dicom_node.archive import Archive
from dicom_node.delivery import stored_back_at
from dicom_node.index import Generation, ReadingRow
from dicom_node.readings import results_folder


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
