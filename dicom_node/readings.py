"""The work on one complete state of a study: choose a series, read it, keep and publish results.

Plain functions, each safe to repeat: what they write depends on their input only, so that a
second run after a crash overwrites and never multiplies. Not the queue that makes the work
durable (`dicom_node.workflow`) and not the sending (`dicom_node.delivery`).
"""

from __future__ import annotations

import contextlib
import logging
import resource
import shutil
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import highdicom as hd
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core_model.reading import ModelIdentity, OrganDrawing, Reading, SliceReference
from dicom_node.archive import Archive, results_folder, sync_folder, tag
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import REPORT_RANK, Delivery, Generation, ReadingRow, Result
from dicom_node.instances import read_instance
from dicom_node.reading_files import LESIONS, ORGANS, REPORT, write_numbers, write_objects
from dicom_node.results.identifiers import drawn_digest, result_key
from dicom_node.results.key_image_series import PATTERN, write_key_image_series
from dicom_node.series import CandidateSeries, classify_series, survey_files
from dicom_node.series_choice import choose_series
from dicom_node.series_frames import read_references
from dicom_node.series_pixels import LoadedSeries, load_series
from dicom_node.series_settings import WAS_READ

logger = logging.getLogger(__name__)

MOST_CHOICES = 20  # of one generation; readers that disagree for good would choose for ever
_RANK = {LESIONS: 0, ORGANS: 0, REPORT: REPORT_RANK}


class CanRead(Protocol):
    """What is asked of `core_model.reader.Reader`."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model reads."""

    @property
    def organ_drawing(self) -> OrganDrawing | None:
        """Who draws the organs; None where the model does."""

    def read(
        self,
        volume: hd.Volume,
        *,
        slices: tuple[SliceReference, ...] | None = None,
        series_instance_uid: str | None = None,
    ) -> Reading:
        """Read one CT volume."""


class ChosenForAnotherModelError(Exception):
    """The series was chosen when another model was in use; it has to be chosen again.

    Parameters
    ----------
    key: of the reading that is not made.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"reading {key[:12]} was to be made by another model")
        self.key = key


@dataclass(frozen=True)
class Finished:
    """What is known of a reading besides its files.

    Attributes
    ----------
    started_at: seconds since the epoch.
    seconds: per stage, in order: load, the reader's own, write.
    peak_rss_bytes: largest resident memory of the process so far.
    device: what the reader ran on.
    key: of the reading; "" where an older version of this program noted it.
    """

    started_at: float
    seconds: dict[str, float]
    peak_rss_bytes: int
    device: str
    key: str = ""


def select(
    archive: Archive,
    config: Config,
    model: ModelIdentity,
    generation: Generation,
    organs_by: OrganDrawing | None = None,
) -> Generation:
    """Choose the series of a generation and record the choice.

    Parameters
    ----------
    model: which reads.
    organs_by: who draws the organs; None where the model does.

    Returns
    -------
    The generation in its new state: ``queued`` with series and key; ``refused`` with the
    reasons of all series; or ``unchanged`` where a reading with this key is done or under way.
    """
    paths = [archive.path(row.sop_instance_uid) for row in archive.ct_instances(generation)]
    survey = survey_files(paths, settings=config.series)
    with archive.index.writing() as session:
        row = session.get_one(Generation, generation.id)
        if row.state != "complete":  # another worker was faster; it chose the same
            return row
        if not survey.candidates:
            reasons = [f"{refusal}" for refusal in survey.refusals] + list(survey.unreadable)
            row.state, row.reason = "refused", storable("; ".join(reasons) or "no readable CT image")
            return row
        chosen = choose_series(survey.candidates, config.series)
        row.series_instance_uid, row.sop_instance_uids = chosen.series_instance_uid, list(chosen.references)
        row.reading_key = result_key(
            chosen.references, drawn_digest(model, organs_by), config.settings_digest
        )
        same = sa.select(Generation.number).where(
            Generation.reading_key == row.reading_key,
            Generation.id != row.id,
            Generation.state.in_(("queued", "read")),
        )
        earlier = session.scalar(same)
        row.state = "queued" if earlier is None else "unchanged"
        if earlier is not None:
            row.reason = f"the same images were read as generation {earlier}"
    return row


def read(archive: Archive, config: Config, reader: CanRead, generation_id: int) -> Finished:
    """Read the chosen series of a generation and put all results in its folder at once.

    Where another worker has published this very reading meanwhile, nothing is read again.

    Raises
    ------
    SightlineError: the pixels cannot be decoded; the message says why.
    ChosenForAnotherModelError: the key is that of another model's reading (or of other settings).
    """
    started = time.time()
    with archive.index.reading() as session:
        generation = session.get_one(Generation, generation_id)
        key = generation.reading_key
        if key is None or generation.sop_instance_uids is None:
            raise ValueError(f"generation {generation_id} has no chosen series; call select first")
        done = session.get(ReadingRow, key)
        earlier = _earlier_reading(session, generation)
    if done is not None and results_folder(archive, key).exists():  # else retention has removed it
        return Finished(done.started_at, done.seconds, done.peak_rss_bytes, done.device, key)
    if key != result_key(generation.sop_instance_uids, reader.identity.digest, config.settings_digest):
        raise ChosenForAnotherModelError(key)
    clock = time.perf_counter()
    series = classify_series(read_references(generation.sop_instance_uids, archive.path), WAS_READ)
    if not isinstance(series, CandidateSeries):
        raise SightlineError(f"the chosen series can no longer be read: {series.reason}")
    loaded = load_series(series)
    load_seconds = time.perf_counter() - clock
    reading = reader.read(loaded.volume, slices=loaded.slices, series_instance_uid=loaded.series_instance_uid)
    clock = time.perf_counter()
    _write_results(results_folder(archive, key), config, reading, loaded, earlier=earlier)
    seconds = {"load": load_seconds, **reading.seconds, "write": time.perf_counter() - clock}
    return Finished(
        started_at=started,
        seconds=seconds,
        peak_rss_bytes=peak_rss_bytes(),
        device=reading.device,
        key=key,
    )


def choose_again(archive: Archive, generation_id: int, key: str) -> bool:
    """Have a generation's series chosen again that was chosen for another model.

    Parameters
    ----------
    key: of the reading that was not made; where another one was chosen since, nothing is done.

    Returns
    -------
    Whether it waits to be chosen.
    """
    with archive.index.writing() as session:
        generation = session.get_one(Generation, generation_id)
        if generation.state != "queued" or generation.reading_key != key:
            return False
        generation.choices = (generation.choices or 0) + 1
        if generation.choices > MOST_CHOICES:
            generation.state = "failed"
            generation.reason = "the node's readers use different models or [results]; make them alike"
            return False
        generation.state, generation.reading_key = "complete", None
    return True


def _earlier_reading(session: Session, generation: Generation) -> str | None:
    """The key of the reading that this one replaces: of the newest earlier generation that was read."""
    return session.scalar(
        sa.select(Generation.reading_key)
        .where(
            Generation.study_instance_uid == generation.study_instance_uid,
            Generation.number < generation.number,
            Generation.state == "read",
            Generation.reading_key != generation.reading_key,
        )
        .order_by(Generation.number.desc())
        .limit(1)
    )


def _write_results(
    folder: Path, config: Config, reading: Reading, loaded: LoadedSeries, *, earlier: str | None
) -> None:
    """All files of a reading in `folder`, named by its key, which appears whole or not at all."""
    # A name of its own: a worker that was taken for dead may be writing the same results.
    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir(parents=True)
        write_objects(
            part,
            reading,
            loaded.sources,
            folder.name,
            organs=config.results.organs,
            notes=loaded.notes,
            earlier_key=earlier,
        )
        write_numbers(part, reading)
        if config.results.key_images:
            write_key_image_series(part, reading, loaded.volume, loaded.sources, folder.name)
        for path in [*part.iterdir(), part]:
            sync_folder(path)
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that died before it was recorded
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(folder.parent)


def remove_unfinished(archive: Archive) -> None:
    """Delete folders that readers which died left half written."""
    # No reading takes a day: what is younger may be another worker's at this moment.
    old = time.time() - 86400
    for part in (archive.root / "results").glob("*.part"):
        with contextlib.suppress(FileNotFoundError):  # that worker has just finished it
            if part.stat().st_mtime < old:
                shutil.rmtree(part, ignore_errors=True)


def publish(archive: Archive, config: Config, generation_id: int, finished: Finished) -> None:
    """Record a reading and its results, and note each result for every destination, in one commit."""
    now = time.time()
    with archive.index.writing() as session:
        generation = session.get_one(Generation, generation_id)
        key = generation.reading_key
        if key is None:
            raise ValueError(f"generation {generation_id} has no reading key; call select first")
        if finished.key not in ("", key):  # taken for dead meanwhile, and chosen again for another model
            return
        generation.state = "read"
        if session.get(ReadingRow, key) is not None:
            return
        session.add(
            ReadingRow(
                key=key,
                study_instance_uid=generation.study_instance_uid,
                series_instance_uid=generation.series_instance_uid,
                started_at=finished.started_at,
                finished_at=now,
                seconds=finished.seconds,
                peak_rss_bytes=finished.peak_rss_bytes,
                device=finished.device,
            )
        )
        session.flush()
        for result in _results(results_folder(archive, key), key):
            session.add(result)
            session.flush()
            for destination in config.destinations:
                session.add(
                    Delivery(
                        sop_instance_uid=result.sop_instance_uid,
                        destination=destination.name,
                        state="pending",
                        attempts=0,
                        created_at=now,
                        due_at=now,
                    )
                )
    logger.info(
        "study read study=%s generation=%d key=%s seconds=%.1f peak_mib=%d",
        tag(generation.study_instance_uid),
        generation.number,
        key[:12],
        now - finished.started_at,
        finished.peak_rss_bytes >> 20,
    )
    if not config.destinations:
        logger.warning("no destination is configured: results stay in the archive key=%s", key[:12])


def _results(folder: Path, key: str) -> list[Result]:
    """The DICOM objects in a results folder, as rows."""
    rows = []
    # Key images may be seen before the report, but not before what they were drawn from.
    ranks = _RANK | dict.fromkeys(sorted(path.name for path in folder.glob(PATTERN)), REPORT_RANK)
    for name, rank in ranks.items():
        if (folder / name).exists():
            instance = read_instance(folder / name)
            rows.append(
                Result(
                    sop_instance_uid=instance.sop_instance_uid,
                    reading_key=key,
                    sop_class_uid=instance.sop_class_uid,
                    file_name=name,
                    rank=rank,
                )
            )
    return rows


def give_up(archive: Archive, generation_id: int, state: str, reason: str) -> None:
    """Record that a generation could not be read (`state` ``failed`` or ``set aside``), and why.

    The reason goes into the index only: an error's text may quote values of the data set.
    """
    with archive.index.writing() as session:
        generation = session.get_one(Generation, generation_id)
        if generation.state == "read":  # by another worker, which had been taken for dead
            return
        generation.state, generation.reason = state, storable(reason)
    logger.error(
        "study not read study=%s generation=%d state=%s",
        tag(generation.study_instance_uid),
        generation.number,
        state,
    )


def storable(text: str) -> str:
    """`text` as both databases take it: PostgreSQL refuses NUL, and no half of a surrogate pair is UTF-8.

    >>> storable("a\\x00b\\udc80")
    'ab?'
    """
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far (getrusage counts KiB, on macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
