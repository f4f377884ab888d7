"""The two ends of a campaign: who sends studies, and the PACS that gets the results.

The sender believes what it is told: an instance that was answered 0x0000 is never sent again, and is
what the audit asks for later. All others are sent again until they are acknowledged, as modalities do.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.dsutils import encode

from dicom_node.config import Config
from dicom_node.delivery_dimse import rejection
from tests.dicom_node.ct_series import ct_series

RETRY_SECONDS = 0.5
SHAPE = (12, 40, 48)


@dataclass
class Journal:
    """What happened, in memory and appended to a file, so that a campaign can be continued.

    Attributes
    ----------
    acknowledged: SOP Instance UID -> SHA-256 of the data set as it was sent.
    studies: Study Instance UIDs of which every instance is acknowledged.
    stored: what the PACS was sent, in order: study, SOP class, SOP instance, predecessor or "".
    refusals: statuses other than 0x0000 that the node answered, and "association" where it rejected one
        -> how often.
    kills: role -> how often one was killed.
    """

    path: Path
    acknowledged: dict[str, str] = field(default_factory=dict)
    studies: list[str] = field(default_factory=list)
    stored: list[tuple[str, str, str, str]] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                self._take(*json.loads(line))

    def note(self, kind: str, *values: str) -> None:
        """Keep one event: ``acknowledged``, ``study``, ``stored``, ``refused`` or ``killed``."""
        with self._lock, open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps([kind, *values]) + "\n")
            self._take(kind, *values)

    def _take(self, kind: str, *values: str) -> None:
        if kind == "acknowledged":
            self.acknowledged[values[0]] = values[1]
        elif kind == "study":
            self.studies.append(values[0])
        elif kind == "stored":
            self.stored.append((values[0], values[1], values[2], values[3]))
        else:
            counts = {"refused": self.refusals, "killed": self.kills}[kind]
            counts[values[0]] = counts.get(values[0], 0) + 1

    def reports(self, study: str) -> set[str]:
        """SR documents of a study that the PACS has and no later one replaces."""
        rows = [row for row in self.stored if row[0] == study]
        replaced = {predecessor for *_, predecessor in rows}
        return {uid for _, _, uid, predecessor in rows if predecessor != "-" and uid not in replaced}


class Sender:
    """Sends made-up studies one after the other, each until all of it is acknowledged."""

    def __init__(self, config: Config, journal: Journal, *, backlog: int) -> None:
        self._config = config
        self._journal = journal
        self._backlog = backlog

    def run(self, stop: threading.Event, studies: int | None = None) -> None:
        """Send `studies` studies, or until `stop` is set; the one under way is always finished."""
        _config.LOG_HANDLER_LEVEL = "none"
        sent = 0
        while not stop.is_set() and (studies is None or sent < studies):
            done = {study for study in self._journal.studies if self._journal.reports(study)}
            if len(self._journal.studies) - len(done) >= self._backlog:
                stop.wait(RETRY_SECONDS)
                continue
            self.send(ct_series(shape=SHAPE, uid_root=f"2.25.{7000 + len(self._journal.studies)}"))
            sent += 1

    def send(self, images: list[Dataset]) -> None:
        """Send a study until every instance is acknowledged."""
        while True:
            waiting = [image for image in images if image.SOPInstanceUID not in self._journal.acknowledged]
            if not waiting:
                break
            if not self._try(waiting):
                time.sleep(RETRY_SECONDS)
        self._journal.note("study", str(images[0].StudyInstanceUID))

    def _try(self, images: list[Dataset]) -> bool:
        """Send over one association; whether all were acknowledged."""
        ae = AE("MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 10
        ae.add_requested_context(images[0].SOPClassUID, ExplicitVRLittleEndian)
        association = ae.associate(self._config.address, self._config.port, ae_title=self._config.ae_title)
        if rejection(association) is not None:
            self._journal.note("refused", "association")
        try:
            return association.is_established and all([self._store(association, i) for i in images])
        except (RuntimeError, ValueError):  # the peer is gone
            return False
        finally:
            if association.is_established:
                association.release()

    def _store(self, association: Any, image: Dataset) -> bool:
        if not association.is_established:
            return False
        status = association.send_c_store(image).get("Status")
        if status == 0x0000:
            content = encode(image, False, True)
            assert content is not None
            digest = hashlib.sha256(content).hexdigest()
            self._journal.note("acknowledged", str(image.SOPInstanceUID), digest)
        elif status is not None:
            self._journal.note("refused", f"0x{status:04X}")
        return bool(status == 0x0000)


class Pacs:
    """A storage SCP on loopback that notes what it is sent; it can go away and come back.

    Parameters
    ----------
    port: to listen on.
    journal: where each result is noted.
    """

    def __init__(self, port: int, journal: Journal) -> None:
        self._port = port
        self._journal = journal
        self._ae = AE("PACS")
        for offered in AllStoragePresentationContexts:
            self._ae.add_supported_context(str(offered.abstract_syntax))

    def start(self) -> None:
        """Listen."""
        self._ae.start_server(
            ("127.0.0.1", self._port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._on_store)]
        )

    def stop(self) -> None:
        """Abort what is open, and listen no more."""
        self._ae.shutdown()

    def __enter__(self) -> Pacs:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _on_store(self, event: evt.Event) -> int:
        result = event.dataset
        replaced = ""
        for study in result.get("PredecessorDocumentsSequence", []):
            replaced = str(
                study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            )
        # "-": no report, and so neither a successor nor to be replaced by one.
        predecessor = replaced if result.Modality == "SR" else "-"
        uids = (str(result.StudyInstanceUID), str(result.SOPClassUID), str(result.SOPInstanceUID))
        self._journal.note("stored", *uids, predecessor)
        return 0x0000
