"""When a study is complete: the decision, and the generations that keep it.

DICOM has no signal for "that was all", so completeness is never a fact but a rule: no new CT
image for a quiet time, and no association still open that brought some. Images that come
later open a new generation of the study. Not the reading: a generation only says which
instances belong to it. Everything is in the index, so a restart changes nothing.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from dicom_node.config import Config
from dicom_node.index import Association, Generation, Index, Study, Touch

# What a study ends in without a reading, so that a person may want it tried again.
UNREAD = ("failed", "refused")


def is_complete(
    now: float, last_ct_at: float, associations_open: int, *, quiet_seconds: float, idle_seconds: float
) -> bool:
    """Whether a study whose last new CT image came at `last_ct_at` counts as complete.

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


def complete_studies(index: Index, config: Config, now: float | None = None) -> list[Generation]:
    """Open a generation for every waiting study that is complete now, and return them.

    Parameters
    ----------
    now: seconds since the epoch; the clock by default.
    """
    now = time.time() if now is None else now
    opened = []
    with index.reading() as session:
        waiting = session.scalars(sa.select(Study.study_instance_uid).where(Study.waiting)).all()
    for study_instance_uid in waiting:
        with index.writing() as session:
            study = session.get_one(Study, study_instance_uid)
            touching = session.scalar(
                sa.select(sa.func.count())
                .select_from(Touch)
                .join(Association, Association.id == Touch.association_id)
                .where(Touch.study_instance_uid == study_instance_uid, Association.closed_at.is_(None))
            )
            if not study.waiting or not is_complete(
                now,
                study.last_ct_at,
                touching or 0,
                quiet_seconds=config.quiet_seconds,
                idle_seconds=config.association_idle_seconds,
            ):
                continue
            study.waiting = False
            last = session.scalar(
                sa.select(sa.func.max(Generation.number)).where(
                    Generation.study_instance_uid == study_instance_uid
                )
            )
            generation = Generation(
                study_instance_uid=study_instance_uid,
                number=(last or 0) + 1,
                watermark=study.last_ct_id,
                last_ct_at=study.last_ct_at,
                complete_at=now,
                state="complete",
            )
            session.add(generation)
            session.flush()
            opened.append(generation)
    return opened


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
        generation = Generation(
            study_instance_uid=study_instance_uid,
            number=newest.number + 1,
            watermark=study.last_ct_id,
            last_ct_at=study.last_ct_at,
            complete_at=time.time() if now is None else now,
            state="complete",
        )
        session.add(generation)
        session.flush()
        return generation
