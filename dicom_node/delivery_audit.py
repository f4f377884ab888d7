"""What the audit trail is told of deliveries: which results of which study go to which destination.

Not the sending (`dicom_node.delivery`), which calls `begin` before and `end` after each attempt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import sqlalchemy as sa

from dicom_node.archive import Archive, results_folder
from dicom_node.audit import AuditTrail
from dicom_node.audit_message import Concerned, Participant
from dicom_node.config import Config
from dicom_node.index import Delivery, ReadingRow, Result


class DeliveryAudit:
    """Audit messages of one courier; not safe to share between threads.

    Of a result that a destination does not take, only the first attempt is told: a PACS that is
    down for days would otherwise fill the trail. That it was stored in the end always is.

    Parameters
    ----------
    config, archive: of the node.

    Raises
    ------
    SightlineError: the archive's key cannot be had.
    """

    def __init__(self, config: Config, archive: Archive) -> None:
        self._archive = archive
        self._trail = AuditTrail(config)
        self._first: set[str] = set()

    def begin(self, destination: str, ae_title: str, address: str, results: Collection[str]) -> None:
        """Results are about to be sent.

        Parameters
        ----------
        destination: its name in the configuration.
        ae_title, address: for DICOMweb its name again, and its host.
        results: SOP Instance UIDs.
        """
        with self._archive.index.reading() as session:
            first = sa.select(Delivery.sop_instance_uid).where(
                Delivery.sop_instance_uid.in_(results),
                Delivery.destination == destination,
                Delivery.attempts == 0,
            )
            self._first = set(session.scalars(first))
        for study in self._studies(self._first).values():
            self._trail.sending(Participant(ae_title, address=address), study)

    def end(self, ae_title: str, address: str, stored: Collection[str], not_stored: Collection[str]) -> None:
        """An attempt is over: SOP Instance UIDs of what the destination has now, and of what it has not."""
        peer = Participant(ae_title, address=address)
        there = self._studies(stored)
        missing = self._studies(self._first.intersection(not_stored))
        for uid in sorted({*there, *missing}):
            study = there.get(uid) or Concerned(uid, missing[uid].patient, {})
            self._trail.sent(peer, study, missing[uid].instances if uid in missing else {})

    def _studies(self, sop_instance_uids: Collection[str]) -> dict[str, Concerned]:
        """Study -> what of it is among these results."""
        with self._archive.index.reading() as session:
            rows = session.execute(
                sa.select(Result, ReadingRow.study_instance_uid)
                .join(ReadingRow, ReadingRow.key == Result.reading_key)
                .where(Result.sop_instance_uid.in_(sop_instance_uids))
                .order_by(Result.sop_instance_uid)
            ).all()
        counts: dict[str, Counter[str]] = {}
        patients: dict[str, str] = {}
        for result, uid in rows:
            counts.setdefault(uid, Counter())[result.sop_class_uid] += 1
            if uid not in patients:
                path = results_folder(self._archive, result.reading_key) / result.file_name
                patients[uid] = self._trail.patient_of(path)
        return {uid: Concerned(uid, patients[uid], count) for uid, count in counts.items()}
