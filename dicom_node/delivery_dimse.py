"""Results to a DICOM peer: associations as SCU, with or without TLS; C-ECHO and C-STORE.

Knows nothing of what is due when (`dicom_node.delivery`). Every wait is bounded: for the
connection, the TLS handshake, the answer, and for a peer that stops reading.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE

from dicom_node.commitment_reports import STORAGE_COMMITMENT
from dicom_node.config import Config
from dicom_node.delivery_parcels import (
    NATIVE,
    Outcome,
    Parcel,
    UnreachableError,
    fitting,
    in_words,
    transfer_syntax,
)
from dicom_node.delivery_tls import tls_context, tls_problem
from dicom_node.destination_settings import Destination
from dicom_node.errors import SightlineError

VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO, PS3.4 annex A
# The clock of an answer starts when pynetdicom queues the request, so that a slow line needs
# time for the object itself: one second more for each so many bytes.
_SLOWEST_BYTES_PER_SECOND = 64 * 1024

Context = tuple[str, Sequence[str]]  # SOP class, transfer syntaxes in order of preference


@contextlib.contextmanager
def association(
    destination: Destination, config: Config, contexts: Sequence[Context], handlers: Sequence[Any] = ()
) -> Iterator[Association]:
    """An established association as SCU, released at the end.

    Parameters
    ----------
    contexts: presentation contexts to propose; the peer chooses one syntax in each.
    handlers: pynetdicom event handlers, such as of N-EVENT-REPORT.

    Raises
    ------
    UnreachableError: there is no connection, the peer rejects the association or does not answer.
    """
    _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own handlers log data set values
    timeout = config.delivery.timeout_seconds
    ae = AE(config.ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout
    ae.network_timeout = None  # it would end a long wait for an answer, which dimse_timeout bounds
    for sop_class, syntaxes in contexts:
        ae.add_requested_context(sop_class, list(syntaxes))
    try:
        tls = (tls_context(destination), destination.address) if destination.tls else None
    except SightlineError as error:
        raise UnreachableError(error.message) from None
    connected = threading.Event()
    ended = [(event, _let_go) for event in (evt.EVT_ABORTED, evt.EVT_RELEASED, evt.EVT_CONN_CLOSE)]
    for address in _addresses(destination):
        opened = ae.associate(
            address,
            destination.port,
            ae_title=destination.ae_title,
            tls_args=tls,
            evt_handlers=[(evt.EVT_CONN_OPEN, _on_connected, [timeout, connected]), *ended, *handlers],
        )
        if connected.is_set():
            break
    # Where the peer accepts the association but none of the contexts, pynetdicom aborts it.
    if not opened.is_established and not opened.rejected_contexts:
        raise UnreachableError(_why_not(opened, destination, timeout, connected.is_set()))
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def _addresses(destination: Destination) -> list[str]:
    """The peer's IP addresses: pynetdicom takes a host name without a dot for IPv6."""
    try:
        found = socket.getaddrinfo(destination.address, destination.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnreachableError(f"{destination.address}: {error.strerror}; check address") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _on_connected(event: evt.Event, timeout: float, connected: threading.Event) -> None:
    """Give up later on a peer that stops reading; pynetdicom would wait for it for ever."""
    connected.set()
    connection: Any = event.assoc.dul.socket.socket  # type: ignore[union-attr]
    connection.settimeout(timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _let_go(event: evt.Event) -> None:
    """When an association ends, free a thread that is about to send on it.

    pynetdicom 3.0.4 waits, without a limit, for its reactor to pause before it sends; a reactor
    that has just seen the peer's abort never pauses again.
    """
    event.assoc._is_paused = True


def _why_not(opened: Association, destination: Destination, timeout: float, connected: bool) -> str:
    refusal = rejection(opened)
    if refusal is not None:
        return f"association rejected: {refusal.reason_str}; check AE titles on both sides"
    if destination.tls:
        problem = tls_problem(destination, destination.address, destination.port, timeout)
        if problem is not None:
            return problem
    if connected:
        return "no answer to the association request; check that a DICOM node listens at this port"
    return "no connection; check address, port and that the peer runs"


def rejection(opened: Association) -> A_ASSOCIATE | None:
    """The peer's A-ASSOCIATE-RJ (PS3.8 table 9-21); None where it sent none.

    A rejection that is faster than the thread that asked makes pynetdicom 3.0.4 think that there was no
    connection; the answer then still waits to be taken.
    """
    answer = opened.acceptor.primitive if opened.is_rejected else opened.dul.peek_next_pdu()
    return answer if isinstance(answer, A_ASSOCIATE) and answer.result else None


def echo(destination: Destination, config: Config) -> str | None:
    """Ask a DICOM peer for life (C-ECHO); None if it answers, else the reason why it does not."""
    try:
        with association(destination, config, [(VERIFICATION, NATIVE)]) as opened:
            if not opened.is_established:
                return "the peer does not accept C-ECHO"
            status = opened.send_c_echo()
    except UnreachableError as error:
        return str(error)
    if "Status" not in status:
        return "no answer to C-ECHO in time"
    return None if status.Status == 0 else f"C-ECHO answered 0x{status.Status:04X}"


def store(
    destination: Destination, config: Config, parcels: Sequence[Parcel]
) -> Generator[Outcome, None, None]:
    """Store results over one association, in order; each outcome as soon as it is known.

    Ends early, without outcomes for the rest, when the association is lost on the way.

    Raises
    ------
    UnreachableError: as `association`.
    """
    contexts = _contexts(parcels)
    if destination.storage_commitment:
        contexts.append((STORAGE_COMMITMENT, NATIVE))
    with association(destination, config, contexts) as opened:
        committable = STORAGE_COMMITMENT in {c.abstract_syntax for c in opened.accepted_contexts}
        for parcel in parcels:
            yield _store_one(opened, parcel, config.delivery.timeout_seconds, committable)
            if not opened.is_established and opened.accepted_contexts:
                return


def _contexts(parcels: Sequence[Parcel]) -> list[Context]:
    """For each class the native syntaxes, and each compressed one by itself, so that both can be had."""
    contexts: list[Context] = []
    for sop_class in sorted({parcel.sop_class_uid for parcel in parcels}):
        own = {transfer_syntax(parcel.path) for parcel in parcels if parcel.sop_class_uid == sop_class}
        contexts += [(sop_class, [syntax]) for syntax in sorted(own - set(NATIVE))]
        contexts.append((sop_class, NATIVE))
    return contexts


def _store_one(opened: Association, parcel: Parcel, timeout: float, committable: bool) -> Outcome:
    accepted = {
        str(context.transfer_syntax[0])
        for context in opened.accepted_contexts
        if context.abstract_syntax == parcel.sop_class_uid
    }
    if not accepted:
        return Outcome(parcel, None, "the peer accepts no presentation context for its SOP class")
    opened.dimse_timeout = timeout + parcel.path.stat().st_size / _SLOWEST_BYTES_PER_SECOND
    try:
        answer = opened.send_c_store(fitting(parcel.path, accepted))
    except (ValueError, RuntimeError) as error:
        # ValueError: no context fits, or a result that cannot be decoded; RuntimeError: it hung up.
        return Outcome(parcel, None, str(error))
    if "Status" not in answer:
        lost = "the peer aborted" if opened.acse.is_aborted() else "no answer to C-STORE in time"
        return Outcome(parcel, None, lost)
    status = int(answer.Status)
    return Outcome(parcel, status, in_words(status), str(answer.get("ErrorComment") or ""), committable)
