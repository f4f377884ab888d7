"""The Storage Service Class as SCP (PS3.4 annex B): what becomes of each C-STORE request.

Not the network (`dicom_node.upper_layer`) and not the archive: here an instance is let in, written,
checked and answered. Every storage class is taken, because a PACS that routes a study sends our own
results back with it; only CT images can start a reading. What is refused is read to its end and
answered with a status that says why; the association goes on.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from dicom_node.archive import Archive, ConflictingInstanceError, Stored, is_uid
from dicom_node.config import Config
from dicom_node.disk_space import DiskSpace
from dicom_node.group_commit import Arrival
from dicom_node.incoming import IncomingFile, UnreadableError
from dicom_node.receive_metrics import Visit
from dicom_node.store_requests import StoreRequest

CT_CLASSES = frozenset(
    str(uid) for uid in (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
)
# Status codes of C-STORE: PS3.4 table B.2-1, PS3.7 annex C. The last digits of Cxxx are ours.
SUCCESS = 0x0000
DUPLICATE_SOP_INSTANCE = 0x0111
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DATA_SET_DOES_NOT_MATCH = 0xA900
INVALID_UID = 0xC001
UNREADABLE = 0xC002
NOT_STORED = 0xC003
# An instance may be larger than what was free when it began to come.
_LOOK_AT_DISK_BYTES = 64 << 20


class RefusedError(Exception):
    """An instance that is not stored, with the C-STORE status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# What may go wrong with one instance.
_TROUBLE = (RefusedError, UnreadableError, ConflictingInstanceError, OSError, sa.exc.SQLAlchemyError)


def _refusal(error: Exception) -> RefusedError:
    """The status that says what went wrong."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, UnreadableError):
        return RefusedError(UNREADABLE, f"the data set cannot be parsed: {error}")
    if isinstance(error, ConflictingInstanceError):
        return RefusedError(DUPLICATE_SOP_INSTANCE, str(error))
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return RefusedError(OUT_OF_RESOURCES if full else NOT_STORED, f"not written: {error.strerror}")
    full = "disk is full" in str(getattr(error, "orig", ""))
    return RefusedError(OUT_OF_RESOURCES if full else NOT_STORED, f"index: {type(error).__name__}")


@dataclass
class Sender:
    """One association as the storage service sees it.

    Attributes
    ----------
    ae_title, address: of the peer.
    visit: is told what it brings.
    instances, n_bytes: what came so far, refused or not.
    number: of the association in the index; given on its first CT image.
    """

    ae_title: str
    address: str
    visit: Visit
    instances: int = 0
    n_bytes: int = 0
    number: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How one C-STORE request ended, for logs and counters; without identity.

    Attributes
    ----------
    sender, request: who sent what.
    status: of the response.
    reason: why it was refused; empty otherwise.
    study_instance_uid, is_ct, is_new: of what was stored.
    n_bytes: of the file that was stored; of what came of the data set where it was refused.
    seconds: from the request to the response.
    """

    sender: Sender
    request: StoreRequest
    status: int
    reason: str
    study_instance_uid: str
    is_ct: bool
    is_new: bool
    n_bytes: int
    seconds: float


class StoreService:
    """Takes C-STORE requests of all associations of one receiver. Safe to share between threads.

    Parameters
    ----------
    config: limits.
    archive: where instances go.
    name: of the receiver, under which it is known in the index.
    note: called with every outcome.
    """

    def __init__(self, config: Config, archive: Archive, name: str, note: Callable[[Outcome], None]) -> None:
        self.config = config
        self.archive = archive
        self.disk = DiskSpace(archive.root, config)
        self.incoming = archive.incoming_folder(name)
        self.note = note
        self._name = name

    def begin(self, request: StoreRequest, transfer_syntax_uid: str | None, sender: Sender) -> Reception:
        """Let in one request; `transfer_syntax_uid` is None where its context is for another class."""
        return Reception(self, request, transfer_syntax_uid, sender)

    def number(self, sender: Sender) -> int:
        """The index's number of an association, given on its first CT image."""
        if sender.number is None:
            sender.number = self.archive.open_association(self._name)
        return sender.number

    def end(self, sender: Sender) -> None:
        """The association is over."""
        if sender.number is not None:
            self.archive.close_association(sender.number)


class Reception:
    """One C-STORE request under way; a `dicom_node.store_requests.Message`."""

    def __init__(
        self,
        service: StoreService,
        request: StoreRequest,
        transfer_syntax_uid: str | None,
        sender: Sender,
    ) -> None:
        self._service = service
        self._request = request
        self._syntax = transfer_syntax_uid
        self._sender = sender
        self._start = time.perf_counter()
        self._n_bytes = self._looked_at_disk = 0
        self._file: IncomingFile | None = None
        self._refusal: RefusedError | None = None
        try:
            self._file = self._let_in()
        except (RefusedError, OSError) as error:
            self._refuse(error)

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the data set; those of a refused instance are dropped."""
        self._n_bytes += len(data)
        self._sender.n_bytes += len(data)
        if self._file is None:
            return
        try:
            self._check_size()
            self._file.write(data)
        except (RefusedError, OSError) as error:
            self._refuse(error)

    def finish(self) -> int:
        """Keep the instance; the status of the response. 0x0000 only if it survives a power cut."""
        arrival = stored = None
        try:
            if self._file is not None:
                arrival = self._arrival(self._file)
                self._file.sync()
                stored = self._service.archive.commit(arrival)
                self._file.close()  # it has another name now, or is gone
                self._file = None
        except _TROUBLE as error:
            self._refuse(error)
        refusal = self._refusal
        outcome = Outcome(
            sender=self._sender,
            request=self._request,
            status=SUCCESS if refusal is None else refusal.status,
            reason="" if refusal is None else str(refusal),
            study_instance_uid="" if arrival is None else arrival.study_instance_uid,
            is_ct=arrival is not None and arrival.is_ct,
            is_new=stored is Stored.NEW,
            n_bytes=self._n_bytes if arrival is None else arrival.size,
            seconds=time.perf_counter() - self._start,
        )
        self._service.note(outcome)
        return outcome.status

    def discard(self) -> None:
        """Leave no unfinished file behind."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _refuse(self, error: Exception) -> None:
        """Nothing of this instance is kept; the response will say why."""
        self._refusal = _refusal(error)
        self.discard()

    def _let_in(self) -> IncomingFile:
        """What can be said before the data set comes."""
        request, sender, limits = self._request, self._sender, self._service.config.receiver
        if not is_uid(request.sop_instance_uid) or not is_uid(request.sop_class_uid):
            raise RefusedError(INVALID_UID, "the request's SOP Instance or Class UID is not a UID")
        if self._syntax is None:
            raise RefusedError(SOP_CLASS_NOT_SUPPORTED, "the presentation context is for another SOP class")
        sender.instances += 1
        if sender.instances > limits.maximum_instances:
            raise RefusedError(OUT_OF_RESOURCES, "too many instances for one association (maximum_instances)")
        if self._service.disk.refuses_instances():
            raise RefusedError(OUT_OF_RESOURCES, "the disk is full up to the reserve (reserve_gib)")
        return IncomingFile(
            self._service.incoming, request.sop_class_uid, request.sop_instance_uid, self._syntax
        )

    def _check_size(self) -> None:
        """What can be said while it comes."""
        limits = self._service.config.receiver
        if self._n_bytes > limits.maximum_instance_gib * 2**30:
            raise RefusedError(OUT_OF_RESOURCES, "the instance is too large (maximum_instance_gib)")
        if self._sender.n_bytes > limits.maximum_gib * 2**30:
            raise RefusedError(OUT_OF_RESOURCES, "too much data for one association (maximum_gib)")
        if self._n_bytes - self._looked_at_disk > _LOOK_AT_DISK_BYTES:
            self._looked_at_disk = self._n_bytes
            if self._service.disk.refuses_instances():
                raise RefusedError(OUT_OF_RESOURCES, "the disk is full up to the reserve (reserve_gib)")

    def _arrival(self, file: IncomingFile) -> Arrival:
        """The instance as the archive knows it, checked as far as the archive needs it."""
        request = self._request
        header = file.header()
        # Over-anonymised objects have empty UIDs here; the request's then stand alone.
        in_data_set = (
            header.sop_class_uid or request.sop_class_uid,
            header.sop_instance_uid or request.sop_instance_uid,
        )
        if in_data_set != (request.sop_class_uid, request.sop_instance_uid):
            raise RefusedError(DATA_SET_DOES_NOT_MATCH, "the data set's SOP UIDs are not the request's")
        is_ct = request.sop_class_uid in CT_CLASSES
        study, series = header.study_instance_uid, header.series_instance_uid
        if is_ct and not (is_uid(study) and is_uid(series)):
            raise RefusedError(INVALID_UID, "a CT image without a valid Study and Series Instance UID")
        return Arrival(
            sop_instance_uid=request.sop_instance_uid,
            sop_class_uid=request.sop_class_uid,
            study_instance_uid=study if is_uid(study) else "",
            series_instance_uid=series if is_uid(series) else "",
            transfer_syntax_uid=self._syntax or "",
            is_ct=is_ct,
            sha256=file.sha256,
            size=file.size,
            part=file.path,
            association=self._service.number(self._sender) if is_ct else None,
        )
