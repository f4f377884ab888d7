"""The DICOM receiver of one process: a lobby, associations, C-ECHO, and C-STORE into the archive.

Not a reader: it runs in a process of its own, so that the model never holds its GIL
(design.md, decision 7), and it never decodes pixel data. Several of these may share one listening
socket (`dicom_node.receiver_processes`). The parts: `lobby` waits with connections, `association_policy`
and `open_associations` say who comes in, `upper_layer` is the association, `store_service` what it brings.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import socket
import time

import sqlalchemy as sa
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt

from dicom_node.archive import Archive, tag
from dicom_node.association_policy import AssociationPolicy, Rejection, caller
from dicom_node.commitment_reports import COMMITMENT_CONTEXT, storage_commitment_handlers
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.lobby import Lobby
from dicom_node.open_associations import OpenAssociations, make_slots
from dicom_node.receive_metrics import ReceiveMetrics
from dicom_node.store_requests import ProtocolError, StoreRequest
from dicom_node.store_service import CT_CLASSES, SUCCESS, Outcome, Reception, Sender, StoreService
from dicom_node.tls import server_context
from dicom_node.upper_layer import MAXIMUM_PDU_BYTES, StoreAssociation

logger = logging.getLogger(__name__)

VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO, PS3.4 annex A
# Inflating is the one decoding that a header needs; refusing it closes a decompression bomb.
_REFUSED_SYNTAXES = frozenset({str(DeflatedExplicitVRLittleEndian), "1.2.840.10008.1.2.4.95"})
_BACKLOG = 128
_STOP_SECONDS = 2.0


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


def bind(config: Config) -> socket.socket:
    """A socket of the port that `config` names; it does not listen yet, so that nobody is let in too early.

    Raises
    ------
    SightlineError: the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.address else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.address, config.port))
    except OSError as error:
        listener.close()
        raise _cannot_listen(config, error) from None
    return listener


def _cannot_listen(config: Config, error: OSError) -> SightlineError:
    return SightlineError(
        f"port = {config.port}: cannot listen on {config.address}: {error.strerror}; "
        "stop the program that uses it or choose another port"
    )


class Receiver:
    """The storage SCP of one process.

    Parameters
    ----------
    config: address, port, AE titles and limits.
    archive: where instances go.
    listener: of `bind`, which is closed at the end; None to bind where `config` says.
    open_associations: shared with the other processes of the port; None where there is none.
    process: number among those, from 0.

    Raises
    ------
    SightlineError: the certificates of TLS cannot be loaded.
    """

    def __init__(
        self,
        config: Config,
        archive: Archive,
        listener: socket.socket | None = None,
        open_associations: OpenAssociations | None = None,
        process: int = 0,
    ) -> None:
        self._config = config
        self._archive = archive
        self._listener = listener
        # 64 characters are what the index has for it.
        self._name = f"{config.ae_title}:{config.port}/{process}@{socket.gethostname()}"[:64]
        self._policy = AssociationPolicy(config)
        self._metrics = ReceiveMetrics(config, archive.index)
        self._tls = server_context(config.receiver)
        self._open = open_associations or OpenAssociations(
            config, make_slots(config, multiprocessing.get_context("spawn"))
        )
        self._ae = self._application_entity()
        self._contexts = self._ae.supported_contexts
        self._store = StoreService(config, archive, self._name, self.note)
        self._associations: set[StoreAssociation] = set()
        self._lobby: Lobby | None = None

    def start(self) -> None:
        """Listen. Returns at once; associations are served by threads.

        Raises
        ------
        SightlineError: the port cannot be listened on.
        """
        # pynetdicom's lines quote what peers send, and a peer may have it write as many as it likes.
        _config.LOG_HANDLER_LEVEL = "none"
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        listener = self._listener or bind(self._config)
        left_open = self._archive.close_all_associations(self._name)
        parts = self._archive.remove_unfinished(self._name)
        if left_open or parts:
            logger.warning("receiver recovered associations=%d unfinished_files=%d", left_open, parts)
        self._open.clear()
        try:
            listener.listen(_BACKLOG)  # from now on a peer that connects is served; again, it does no harm
        except OSError as error:
            listener.close()
            raise _cannot_listen(self._config, error) from None
        self._lobby = Lobby(
            listener,
            self._may_connect,
            self._admit,
            others_first=self._open.others_have_fewer,
            tls=self._tls,
            maximum_waiting=self._config.receiver.maximum_waiting,
            request_seconds=self._config.receiver.request_seconds,
        )
        self._lobby.start()
        self._metrics.start()
        logger.info(
            "receiver ready ae_title=%s address=%s port=%d tls=%s",
            self._config.ae_title,
            self._config.address,
            self._config.port,
            self._tls is not None,
        )

    def stop(self) -> None:
        """Stop listening and abort what is open; what was acknowledged stays."""
        if self._lobby is not None:
            self._lobby.stop()
        for association in list(self._associations):
            association.abort(block=False)
        deadline = time.monotonic() + _STOP_SECONDS
        for association in list(self._associations):
            association.join(max(0.0, deadline - time.monotonic()))
        self._metrics.stop()
        self._archive.close_all_associations(self._name)

    def note(self, outcome: Outcome) -> None:
        """Log and count how a C-STORE request ended."""
        visit = outcome.sender.visit
        if outcome.status != SUCCESS:
            visit.on_refused(outcome.status)
            logger.warning("refused instance status=0x%04X reason=%s", outcome.status, outcome.reason)
            return
        visit.on_stored(
            outcome.study_instance_uid,
            outcome.request.sop_class_uid,
            outcome.n_bytes,
            is_new=outcome.is_new,
            path=self._archive.path(outcome.request.sop_instance_uid),
        )
        if not logger.isEnabledFor(logging.DEBUG):
            return
        logger.debug(
            "stored instance=%s ct=%s new=%s bytes=%d ms=%.1f",
            tag(outcome.request.sop_instance_uid),
            outcome.is_ct,
            outcome.is_new,
            outcome.n_bytes,
            outcome.seconds * 1000,
        )

    def _application_entity(self) -> AE:
        ae = AE(self._config.ae_title)
        ae.maximum_pdu_size = MAXIMUM_PDU_BYTES
        ae.acse_timeout = self._config.receiver.request_seconds
        ae.network_timeout = self._config.association_idle_seconds
        # Ours are counted before there is an association (`OpenAssociations`).
        ae.maximum_associations = 2 * self._config.maximum_associations
        ae.add_supported_context(VERIFICATION)
        decodable = decodable_transfer_syntaxes()
        stored_only = [uid for uid in ALL_TRANSFER_SYNTAXES if uid not in _REFUSED_SYNTAXES]
        ae.add_supported_context(**COMMITMENT_CONTEXT)
        for context in AllStoragePresentationContexts:
            storage_class = str(context.abstract_syntax)
            is_ct = storage_class in CT_CLASSES
            ae.add_supported_context(storage_class, decodable if is_ct else stored_only)
        return ae

    def _may_connect(self, address: str) -> bool:
        allowed = self._policy.may_connect(address)
        if not allowed:
            self._metrics.on_association_refused("", address, "address not allowed")
        return allowed

    def _admit(self, connection: socket.socket, address: str, request: bytes) -> None:
        """Begin an association, or say why not. Called by the lobby."""
        who = caller(request, address)
        rejection = Rejection.UNREADABLE if who is None else self._policy.judge(who)
        if rejection is None and self._store.disk.refuses_associations():
            rejection = Rejection.DISK
        place = self._open.enter(address) if rejection is None else None
        if who is None or place is None:
            title = "" if who is None else who.calling_ae_title
            self._reject(connection, title, address, rejection or Rejection.TOO_MANY)
            return
        try:
            visit = self._metrics.on_association(who.calling_ae_title, address)
            sender = Sender(who.calling_ae_title, address, visit)
            self._begin_association(connection, request, sender, place)
        except (OSError, RuntimeError) as error:  # the peer has left, or no thread can be started
            logger.warning("association not begun address=%s error=%s", address, type(error).__name__)
            connection.close()
            self._open.leave(place)

    def _reject(self, connection: socket.socket, title: str, address: str, rejection: Rejection) -> None:
        self._metrics.on_association_refused(title, address, rejection.name.lower().replace("_", " "))
        with contextlib.suppress(OSError):  # the peer has left
            connection.send(rejection.pdu)  # ten bytes, which any socket's buffer takes
        connection.close()

    def _begin_association(
        self, connection: socket.socket, request: bytes, sender: Sender, place: int
    ) -> None:
        connection.settimeout(self._config.association_idle_seconds)
        association = StoreAssociation(
            self._ae,
            connection,
            request,
            contexts=self._contexts,
            begin=lambda store, opened: self._begin_store(store, opened, sender),
            ended=lambda ended: self._end_association(ended, sender, place),
        )
        association.bind(evt.EVT_C_ECHO, lambda _event: SUCCESS)
        for event, handler in storage_commitment_handlers(self._archive.index, self._config):
            association.bind(event, handler)
        self._associations.add(association)
        association.start()

    def _begin_store(self, request: StoreRequest, association: StoreAssociation, sender: Sender) -> Reception:
        context = association.context(request.context_id)
        if context is None:
            raise ProtocolError("a C-STORE request in a context that was not agreed on")
        abstract_syntax, transfer_syntax = context
        same = abstract_syntax == request.sop_class_uid
        return self._store.begin(request, transfer_syntax if same else None, sender)

    def _end_association(self, association: StoreAssociation, sender: Sender, place: int) -> None:
        self._open.leave(place)
        self._associations.discard(association)
        sender.visit.on_end()
        try:
            self._store.end(sender)
        except sa.exc.SQLAlchemyError as error:
            # The study waits for `association_idle_seconds` longer, then counts it as ended.
            logger.error("association not closed in the index error=%s", type(error).__name__)
