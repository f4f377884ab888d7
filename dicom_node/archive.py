"""The archive of received objects: a file each, and a row in the index once the file is safe.

Not the results of readings (`dicom_node.readings`) and no network. The order that makes an
acknowledgement true: write ``.part``, fsync, rename, fsync the folder, commit the row; only
then may the caller answer 0x0000. File names are digests, never a received value.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import sqlalchemy as sa

from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import Association, Generation, Index, Instance, Study, Touch
from dicom_node.log_lines import Tag

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


class Stored(Enum):
    """What `Archive.store` found: a new instance, or one that it already holds byte by byte."""

    NEW = "new"
    SAME = "same"


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
            (root / "results").mkdir(exist_ok=True)
        except OSError as error:
            raise SightlineError(f"archive = {str(root)!r}: cannot be made: {error.strerror}") from None
        return cls(root, Index(config.database_url))

    def path(self, sop_instance_uid: str) -> Path:
        """Where the file of an instance lies: a digest of its UID in 256 folders."""
        digest = hashlib.sha256(sop_instance_uid.encode()).hexdigest()
        return self.root / "instances" / digest[:2] / f"{digest}.dcm"

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
        known = self._known_digest(received.sop_instance_uid)
        if known is None:
            path = self.path(received.sop_instance_uid)
            part = _write_part(path, received.content)
            try:
                self._commit(received, association, part, path)
            except sa.exc.IntegrityError:  # the same instance came over another association just now
                known = self._known_digest(received.sop_instance_uid)
            finally:
                part.unlink(missing_ok=True)
        if known is None:
            return Stored.NEW
        if known != received.sha256:
            raise ConflictingInstanceError("an instance of this UID is archived with another content")
        return Stored.SAME

    def _known_digest(self, sop_instance_uid: str) -> str | None:
        with self.index.reading() as session:
            return session.scalar(
                sa.select(Instance.sha256).where(Instance.sop_instance_uid == sop_instance_uid)
            )

    def _commit(self, received: Received, association: int | None, part: Path, path: Path) -> None:
        """Row, rename, commit: of two associations that bring one UID only one gets past the row."""
        now = time.time()
        row = Instance(
            sop_instance_uid=received.sop_instance_uid,
            sop_class_uid=received.sop_class_uid,
            study_instance_uid=received.study_instance_uid,
            series_instance_uid=received.series_instance_uid,
            transfer_syntax_uid=received.transfer_syntax_uid,
            is_ct=received.is_ct,
            sha256=received.sha256,
            size=len(received.content),
            received_at=now,
        )
        with self.index.writing() as session:
            session.add(row)
            session.flush()
            part.rename(path)
            sync_folder(path.parent)
            if not received.is_ct:
                return
            study = session.get(Study, received.study_instance_uid)
            if study is None:
                study = Study(study_instance_uid=received.study_instance_uid, first_ct_at=now)
                session.add(study)
            study.last_ct_at, study.last_ct_id, study.waiting = now, row.id, True
            if association is not None:
                session.merge(
                    Touch(association_id=association, study_instance_uid=received.study_instance_uid)
                )

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

    def remove_unfinished(self) -> int:
        """Delete ``.part`` files of a receiver that died; nobody was told that they are safe."""
        parts = list((self.root / "instances").glob("*/*.part"))
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


def _write_part(path: Path, content: bytes) -> Path:
    """`content` in a ``.part`` file next to `path`, whole and on disk; the caller renames it."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
