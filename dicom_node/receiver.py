"""The DICOM receiver: association policy, C-ECHO, and C-STORE into the archive.

Not a reader: it runs in a process of its own, so that the model never holds its GIL
(design.md, decision 7), and it never decodes pixel data. 0x0000 is answered only after
`Archive.store` returned. Every storage class is accepted, because a PACS that routes a study
sends our own results back with it; only CT images can start a reading.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import threading
import time
from typing import Any, cast

import pydicom
import sqlalchemy as sa
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    AllTransferSyntaxes,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.dimse_primitives import C_STORE

from dicom_node.archive import Archive, ConflictingInstanceError, Received, Stored, is_uid, tag
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.receive_metrics import ReceiveMetrics, Visit

logger = logging.getLogger(__name__)

CT_CLASSES = frozenset(
    str(uid) for uid in (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
)
VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO, PS3.4 annex A
# Status codes of C-STORE: PS3.4 table B.2-1, PS3.7 annex C. The last digits of Cxxx are ours.
SUCCESS = 0x0000
DUPLICATE_SOP_INSTANCE = 0x0111
OUT_OF_RESOURCES = 0xA700
DATA_SET_DOES_NOT_MATCH = 0xA900
INVALID_UID = 0xC001
UNREADABLE = 0xC002
NOT_STORED = 0xC003
# Bigger is faster, but pynetdicom 3.0.4 reserves what the peer announces, so not unlimited.
MAXIMUM_PDU_BYTES = 1 << 20
# Inflating is the one decoding that a header needs; refusing it closes a decompression bomb.
_REFUSED_SYNTAXES = frozenset({str(DeflatedExplicitVRLittleEndian), "1.2.840.10008.1.2.4.95"})


class RefusedError(Exception):
    """An instance that is not stored, with the C-STORE status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def decodable_transfer_syntaxes() -> list[str]:
    """The transfer syntaxes whose pixel data this installation can decode."""
    usable = []
    for uid in AllTransferSyntaxes:
        if str(uid) in _REFUSED_SYNTAXES:
            continue
        try:
            available = not uid.is_encapsulated or get_decoder(uid).is_available
        except NotImplementedError:  # pydicom knows no decoder for it (video, JPIP)
            available = False
        if available:
            usable.append(str(uid))
    return usable


class Receiver:
    """The storage SCP of one node, on one port.

    Parameters
    ----------
    config: address, port, AE titles and limits.
    archive: where instances go.
    """

    def __init__(self, config: Config, archive: Archive) -> None:
        self._config = config
        self._archive = archive
        self._name = f"{config.ae_title}:{config.port}"
        self._numbers: dict[Any, int] = {}  # open pynetdicom association -> number in the index
        self._visits: dict[Any, Visit] = {}
        self._metrics = ReceiveMetrics(config, archive.index)
        self._lock = threading.Lock()
        self._ae = self._application_entity()

    def start(self) -> None:
        """Listen. Returns at once; associations are served by pynetdicom's threads.

        Raises
        ------
        SightlineError: the port cannot be listened on.
        """
        _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own handlers log data set values
        left_open = self._archive.close_all_associations(self._name)
        parts = self._archive.remove_unfinished()
        if left_open or parts:
            logger.warning("receiver recovered associations=%d unfinished_files=%d", left_open, parts)
        address = (self._config.address, self._config.port)
        try:
            self._ae.start_server(
                address,
                block=False,
                evt_handlers=[
                    (evt.EVT_C_ECHO, lambda _event: SUCCESS),
                    (evt.EVT_C_STORE, self._on_store),
                    (evt.EVT_ACCEPTED, self._on_accepted),
                    (evt.EVT_REJECTED, self._on_rejected),
                    (evt.EVT_RELEASED, self._on_end),
                    (evt.EVT_ABORTED, self._on_end),
                    (evt.EVT_CONN_CLOSE, self._on_end),
                ],
            )
        except OSError as error:
            raise SightlineError(
                f"port = {address[1]}: cannot listen on {address[0]}: {error.strerror}; "
                "stop the program that uses it or choose another port"
            ) from None
        self._metrics.start()
        logger.info(
            "receiver ready ae_title=%s address=%s port=%d", self._config.ae_title, address[0], address[1]
        )

    def stop(self) -> None:
        """Stop listening and abort what is open; what was acknowledged stays."""
        self._ae.shutdown()
        self._metrics.stop()
        self._archive.close_all_associations(self._name)

    def _application_entity(self) -> AE:
        ae = AE(self._config.ae_title)
        ae.maximum_pdu_size = MAXIMUM_PDU_BYTES
        ae.maximum_associations = self._config.maximum_associations
        ae.network_timeout = self._config.association_idle_seconds
        ae.require_calling_aet = list(self._config.calling_ae_titles)
        ae.add_supported_context(VERIFICATION)
        decodable = decodable_transfer_syntaxes()
        stored_only = [uid for uid in ALL_TRANSFER_SYNTAXES if uid not in _REFUSED_SYNTAXES]
        for context in AllStoragePresentationContexts:
            storage_class = str(context.abstract_syntax)
            is_ct = storage_class in CT_CLASSES
            ae.add_supported_context(storage_class, decodable if is_ct else stored_only)
        return ae

    def _on_store(self, event: evt.Event) -> int:
        """Answer one C-STORE request (PS3.4 B.2.3)."""
        start = time.perf_counter()
        try:
            reserve = self._config.reserve_gib * 2**30
            if self._archive.free_bytes() < reserve + _data_set(event).getbuffer().nbytes:
                raise RefusedError(OUT_OF_RESOURCES, "the disk is full up to the reserve (reserve_gib)")
            received = received_instance(event)
            number = self._number(event.assoc) if received.is_ct else None
            stored = self._archive.store(received, number)
        except RefusedError as error:
            return self._refuse(event, error.status, str(error))
        except ConflictingInstanceError as error:
            return self._refuse(event, DUPLICATE_SOP_INSTANCE, str(error))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return self._refuse(
                event, OUT_OF_RESOURCES if full else NOT_STORED, f"not written: {error.strerror}"
            )
        except sa.exc.SQLAlchemyError as error:
            full = "disk is full" in str(getattr(error, "orig", ""))
            return self._refuse(
                event, OUT_OF_RESOURCES if full else NOT_STORED, f"index: {type(error).__name__}"
            )
        if (visit := self._visits.get(event.assoc)) is not None:
            path = self._archive.path(received.sop_instance_uid)
            visit.on_stored(
                received.study_instance_uid,
                received.sop_class_uid,
                len(received.content),
                is_new=stored is Stored.NEW,
                path=path,
            )
        logger.debug(
            "stored instance=%s study=%s ct=%s new=%s bytes=%d ms=%.1f",
            tag(received.sop_instance_uid),
            tag(received.study_instance_uid),
            received.is_ct,
            stored is Stored.NEW,
            len(received.content),
            (time.perf_counter() - start) * 1000,
        )
        return SUCCESS

    def _refuse(self, event: evt.Event, status: int, reason: str) -> int:
        if (visit := self._visits.get(event.assoc)) is not None:  # none once the connection is lost
            visit.on_refused(status)
        logger.warning("refused instance status=0x%04X reason=%s", status, reason)
        return status

    def _number(self, association: Any) -> int:
        """The index's number of an association, given on its first CT image."""
        with self._lock:
            if association not in self._numbers:
                self._numbers[association] = self._archive.open_association(self._name)
            return self._numbers[association]

    def _on_accepted(self, event: evt.Event) -> None:
        peer = event.assoc.requestor
        self._visits[event.assoc] = self._metrics.on_association(peer.ae_title, peer.address)

    def _on_rejected(self, event: evt.Event) -> None:
        peer = event.assoc.requestor
        self._metrics.on_association_refused(peer.ae_title, peer.address, "the association was rejected")

    def _on_end(self, event: evt.Event) -> None:
        with self._lock:
            number = self._numbers.pop(event.assoc, None)
            visit = self._visits.pop(event.assoc, None)
        if visit is not None:
            visit.on_end()
        if number is not None:
            self._archive.close_association(number)


def _data_set(event: evt.Event) -> io.BytesIO:
    """The encoded data set of a C-STORE request, as it came."""
    data_set = cast(C_STORE, event.request).DataSet
    if data_set is None:
        raise RefusedError(UNREADABLE, "the request has no data set")
    return data_set


def received_instance(event: evt.Event) -> Received:
    """What a C-STORE request brings, checked as far as the archive needs it.

    Raises
    ------
    RefusedError: a UID is missing or malformed, or the data set contradicts the request.
    """
    request = cast(C_STORE, event.request)
    sop_instance_uid = str(request.AffectedSOPInstanceUID or "")
    sop_class_uid = str(request.AffectedSOPClassUID or "")
    if not is_uid(sop_instance_uid) or not is_uid(sop_class_uid):
        raise RefusedError(INVALID_UID, "the request's SOP Instance or Class UID is not a UID")
    content = event.encoded_dataset()
    try:
        header = pydicom.dcmread(
            io.BytesIO(content),
            stop_before_pixels=True,
            specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"],
        )
        # Over-anonymised objects have empty UIDs here; the request's then stand alone.
        in_data_set = str(header.get("SOPInstanceUID") or sop_instance_uid)
        study, series = (
            str(header.get(keyword) or "") for keyword in ("StudyInstanceUID", "SeriesInstanceUID")
        )
        class_in_data_set = str(header.get("SOPClassUID") or sop_class_uid)
    except (InvalidDicomError, ValueError, TypeError, KeyError, AttributeError, EOFError) as error:
        raise RefusedError(UNREADABLE, f"the data set cannot be parsed: {type(error).__name__}") from error
    if in_data_set != sop_instance_uid or class_in_data_set != sop_class_uid:
        raise RefusedError(DATA_SET_DOES_NOT_MATCH, "the data set's SOP UIDs are not the request's")
    is_ct = sop_class_uid in CT_CLASSES
    if is_ct and not (is_uid(study) and is_uid(series)):
        raise RefusedError(INVALID_UID, "a CT image without a valid Study and Series Instance UID")
    return Received(
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=sop_class_uid,
        study_instance_uid=study if is_uid(study) else "",
        series_instance_uid=series if is_uid(series) else "",
        transfer_syntax_uid=str(event.context.transfer_syntax),
        is_ct=is_ct,
        content=content,
        sha256=hashlib.sha256(_data_set(event).getbuffer()).hexdigest(),
    )
