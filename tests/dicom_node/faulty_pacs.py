"""A storage SCP on loopback that does what real ones do on a bad day, as a test tells it to."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.pdu import P_DATA_TF

from dicom_node.commitment_reports import STORAGE_COMMITMENT

NATIVE = [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)]
SILENT, ABORT, ANSWER_AND_ABORT = "silent", "abort", "answer and abort"


@dataclass
class FaultyPacs:
    """See above. Change the attributes while it listens; storage classes and TLS before.

    Attributes
    ----------
    port: where it listens.
    answers: what to do with the next C-STORE requests: a status, `SILENT`, `ABORT` or
        `ANSWER_AND_ABORT`; 0x0000 when used up.
    classes: SOP classes that it accepts -> transfer syntaxes; all in the native ones by default.
    callers: AE titles that may associate; none named means any.
    tls: server side of TLS, if it speaks that.
    commitment: whether it offers storage commitment; `actions` are the requests so far, and
        `action_status` is what it answers.
    comment: Error Comment of a failure.
    received: every C-STORE request in order: SOP Class and Instance UID, transfer syntax, data set.
    associations: how many it accepted.
    deaf: whether it stops reading as soon as an association stands.
    """

    port: int
    answers: list[int | str] = field(default_factory=list)
    classes: dict[str, Sequence[str]] | None = None
    callers: list[str] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    commitment: bool = False
    action_status: int = 0x0000
    comment: str = ""
    received: list[tuple[str, str, str, Dataset]] = field(default_factory=list)
    actions: list[Dataset] = field(default_factory=list)
    associations: int = 0
    deaf: bool = False
    on_action: Any = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[FaultyPacs]:
        """Answer while this is entered."""
        ae = AE("PACS")
        classes = self.classes
        if classes is None:
            classes = {str(c.abstract_syntax): NATIVE for c in AllStoragePresentationContexts}
        for sop_class, syntaxes in {**classes, "1.2.840.10008.1.1": NATIVE}.items():
            # pynetdicom accepts one context for each class and syntax that is proposed.
            ae.add_supported_context(sop_class, list(syntaxes))
        if self.commitment:
            ae.add_supported_context(STORAGE_COMMITMENT)
        ae.require_calling_aet = self.callers
        self._ended = threading.Event()
        server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            ssl_context=self.tls,
            evt_handlers=[
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_N_ACTION, self._on_action),
                (evt.EVT_ESTABLISHED, self._on_established),
            ],
        )
        try:
            yield self
        finally:
            self._ended.set()
            server.shutdown()
            ae.shutdown()

    def order(self) -> list[str]:
        """The SOP classes that came, in order."""
        return [sop_class for sop_class, *_ in self.received]

    def _on_established(self, event: evt.Event) -> None:
        self.associations += 1
        if self.deaf:
            event.assoc.dul._is_transport_event = self._hears_at_the_end(event.assoc.dul)

    def _hears_at_the_end(self, dul: Any) -> Callable[[], bool]:
        hears = dul._is_transport_event
        return lambda: self._ended.is_set() and hears()

    def _on_store(self, event: evt.Event) -> int | Dataset:
        request: Any = event.request
        self.received.append(
            (
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
                event.dataset,
            )
        )
        answer = self.answers.pop(0) if self.answers else 0x0000
        if answer == SILENT:
            self._ended.wait(30)
            return 0xC000
        if answer == ABORT:
            event.assoc.abort()
            return 0xC000
        if answer == ANSWER_AND_ABORT:
            event.assoc.bind(evt.EVT_PDU_SENT, _abort_after_answer)
            return 0xC000
        assert isinstance(answer, int)
        if not self.comment:
            return answer
        status = Dataset()
        status.Status = answer
        status.ErrorComment = self.comment
        return status

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        request = event.action_information
        self.actions.append(request)
        if self.on_action is not None:
            self.on_action(event, request)
        return self.action_status, None


def _abort_after_answer(event: evt.Event) -> None:
    if isinstance(event.pdu, P_DATA_TF):
        event.assoc.abort(block=False)
