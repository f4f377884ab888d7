"""What the receiver tells of its associations: counts per peer, and messages of the audit trail.

The receiver's only door to both; it knows no network library, so that any acceptor can use it:
`ReceiveMetrics.on_association` gives a `Visit`, and the visit is told what the association brings.
Nothing here may fail an association: an index or a trail that cannot be written is an error
in the log. Refused associations are gathered for a second, so that a flood of them makes a few
audit messages and not a full disk.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from dicom_node import traffic
from dicom_node.archive import tag
from dicom_node.audit import AuditTrail
from dicom_node.audit_message import Concerned, Participant
from dicom_node.config import Config
from dicom_node.index import Index

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
MAX_ALERTS = 32  # different (peer, reason) pairs per flush; the rest is one message


class ReceiveMetrics:
    """Counts and audit messages of one receiver process. Safe to share between threads.

    Parameters
    ----------
    config: of the node; its `calling_ae_titles` are counted by name, all others together.
    index: where counts are kept.

    Raises
    ------
    SightlineError: the archive's key cannot be had.
    """

    def __init__(self, config: Config, index: Index) -> None:
        self.audit = AuditTrail(config)
        self.traffic = traffic.Traffic(index, config.calling_ae_titles)
        self._alerts: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def start(self) -> None:
        """Begin to write what is counted, every second."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left and end."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def on_association(self, ae_title: str, address: str) -> Visit:
        """An association was accepted."""
        self.traffic.add(ae_title, traffic.ASSOCIATIONS)
        return Visit(self, ae_title, address)

    def on_association_refused(self, ae_title: str, address: str, reason: str) -> None:
        """An association, or a connection before it became one, was turned away.

        Parameters
        ----------
        ae_title: the calling AE title; empty where none was said.
        address: IP address of the peer.
        reason: one of a few fixed words of ours, never what the peer sent.
        """
        self.traffic.add(ae_title, traffic.ASSOCIATIONS_REFUSED, reason[:32])
        with self._lock:
            key = (ae_title.strip(), address, reason)
            if key not in self._alerts and len(self._alerts) >= MAX_ALERTS:
                key = ("", "", "more peers were refused")
            self._alerts[key] += 1

    def flush(self) -> None:
        """Write counts and alerts now."""
        with self._lock:
            alerts, self._alerts = self._alerts, Counter()
        for (ae_title, address, reason), count in alerts.items():
            self.audit.alert(Participant(ae_title or "unknown", address=address or None), reason, count)
            logger.warning(
                "associations refused peer=%s address=%s n=%d reason=%s",
                tag(ae_title),
                address,
                count,
                reason,
            )
        try:
            self.traffic.flush()
        except sa.exc.SQLAlchemyError as error:
            logger.error("counts not written, tried again error=%s", type(error).__name__)

    def _run(self) -> None:
        while not self._ended.wait(FLUSH_SECONDS):
            self.flush()
        self.flush()


@dataclass
class _StudySeen:
    patient: str
    instances: Counter[str] = field(default_factory=Counter)  # by SOP class
    new: int = 0


class Visit:
    """One association. Safe to share between threads: it may be lost while an instance is stored."""

    def __init__(self, metrics: ReceiveMetrics, ae_title: str, address: str) -> None:
        self._metrics = metrics
        self._ae_title = ae_title
        self._peer = Participant(ae_title.strip(), address=address)
        self._studies: dict[str, _StudySeen] = {}
        self._refused = 0
        self._lock = threading.Lock()

    def on_stored(
        self, study_instance_uid: str, sop_class_uid: str, nbytes: int, *, is_new: bool, path: Path
    ) -> None:
        """An instance is safe and will be acknowledged.

        Parameters
        ----------
        nbytes: of its file.
        is_new: False where the archive had these very bytes.
        path: its file, of which the first of each study is asked for the patient.
        """
        self._metrics.traffic.add(self._ae_title, traffic.INSTANCES if is_new else traffic.DUPLICATES)
        self._metrics.traffic.add(self._ae_title, traffic.BYTES, count=nbytes)
        with self._lock:
            seen = self._seen(study_instance_uid, path)
            seen.instances[sop_class_uid] += 1
            seen.new += is_new

    def on_refused(self, status: int) -> None:
        """An instance was refused with a C-STORE status."""
        self._metrics.traffic.add(self._ae_title, traffic.REFUSALS, f"0x{status:04X}")
        with self._lock:
            self._refused += 1

    def on_end(self) -> None:
        """The association ended, in whatever way. Saying it twice does no harm."""
        with self._lock:
            studies, self._studies = self._studies, {}
            refused, self._refused = self._refused, 0
        for uid, seen in studies.items():
            study = Concerned(uid, seen.patient, seen.instances)
            self._metrics.audit.received(self._peer, study, is_new=seen.new > 0)
        if refused:
            self._metrics.audit.not_received(self._peer, refused)

    def _seen(self, study_instance_uid: str, path: Path) -> _StudySeen:
        if study_instance_uid not in self._studies:
            patient = self._metrics.audit.patient_of(path)
            self._metrics.audit.receiving(self._peer, Concerned(study_instance_uid, patient, {}))
            self._studies[study_instance_uid] = _StudySeen(patient)
        return self._studies[study_instance_uid]
