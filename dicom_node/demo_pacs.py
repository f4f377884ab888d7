"""A small PACS for the demo: stores a study to the node, and takes what the node stores back.

Not for patients: it listens on loopback only, keeps files in a plain folder and forgets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pydicom
from pydicom.uid import Comprehensive3DSRStorage, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from dicom_node.errors import SightlineError
from dicom_node.series import Progress

AE_TITLE = "DEMOPACS"
_VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 annex A: C-ECHO


class DemoError(SightlineError):
    """The demo did not get to its end; the message says where it stopped."""


class Pacs:
    """C-STORE and C-ECHO SCP on a free loopback port, and SCU. A context manager.

    Attributes
    ----------
    folder: where received objects lie, numbered in order of arrival.
    port: where it listens.
    last_received_at: seconds since the epoch, 0.0 before the first object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.last_received_at = 0.0
        self._received: list[tuple[str, Path]] = []
        self._lock = threading.Lock()
        self._server: Any = None

    def __enter__(self) -> Pacs:
        self.folder.mkdir(parents=True)
        ae = AE(AE_TITLE)
        ae.add_supported_context(_VERIFICATION)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    def _store(self, event: Any) -> int:
        """Keep one object as it came; its file name owes nothing to its content."""
        with self._lock:
            path = self.folder / f"{len(self._received) + 1:04d}.dcm"
            path.write_bytes(event.encoded_dataset())
            self._received.append((str(event.request.AffectedSOPClassUID), path))
            self.last_received_at = time.time()
        return 0x0000

    def received(self) -> list[Path]:
        """What came, in order of arrival."""
        with self._lock:
            return [path for _, path in self._received]

    def has_report(self) -> bool:
        """Whether a Comprehensive 3D SR came."""
        with self._lock:
            return any(uid == Comprehensive3DSRStorage for uid, _ in self._received)

    def send(
        self, files: Sequence[Path], port: int, called_ae_title: str, *, progress: Progress | None = None
    ) -> None:
        """C-STORE CT images to a node on loopback.

        Raises
        ------
        DemoError: if the node takes no association or does not store an image.
        """
        ae = AE(AE_TITLE)
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", port, ae_title=called_ae_title)
        if not association.is_established:
            raise DemoError(f"the node on port {port} takes no association from {AE_TITLE}")
        try:
            for done, path in enumerate(files, start=1):
                answer = association.send_c_store(pydicom.dcmread(path))
                status = answer.Status if "Status" in answer else None
                if status != 0x0000:
                    shown = "no answer" if status is None else f"status 0x{status:04X}"
                    raise DemoError(f"the node did not store image {done} of {len(files)}: {shown}")
                if progress is not None:
                    progress("send study", done / len(files))
        finally:
            if association.is_established:
                association.release()
