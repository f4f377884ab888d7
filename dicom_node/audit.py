"""The audit trail: DICOM audit messages in files that are only ever appended to.

``audit/2026-11-26.xml-lines`` in the archive, one file per day (UTC), readable by its owner only:
one message of PS3.15 A.5 per line. A line is on disk (fsync) when `AuditTrail.write` returns, and
processes on several hosts may write at once. Not the log: this is for the security officer, so it
names studies and peers; of a patient it has a keyed digest (`dicom_node.audit_message`). Not a
sender: to forward the lines to an audit repository (RFC 5424) is a log shipper's work.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import pydicom

from dicom_node import audit_message as am
from dicom_node.audit_message import AuditMessage, Concerned, Participant
from dicom_node.config import Config
from dicom_node.log_lines import archive_key, keyed_digest

logger = logging.getLogger(__name__)

FOLDER = "audit"


class AuditTrail:
    """Writes the node's audit messages. Safe to share between threads.

    Parameters
    ----------
    config: of the node: its archive and AE title.

    Raises
    ------
    SightlineError: the archive's key cannot be had.
    """

    def __init__(self, config: Config) -> None:
        self._folder = config.archive.absolute() / FOLDER
        self._key = archive_key(config.archive)
        self._ae_title = config.ae_title
        self._host = socket.gethostname()
        self.source = f"{config.ae_title}@{self._host}"

    def write(self, message: AuditMessage, now: float | None = None) -> bool:
        """Append one message; whether it is on disk.

        A trail that cannot be written is an error in the log and stops nothing: images that were
        received must still be read.
        """
        now = time.time() if now is None else now
        line = message.xml(self.source, now) + b"\n"
        path = self._folder / time.strftime("%Y-%m-%d.xml-lines", time.gmtime(now))
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            _append(path, line)
        except OSError as error:
            logger.error("audit message not written event=%s error=%s", message.event.value, error.strerror)
            return False
        return True

    def patient_of(self, path: Path) -> str:
        """The digest that stands for the patient of a DICOM file; `UNKNOWN` where it names none."""
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
            identifier = str(header.get("PatientID") or "").strip()
        except Exception:  # whatever a file does to the parser, its transfer is told
            identifier = ""
        return keyed_digest(self._key, identifier) if identifier else am.UNKNOWN

    def own_process(self, role: str) -> Participant:
        """A process of this node."""
        return Participant(f"{self._ae_title} {role}", am.APPLICATION, self._host)

    def started(self, role: str) -> None:
        """A process of the node started (A.5.3.1)."""
        self._activity(role, am.APPLICATION_START)

    def stopped(self, role: str) -> None:
        """A process of the node ended as it was told to (A.5.3.1)."""
        self._activity(role, am.APPLICATION_STOP)

    def _activity(self, role: str, kind: am.Code) -> None:
        participants = [self.own_process(role)]
        self.write(AuditMessage(am.APPLICATION_ACTIVITY, am.EXECUTE, participants, event_type=kind))

    def receiving(self, peer: Participant, study: Concerned) -> None:
        """A peer began to store a study here (A.5.3.3)."""
        self.write(AuditMessage(am.BEGIN_TRANSFERRING, am.EXECUTE, self._ends(peer), study=study))

    def received(self, peer: Participant, study: Concerned, *, is_new: bool) -> None:
        """A peer is done with storing a study here; `is_new` if any instance was (A.5.3.7)."""
        action = am.CREATE if is_new else am.READ
        self.write(AuditMessage(am.INSTANCES_TRANSFERRED, action, self._ends(peer), study=study))

    def not_received(self, peer: Participant, count: int) -> None:
        """Instances of a peer were refused (A.5.3.7); of which study is not known for sure.

        What succeeded and what failed are two messages (A.5.2, EventOutcomeIndicator).
        """
        unknown = Concerned(am.UNKNOWN, am.UNKNOWN, {})
        why = f"{count} instances were refused"
        self.write(
            AuditMessage(
                am.INSTANCES_TRANSFERRED,
                am.READ,
                self._ends(peer),
                am.MINOR_FAILURE,
                description=why,
                study=unknown,
            )
        )

    def _ends(self, peer: Participant) -> list[Participant]:
        source = Participant(peer.user_id, am.SOURCE, peer.address, is_requestor=True)
        return [source, Participant(self._ae_title, am.DESTINATION, self._host)]

    def sending(self, peer: Participant, study: Concerned) -> None:
        """Results of a study are about to be sent to a destination (A.5.3.3)."""
        self.write(AuditMessage(am.BEGIN_TRANSFERRING, am.EXECUTE, self._sent_to(peer), study=study))

    def sent(self, peer: Participant, study: Concerned, failed: Mapping[str, int]) -> None:
        """Results of a study were sent to a destination, or some of them not (A.5.3.7)."""
        participants = self._sent_to(peer)
        if study.instances:
            self.write(AuditMessage(am.INSTANCES_TRANSFERRED, am.READ, participants, study=study))
        if failed:
            missing = Concerned(study.study_instance_uid, study.patient, failed)
            self.write(
                AuditMessage(
                    am.INSTANCES_TRANSFERRED,
                    am.READ,
                    participants,
                    am.MINOR_FAILURE,
                    description="the destination did not store them",
                    study=missing,
                )
            )

    def _sent_to(self, peer: Participant) -> list[Participant]:
        source = Participant(self._ae_title, am.SOURCE, self._host, is_requestor=True)
        return [source, Participant(peer.user_id, am.DESTINATION, peer.address)]

    def removed(self, study: Concerned, why: str) -> None:
        """Retention removed the images of a study (A.5.3.8)."""
        participants = [Participant(f"{self._ae_title} retention", None, self._host, is_requestor=True)]
        self.write(AuditMessage(am.STUDY_DELETED, am.DELETE, participants, description=why, study=study))

    def asked(self, route: str, peer: Participant, study: Concerned | None) -> None:
        """A text was asked for over HTTP (A.5.3.10); what was typed is not kept, it may name a person."""
        source = Participant(peer.user_id, am.SOURCE, peer.address, is_requestor=True)
        answering = Participant(f"{self._ae_title} service", am.DESTINATION, self._host)
        self.write(AuditMessage(am.QUERY, am.EXECUTE, [source, answering], study=study, query=route))

    def exported(self, peer: Participant, study: Concerned | None) -> None:
        """Images or results of a study were given out over HTTP (A.5.3.5)."""
        receiving = Participant(peer.user_id, am.DESTINATION, peer.address, is_requestor=True)
        exporting = Participant(f"{self._ae_title} service", am.SOURCE, self._host)
        medium = Participant(peer.user_id, am.DESTINATION_MEDIA, peer.address, media=am.MEDIA_URI)
        self.write(AuditMessage(am.DATA_EXPORT, am.READ, [receiving, exporting, medium], study=study))

    def corrected(self, peer: Participant, study: Concerned | None) -> None:
        """A radiologist's correction of a study came over HTTP (A.5.3.6)."""
        who = Participant(peer.user_id, None, peer.address, is_requestor=True)
        participants = [who, self.own_process("service")]
        self.write(AuditMessage(am.INSTANCES_ACCESSED, am.UPDATE, participants, study=study))

    def alert(self, peer: Participant, why: str, count: int = 1) -> None:
        """A peer was turned away (A.5.3.11).

        Parameters
        ----------
        count: how often since the last alert about it.
        """
        times = "" if count == 1 else f", {count} times"
        self.write(
            AuditMessage(
                am.SECURITY_ALERT,
                am.EXECUTE,
                [self.own_process("node"), Participant(peer.user_id, None, peer.address)],
                am.MINOR_FAILURE,
                event_type=am.NODE_AUTHENTICATION,
                description=f"{why}{times}",
                alert_subject=peer.address or am.UNKNOWN,
            )
        )

    def model_changed(self, who: str, digest: str, what: str) -> None:
        """A person had the node use another checkpoint (A.5.3.11, a change of software configuration).

        Parameters
        ----------
        who: the user of the operating system.
        digest: of the checkpoint that is in use now.
        what: ``"promoted"`` or ``"gone back to"``.
        """
        self.write(
            AuditMessage(
                am.SECURITY_ALERT,
                am.EXECUTE,
                [Participant(who, None, self._host, is_requestor=True), self.own_process("node")],
                event_type=am.SOFTWARE_CONFIGURATION,
                description=f"checkpoint {digest} {what}",
                alert_subject=self._host,
            )
        )


def _append(path: Path, line: bytes) -> None:
    """Append a whole line, or nothing, and put it on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # O_APPEND alone is not enough on a network file system
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, line) != len(line):  # the disk is full
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
