"""What is done with leaves the disk: by age, and oldest first when the disk fills.

Never what anybody still needs from this node: a study is touched only if all its results are at
every destination that they were queued for (which has promised to keep them, where it was asked to), no
complete state of it waits to be read, failed or was refused, and nobody corrected it. Not the receiver's
refusal when the disk is full.

Removing is safe to interrupt. In one transaction the rows go to `dicom_node.removed` and the files are
renamed to ``*.removed``; after the commit those are deleted. What a crash leaves is put right by
`Retention.recover`: a renamed file that still has its row gets its name back, all others go.
An object that is sent again finds neither row nor file and is received as new.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage
from sqlalchemy.orm import Session

from dicom_node.archive import CORRECTIONS, Archive, results_folder, tag
from dicom_node.audit import AuditTrail
from dicom_node.audit_message import Concerned
from dicom_node.commitment import Commitment
from dicom_node.config import Config
from dicom_node.index import CorrectionRow, Delivery, Generation, Instance, ReadingRow, Result, Study
from dicom_node.removed import RemovedInstance, RemovedReading

logger = logging.getLogger(__name__)

ROUND_SECONDS = 30.0
SUFFIX = ".removed"
DAY = 86400.0
STRAYS_AT_ONCE = 200  # in one transaction, which the receiver may wait for
# States of a generation that owe nobody a reading any more; the first two have results on disk.
_KEPT = ("read", "unchanged")
_DONE = (*_KEPT, "removed")
# What a person may have corrected somewhere else and sent: of these, only our own results may go.
_PERHAPS_CORRECTED = (str(SegmentationStorage), str(Comprehensive3DSRStorage))


class Retention:
    """Removes what the ``[retention]`` table says. One per archive.

    Parameters
    ----------
    config: of the node.
    archive: what was received.

    Raises
    ------
    SightlineError: the archive's key cannot be had.
    """

    def __init__(self, config: Config, archive: Archive) -> None:
        self._config = config
        self._settings = config.retention
        self._archive = archive
        self._audit = AuditTrail(config)

    def run(self, stop: threading.Event) -> None:
        """One round every half minute until `stop` is set."""
        is_sound = False  # looking for what was left half done takes a walk through all folders
        while not stop.is_set():
            try:
                if not is_sound:
                    self.recover()
                is_sound = True
                self.sweep(stop=stop)
            except (OSError, sa.exc.SQLAlchemyError) as error:
                is_sound = False
                logger.error("retention round failed, tried again error=%s", type(error).__name__)
            stop.wait(ROUND_SECONDS)

    def sweep(self, now: float | None = None, stop: threading.Event | None = None) -> int:
        """One round: what is too old, then the oldest while the disk is too full.

        Parameters
        ----------
        now: seconds since the epoch; the clock by default.

        Returns
        -------
        How many times images or results of a study were removed.
        """
        now = time.time() if now is None else now
        settings, done = self._settings, 0
        for kind, days in (("images", settings.instance_days), ("results", settings.result_days)):
            if days is not None:
                why = f"older than {days:g} days"
                done += self._remove(kind, why, before=now - days * DAY, now=now, wanted=_until(stop))
        for kind in ("images", "results"):
            wanted = _until(stop, self._too_full)
            done += self._remove(kind, "disk below retention.free_gib", before=now, now=now, wanted=wanted)
        return done

    def _too_full(self) -> bool:
        return self._archive.free_bytes() < self._settings.free_gib * 2**30

    def _remove(self, kind: str, why: str, *, before: float, now: float, wanted: Callable[[], bool]) -> int:
        """Oldest first, as long as it is `wanted`; stray objects before studies. How often something went."""
        done = 0
        if kind == "images":
            while wanted() and self.remove_strays(why, before=before, now=now):
                done += 1
        take = self.remove_images if kind == "images" else self.remove_results
        for uid in self._candidates(kind, before) if wanted() else []:
            if not wanted():
                break
            done += take(uid, why, now)
        return done

    def _candidates(self, kind: str, before: float) -> list[str]:
        """Studies with something to remove, whose last CT image came before a time; oldest first."""
        uid = Study.study_instance_uid
        there = {
            "images": sa.select(Instance.id).where(Instance.study_instance_uid == uid),
            "results": sa.select(Generation.id).where(
                Generation.study_instance_uid == uid, Generation.state.in_(_KEPT)
            ),
        }
        with self._archive.index.reading() as session:
            return list(
                session.scalars(
                    sa.select(uid)
                    .where(Study.last_ct_at < before, there[kind].exists(), *_nothing_owed())
                    .order_by(Study.last_ct_at, uid)
                )
            )

    def remove_strays(self, why: str, *, before: float, now: float) -> bool:
        """Remove some of the oldest objects of studies that never had a CT image; whether there were any.

        Nobody reads those and nothing is made of them.
        """
        with self._archive.index.writing() as session:
            rows = session.scalars(
                sa.select(Instance)
                .where(
                    Instance.received_at < before,
                    Instance.study_instance_uid.not_in(sa.select(Study.study_instance_uid)),
                    ~_perhaps_corrected(),
                )
                .order_by(Instance.received_at)
                .limit(STRAYS_AT_ONCE)
            ).all()
            gone = self._take_away(session, rows, now)
        _delete(gone)
        if rows:
            logger.info("objects removed without_ct=true instances=%d reason=%s", len(rows), why)
        return bool(rows)

    def remove_images(self, study_instance_uid: str, why: str, now: float) -> bool:
        """Remove the received objects of a study if it is still done with; whether any were there."""
        with self._archive.index.writing() as session:
            if not self._still_removable(session, study_instance_uid):
                return False
            rows = session.scalars(
                sa.select(Instance).where(Instance.study_instance_uid == study_instance_uid)
            ).all()
            if not rows:
                return False
            patient = self._audit.patient_of(self._archive.path(rows[0].sop_instance_uid))
            gone = self._take_away(session, rows, now)
        _delete(gone)
        counts = Counter(row.sop_class_uid for row in rows)
        self._audit.removed(Concerned(study_instance_uid, patient, counts), why)
        logger.info(
            "images removed study=%s instances=%d bytes=%d reason=%s",
            tag(study_instance_uid),
            len(rows),
            sum(row.size for row in rows),
            why,
        )
        return True

    def remove_results(self, study_instance_uid: str, why: str, now: float) -> bool:
        """Remove the results folders of a study if it is still done with; whether any were there.

        Its generations become ``removed``: the same images, sent again, are read again.
        """
        with self._archive.index.writing() as session:
            if not self._still_removable(session, study_instance_uid):
                return False
            keys = session.scalars(
                sa.select(ReadingRow.key).where(ReadingRow.study_instance_uid == study_instance_uid)
            ).all()
            session.execute(
                sa.update(Generation)
                .where(Generation.study_instance_uid == study_instance_uid, Generation.state.in_(_DONE))
                .values(state="removed", reason="its results were removed; they had been delivered")
            )
            for key in keys:
                session.merge(
                    RemovedReading(reading_key=key, study_instance_uid=study_instance_uid, removed_at=now)
                )
            session.flush()
            gone = [_put_aside(results_folder(self._archive, key)) for key in keys]
        _delete(gone)
        logger.info("results removed study=%s readings=%d reason=%s", tag(study_instance_uid), len(keys), why)
        return True

    def _still_removable(self, session: Session, study_instance_uid: str) -> bool:
        """Whether nothing is owed of a study, whose row is now locked: an image that comes now waits."""
        query = sa.select(Study).where(Study.study_instance_uid == study_instance_uid, *_nothing_owed())
        if session.scalar(query.with_for_update(of=Study)) is None:
            return False
        keys = session.scalars(
            sa.select(ReadingRow.key).where(ReadingRow.study_instance_uid == study_instance_uid)
        )
        # A correction's files lie there a moment before its row does.
        return not any((results_folder(self._archive, key) / CORRECTIONS).exists() for key in keys)

    def _take_away(self, session: Session, rows: Sequence[Instance], now: float) -> list[Path]:
        """Move rows to the removed ones, put their files aside; what is to be deleted after the commit."""
        for row in rows:
            session.add(_removed(row, now))
            session.delete(row)
        session.flush()
        return [_put_aside(self._archive.path(row.sop_instance_uid)) for row in rows]

    def recover(self) -> int:
        """Finish or undo what a crash left half done; returns how many files and folders that were."""
        root = self._archive.root
        left = [*root.glob(f"instances/*/*{SUFFIX}"), *root.glob(f"results/*{SUFFIX}")]
        if not left:
            return 0
        # One writing session, so that nobody commits a row between the question and the rename.
        with self._archive.index.writing() as session:
            uids = session.scalars(sa.select(Instance.sop_instance_uid))
            keys = session.scalars(sa.select(Generation.reading_key).where(Generation.state.in_(_KEPT)))
            needed = {self._archive.path(uid) for uid in uids}
            needed |= {results_folder(self._archive, key) for key in keys if key is not None}
            for path in left:
                original = path.with_name(path.name.removesuffix(SUFFIX))
                if original in needed and not original.exists():
                    path.rename(original)
        _delete(left)
        logger.warning("retention recovered entries=%d", len(left))
        return len(left)


def _until(stop: threading.Event | None, condition: Callable[[], bool] | None = None) -> Callable[[], bool]:
    """Whether to go on: not told to stop, and `condition` holds if there is one."""
    return lambda: not (stop is not None and stop.is_set()) and (condition is None or condition())


def _perhaps_corrected() -> sa.ColumnElement[bool]:
    """Condition on an `Instance` row: what a person may have made of our results, and is not one of them."""
    return sa.and_(
        Instance.sop_class_uid.in_(_PERHAPS_CORRECTED),
        Instance.sop_instance_uid.not_in(sa.select(Result.sop_instance_uid)),
    )


def _nothing_owed() -> list[sa.ColumnElement[bool]]:
    """Conditions on a `Study` row under which nobody needs anything of it from this node any more."""
    uid = Study.study_instance_uid
    generation = sa.select(Generation.id).where(Generation.study_instance_uid == uid)
    results = (
        sa.select(Result.sop_instance_uid)
        .join(ReadingRow, ReadingRow.key == Result.reading_key)
        .where(ReadingRow.study_instance_uid == uid)
    )
    deliveries = sa.select(Delivery.sop_instance_uid).where(
        Delivery.sop_instance_uid == Result.sop_instance_uid
    )
    unpromised = sa.select(Commitment.sop_instance_uid).where(
        Commitment.sop_instance_uid == Result.sop_instance_uid, Commitment.state.in_(("due", "asked"))
    )
    foreign = sa.select(Instance.id).where(Instance.study_instance_uid == uid, _perhaps_corrected())
    return [
        ~Study.waiting,
        generation.exists(),
        ~generation.where(Generation.state.not_in(_DONE)).exists(),
        results.exists(),
        ~results.where(~deliveries.exists()).exists(),
        ~results.where(deliveries.where(Delivery.state != "delivered").exists()).exists(),
        ~results.where(unpromised.exists()).exists(),
        ~sa.select(CorrectionRow.id).where(CorrectionRow.study_instance_uid == uid).exists(),
        ~foreign.exists(),
    ]


def _removed(row: Instance, now: float) -> RemovedInstance:
    return RemovedInstance(
        id=row.id,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sha256=row.sha256,
        size=row.size,
        received_at=row.received_at,
        removed_at=now,
    )


def _put_aside(path: Path) -> Path:
    """Rename, so that the name is free at once; a file that is missing already is no reason to stop."""
    aside = path.with_name(path.name + SUFFIX)
    if aside.is_dir():  # left by a crash: a folder cannot be renamed onto another
        shutil.rmtree(aside)
    if path.exists():
        path.rename(aside)
    return aside


def _delete(paths: Sequence[Path]) -> None:
    """Delete files and folders that were put aside, as far as they are there."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
