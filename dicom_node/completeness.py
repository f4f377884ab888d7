"""When a study is complete: the decision, and the generations that keep it.

DICOM has no signal for "that was all", so completeness is never a fact but a rule: no new CT
image for a quiet time, and no association still open that brought some; or all instances that
the PACS counts, where it is asked; or, at last, a cap. Images that come later open a new
generation of the study. Not the reading: a generation only says which instances belong to it.
Everything is in the index, so a restart changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.archive import tag
from dicom_node.completeness_settings import READ, SET_ASIDE
from dicom_node.config import Config
from dicom_node.index import Association, Generation, Index, Instance, Study, Touch

logger = logging.getLogger(__name__)

# What a study ends in without a reading, so that a person may want it tried again.
UNREAD = ("failed", "refused", SET_ASIDE)


class Count(Enum):
    """How what is here compares with what the PACS has."""

    ALL = "all"  # every CT series is here as a whole
    SHORT = "short"  # a series that began to come is not whole
    OTHER = "other"  # series that began are whole; of others nothing came, perhaps never will


@dataclass(frozen=True)
class Expected:
    """What the PACS said of a study.

    Attributes
    ----------
    asked_at: seconds since the epoch, before the question.
    instances: number of instances of each CT series, by Series Instance UID.
    """

    asked_at: float
    instances: Mapping[str, int]


def is_complete(
    now: float, last_ct_at: float, associations_open: int, *, quiet_seconds: float, idle_seconds: float
) -> bool:
    """Whether a study whose last new CT image came at `last_ct_at` counts as complete by quiet time.

    An open association holds the study back only until `idle_seconds`: after that the receiver
    closes it, and one that is still in the index belongs to a receiver that died.

    >>> rule = {"quiet_seconds": 30.0, "idle_seconds": 60.0}
    >>> is_complete(20, 0, 0, **rule), is_complete(31, 0, 0, **rule)
    (False, True)
    >>> is_complete(31, 0, 1, **rule), is_complete(91, 0, 1, **rule)
    (False, True)
    """
    quiet = now - last_ct_at
    return quiet >= quiet_seconds and (associations_open == 0 or quiet >= quiet_seconds + idle_seconds)


def compare(here: Mapping[str, int], expected: Mapping[str, int]) -> Count:
    """Compare the number of instances of each series here with those that the PACS has.

    >>> compare({"a": 3, "b": 1}, {"a": 3}), compare({"a": 3}, {"a": 3, "b": 9})
    (<Count.ALL: 'all'>, <Count.OTHER: 'other'>)
    >>> compare({"a": 2}, {"a": 3, "b": 9})
    <Count.SHORT: 'short'>
    """
    begun = [series for series in expected if here.get(series, 0) > 0]
    if any(here[series] < expected[series] for series in begun):
        return Count.SHORT
    return Count.ALL if len(begun) == len(expected) else Count.OTHER


def complete_studies(
    index: Index,
    config: Config,
    now: float | None = None,
    expected: Mapping[str, Expected] | None = None,
) -> list[Generation]:
    """Open a generation for every waiting study that is complete now, or has waited too long.

    Parameters
    ----------
    now: seconds since the epoch; the clock by default.
    expected: what the PACS said, by Study Instance UID; nothing by default.

    Returns
    -------
    The generations: ``complete``, or ``set aside`` where the cap says so.
    """
    now = time.time() if now is None else now
    opened = []
    with index.reading() as session:
        waiting = session.scalars(sa.select(Study).where(Study.waiting)).all()
        ready = [study for study in waiting if _verdict(session, config, study, now, expected or {})]
    for seen in ready:
        with index.writing() as session:
            study = session.get_one(Study, seen.study_instance_uid)
            # Again: an image may have come, or another host been faster.
            verdict = _verdict(session, config, study, now, expected or {}) if study.waiting else None
            if verdict is None:
                continue
            study.waiting = False
            state, reason = verdict
            opened.append(_next_generation(session, study, now, state, reason))
        if reason is not None:
            logger.warning(
                "study not known to be complete study=%s action=%s", tag(seen.study_instance_uid), state
            )
    return opened


def _verdict(
    session: Session, config: Config, study: Study, now: float, expected: Mapping[str, Expected]
) -> tuple[str, str | None] | None:
    """State and reason of the generation that a waiting study gets now; None: it waits on."""
    if _is_complete(session, config, study, now, expected.get(study.study_instance_uid)):
        return "complete", None
    settings = config.completeness
    if not _is_over(session, study, now, settings.cap_seconds):
        return None
    state = "complete" if settings.at_cap == READ else SET_ASIDE
    cap = f"{settings.cap_seconds:g} s after its first new image (completeness.cap_seconds)"
    return state, f"not known to be complete {cap}"


def _is_complete(session: Session, config: Config, study: Study, now: float, answer: Expected | None) -> bool:
    """Whether a study is complete by the count of the PACS or, where that leaves it open, by quiet time."""
    # An answer counts only if it was asked for when nothing new had come for a while: a PACS that
    # passes on what it is itself receiving has everything here at any moment.
    if answer is not None and answer.asked_at >= study.last_ct_at + config.completeness.settle_seconds:
        count = compare(_here(session, study), answer.instances)
        if count is not Count.OTHER:
            return count is Count.ALL
    touching = session.scalar(
        sa.select(sa.func.count())
        .select_from(Touch)
        .join(Association, Association.id == Touch.association_id)
        .where(Touch.study_instance_uid == study.study_instance_uid, Association.closed_at.is_(None))
    )
    return is_complete(
        now,
        study.last_ct_at,
        touching or 0,
        quiet_seconds=config.quiet_seconds,
        idle_seconds=config.association_idle_seconds,
    )


def _is_over(session: Session, study: Study, now: float, cap_seconds: float) -> bool:
    """Whether the first CT image that is in no generation yet came longer than the cap ago."""
    if now - study.first_ct_at < cap_seconds:  # nothing of it is so old: spares the next question
        return False
    last = session.scalar(
        sa.select(sa.func.max(Generation.watermark)).where(
            Generation.study_instance_uid == study.study_instance_uid
        )
    )
    first_new = session.scalar(
        sa.select(sa.func.min(Instance.received_at)).where(
            Instance.study_instance_uid == study.study_instance_uid,
            Instance.is_ct,
            Instance.id > (last or 0),
        )
    )
    return first_new is not None and now - first_new >= cap_seconds


def _here(session: Session, study: Study) -> dict[str, int]:
    """Number of instances of each series of a study, of any kind: the PACS counts all, too."""
    rows = session.execute(
        sa.select(Instance.series_instance_uid, sa.func.count())
        .where(Instance.study_instance_uid == study.study_instance_uid)
        .group_by(Instance.series_instance_uid)
    )
    return {series: int(count) for series, count in rows}


def _next_generation(
    session: Session, study: Study, now: float, state: str, reason: str | None = None
) -> Generation:
    last = session.scalar(
        sa.select(sa.func.max(Generation.number)).where(
            Generation.study_instance_uid == study.study_instance_uid
        )
    )
    generation = Generation(
        study_instance_uid=study.study_instance_uid,
        number=(last or 0) + 1,
        watermark=study.last_ct_id,
        last_ct_at=study.last_ct_at,
        complete_at=now,
        state=state,
        reason=reason,
    )
    session.add(generation)
    session.flush()
    return generation


def open_again(index: Index, study_instance_uid: str, now: float | None = None) -> Generation | None:
    """Open a new generation, of the same images, of a study whose newest one could not be read.

    A new generation is tried as if it were the first: whatever made the last one fail (memory, a
    disk, an older version of the program) may be gone.

    Parameters
    ----------
    now: seconds since the epoch; the clock by default.

    Returns
    -------
    The generation, ``complete``; None where there is nothing to try again: the study is not known,
    waits for images, or its newest generation is read or on its way.
    """
    with index.writing() as session:
        study = session.get(Study, study_instance_uid)
        if study is None or study.waiting:
            return None
        newest = session.scalar(
            sa.select(Generation)
            .where(Generation.study_instance_uid == study_instance_uid)
            .order_by(Generation.number.desc())
            .limit(1)
        )
        if newest is None or newest.state not in UNREAD:
            return None
        return _next_generation(session, study, time.time() if now is None else now, "complete")
