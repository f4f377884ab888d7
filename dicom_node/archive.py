"""The archive of received objects: a file each, and a row in the index once the file is safe.

Not the results of readings (`dicom_node.readings`) and no network. The order that makes an
acknowledgement true: write ``.part``, fsync, rename, fsync the folder, commit the row; only
then may the caller answer 0x0000 (`dicom_node.group_commit` does the last three for many at once).
File names are digests, never a received value.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.group_commit import Arrival, GroupCommit, Stored, sync_folder
from dicom_node.index import Association, Generation, Index, Instance
from dicom_node.log_lines import Tag

__all__ = [
    "Archive",
    "ConflictingInstanceError",
    "Received",
    "Stored",
    "is_uid",
    "results_folder",
    "sync_folder",
    "tag",
]

CORRECTIONS = "corrections"  # folder in the results folder of a reading that a person corrected
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(value: str) -> bool:
    """Whether `value` is a UID as far as its characters and length go (PS3.5 9.1).

    Leading zeros of a component are let through: real devices write them.

    >>> is_uid("1.2.840.10008.1.1"), is_uid("../../etc/passwd"), is_uid("")
    (True, False, False)
    """
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def tag(uid: str) -> Tag:
    """What stands for a UID or an AE title in logs, where no patient's identifiers belong.

    A log line shows it as a digest with the archive's key (`dicom_node.log_lines`).
    """
    return Tag(uid)


class ConflictingInstanceError(Exception):
    """Another data set with the same SOP Instance UID is already archived; the first one is kept."""


@dataclass(frozen=True)
class Received:
    """One instance as it came over the network.

    Attributes
    ----------
    sop_instance_uid, sop_class_uid, study_instance_uid, series_instance_uid: valid UIDs.
    transfer_syntax_uid: of the presentation context it came in.
    is_ct: whether it is a CT image, which a reading can be made of.
    content: the whole DICOM file (preamble, file meta information, data set), never re-encoded.
    sha256: hexadecimal SHA-256 of the data set alone.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    is_ct: bool
    content: bytes
    sha256: str


class Archive:
    """Files and index of everything received. Safe to share between threads."""

    def __init__(self, root: Path, index: Index) -> None:
        self.root = root
        self.index = index
        self._instances = f"{root}/instances"
        self._commits = GroupCommit(index, self._path)

    @classmethod
    def open(cls, config: Config) -> Archive:
        """The archive that `config` names, made if it is not there.

        Raises
        ------
        SightlineError: the folder cannot be made or the index cannot be opened.
        """
        root = config.archive.absolute()
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)  # patients' images: for this user only
            for n in range(256):
                (root / "instances" / f"{n:02x}").mkdir(parents=True, exist_ok=True)
            for name in ("incoming", "results"):
                (root / name).mkdir(exist_ok=True)
        except OSError as error:
            raise SightlineError(f"archive = {str(root)!r}: cannot be made: {error.strerror}") from None
        return cls(root, Index(config.database_url))

    def path(self, sop_instance_uid: str) -> Path:
        """Where the file of an instance lies: a digest of its UID in 256 folders."""
        return Path(self._path(sop_instance_uid))

    def _path(self, sop_instance_uid: str) -> str:
        digest = hashlib.sha256(sop_instance_uid.encode()).hexdigest()
        return f"{self._instances}/{digest[:2]}/{digest}.dcm"

    def free_bytes(self) -> int:
        """Free space on the archive's disk."""
        return shutil.disk_usage(self.root).free

    def store(self, received: Received, association: int | None = None) -> Stored:
        """Keep one instance; when this returns it survives a crash and a power cut.

        Parameters
        ----------
        received: the instance.
        association: number from `open_association`, so that its study waits for its end.

        Raises
        ------
        ConflictingInstanceError: a different data set of this UID is archived.
        OSError: the file could not be written (disk full, permissions).
        """
        part = self.root / "incoming" / f"{uuid.uuid4().hex}.part"
        _write_part(part, received.content)
        return self.commit(
            Arrival(
                sop_instance_uid=received.sop_instance_uid,
                sop_class_uid=received.sop_class_uid,
                study_instance_uid=received.study_instance_uid,
                series_instance_uid=received.series_instance_uid,
                transfer_syntax_uid=received.transfer_syntax_uid,
                is_ct=received.is_ct,
                sha256=received.sha256,
                size=len(received.content),
                part=str(part),
                association=association,
            )
        )

    def commit(self, arrival: Arrival) -> Stored:
        """The same for an instance whose file is written and fsynced; the file is taken over.

        Raises
        ------
        ConflictingInstanceError: a different data set of this UID is archived.
        OSError: the file could not be renamed.
        sqlalchemy.exc.SQLAlchemyError: the index could not be written.
        """
        stored = self._commits.commit(arrival)
        if stored is Stored.CONFLICT:
            raise ConflictingInstanceError("an instance of this UID is archived with another content")
        return stored

    def incoming_folder(self, receiver: str) -> Path:
        """The folder, made if need be, for unfinished files of the receiver called `receiver` alone."""
        folder = self.root / "incoming" / hashlib.sha256(receiver.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def open_association(self, receiver: str) -> int:
        """Note that an association began at the receiver called `receiver`; returns its number."""
        with self.index.writing() as session:
            row = Association(receiver=receiver, opened_at=time.time(), closed_at=None)
            session.add(row)
            session.flush()
            return row.id

    def close_association(self, number: int) -> None:
        """Note that an association ended, in whatever way."""
        with self.index.writing() as session:
            session.execute(
                sa.update(Association).where(Association.id == number).values(closed_at=time.time())
            )

    def close_all_associations(self, receiver: str) -> int:
        """Close what a receiver that died left open; returns how many those were."""
        with self.index.writing() as session:
            result = session.execute(
                sa.update(Association)
                .where(Association.receiver == receiver, Association.closed_at.is_(None))
                .values(closed_at=time.time())
                .returning(Association.id)
            )
            return len(result.all())

    def remove_unfinished(self, receiver: str) -> int:
        """Delete what a receiver that died left unfinished; nobody was told that it is safe."""
        parts = list(self.incoming_folder(receiver).glob("*.part"))
        for part in parts:
            part.unlink(missing_ok=True)
        return len(parts)

    def ct_instances(self, generation: Generation) -> list[Instance]:
        """The CT instances of a study's complete state, in order of arrival."""
        with self.index.reading() as session:
            rows = session.scalars(
                sa.select(Instance)
                .where(
                    Instance.study_instance_uid == generation.study_instance_uid,
                    Instance.is_ct,
                    Instance.id <= generation.watermark,
                )
                .order_by(Instance.id)
            )
            return list(rows)


def results_folder(archive: Archive, key: str) -> Path:
    """Where the files of a reading lie."""
    return archive.root / "results" / key


def _write_part(part: Path, content: bytes) -> None:
    """`content` in the new file `part`, whole and on disk."""
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
