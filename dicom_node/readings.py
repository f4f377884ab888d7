"""The work on one complete state of a study: choose a series, read it, keep and publish results.

Plain functions, each safe to repeat: what they write depends on their input only, so that a
second run after a crash overwrites and never multiplies. Not the queue that makes the work
durable (`dicom_node.workflow`) and not the sending (`dicom_node.delivery`).
"""

from __future__ import annotations

import logging
import resource
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import highdicom as hd
import sqlalchemy as sa

from core_model.reading import ModelIdentity, Reading, SliceReference
from dicom_node.archive import Archive, sync_folder, tag
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import Delivery, Generation, ReadingRow, Result
from dicom_node.instances import read_instance
from dicom_node.reading_files import LESIONS, ORGANS, REPORT, write_numbers, write_objects
from dicom_node.results.identifiers import result_key
from dicom_node.results.key_image_series import PATTERN, write_key_image_series
from dicom_node.series import CandidateSeries, choose_series, classify_series, survey_files
from dicom_node.series_pixels import LoadedSeries, load_series

logger = logging.getLogger(__name__)

# A receiver that opens the report at once must find the segments that it refers to.
REPORT_RANK = 1
_RANK = {LESIONS: 0, ORGANS: 0, REPORT: REPORT_RANK}


class CanRead(Protocol):
    """What is asked of `core_model.reader.Reader`."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model reads."""

    def read(
        self,
        volume: hd.Volume,
        *,
        slices: tuple[SliceReference, ...] | None = None,
        series_instance_uid: str | None = None,
    ) -> Reading:
        """Read one CT volume."""


@dataclass(frozen=True)
class Finished:
    """What is known of a reading besides its files.

    Attributes
    ----------
    started_at: seconds since the epoch.
    seconds: per stage, in order: load, the reader's own, write.
    peak_rss_bytes: largest resident memory of the process so far.
    device: what the reader ran on.
    """

    started_at: float
    seconds: dict[str, float]
    peak_rss_bytes: int
    device: str


def select(archive: Archive, config: Config, model: ModelIdentity, generation: Generation) -> Generation:
    """Choose the series of a generation and record the choice.

    Returns
    -------
    The generation in its new state: ``queued`` with series and key; ``refused`` with the
    reasons of all series; or ``unchanged`` where a reading with this key is done or under way.
    """
    paths = [archive.path(row.sop_instance_uid) for row in archive.ct_instances(generation)]
    survey = survey_files(paths)
    with archive.index.writing() as session:
        row = session.get_one(Generation, generation.id)
        if not survey.candidates:
            reasons = [f"{refusal}" for refusal in survey.refusals] + list(survey.unreadable)
            row.state, row.reason = "refused", "; ".join(reasons) or "no readable CT image"
            return row
        chosen = choose_series(survey.candidates)
        uids = [instance.sop_instance_uid for instance in chosen.instances]
        row.series_instance_uid, row.sop_instance_uids = chosen.series_instance_uid, uids
        row.reading_key = result_key(uids, model.digest, config.settings_digest)
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


def results_folder(archive: Archive, key: str) -> Path:
    """Where the files of a reading lie."""
    return archive.root / "results" / key


def read(archive: Archive, config: Config, reader: CanRead, generation_id: int) -> Finished:
    """Read the chosen series of a generation and put all results in its folder at once.

    Raises
    ------
    SightlineError: the pixels cannot be decoded; the message says why.
    """
    started = time.time()
    with archive.index.reading() as session:
        generation = session.get_one(Generation, generation_id)
    key = generation.reading_key
    if key is None or generation.sop_instance_uids is None:
        raise ValueError(f"generation {generation_id} has no chosen series; call select first")
    clock = time.perf_counter()
    series = classify_series([read_instance(archive.path(uid)) for uid in generation.sop_instance_uids])
    if not isinstance(series, CandidateSeries):
        raise SightlineError(f"the chosen series can no longer be read: {series.reason}")
    loaded = load_series(series)
    load_seconds = time.perf_counter() - clock
    reading = reader.read(loaded.volume, slices=loaded.slices, series_instance_uid=loaded.series_instance_uid)
    clock = time.perf_counter()
    _write_results(results_folder(archive, key), config, reading, loaded, key)
    seconds = {"load": load_seconds, **reading.seconds, "write": time.perf_counter() - clock}
    return Finished(
        started_at=started, seconds=seconds, peak_rss_bytes=peak_rss_bytes(), device=reading.device
    )


def _write_results(folder: Path, config: Config, reading: Reading, loaded: LoadedSeries, key: str) -> None:
    """All files of a reading in `folder`, which appears whole or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_objects(part, reading, loaded.sources, key, organs=config.results.organs)
    write_numbers(part, reading)
    if config.results.key_images:
        write_key_image_series(part, reading, loaded.volume, loaded.sources, folder.name)
    for path in [*part.iterdir(), part]:
        sync_folder(path)
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that died before it was recorded
    part.rename(folder)
    sync_folder(folder.parent)


def publish(archive: Archive, config: Config, generation_id: int, finished: Finished) -> None:
    """Record a reading and its results, and note each result for every destination, in one commit."""
    now = time.time()
    with archive.index.writing() as session:
        generation = session.get_one(Generation, generation_id)
        key = generation.reading_key
        if key is None:
            raise ValueError(f"generation {generation_id} has no reading key; call select first")
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


def fail(archive: Archive, generation_id: int, reason: str) -> None:
    """Record that a generation could not be read, and why.

    The reason goes into the index only: an error's text may quote values of the data set.
    """
    with archive.index.writing() as session:
        generation = session.get_one(Generation, generation_id)
        generation.state, generation.reason = "failed", reason
    logger.error(
        "study not read study=%s generation=%d state=failed",
        tag(generation.study_instance_uid),
        generation.number,
    )


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far (getrusage counts KiB, on macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
