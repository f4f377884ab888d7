"""How many instances the PACS has of the studies that are still coming, asked by C-FIND.

Not the decision what that means (`dicom_node.completeness`). The questions have a thread of
their own, so that a PACS that answers slowly, or not at all, holds nothing up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from pydicom.dataset import Dataset
from pynetdicom.association import Association

from dicom_node.archive import tag
from dicom_node.completeness import Expected
from dicom_node.config import Config, Destination
from dicom_node.delivery_dimse import association
from dicom_node.delivery_parcels import NATIVE, UnreachableError
from dicom_node.index import Index, Study

logger = logging.getLogger(__name__)

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 table C.6.2.2-1
PENDING = (0xFF00, 0xFF01)  # PS3.4 table C.4-1
POLL_SECONDS = 0.25


def ask(
    destination: Destination, config: Config, study_instance_uids: Sequence[str]
) -> dict[str, Mapping[str, int]]:
    """Number of instances of each CT series of the studies, over one association.

    Returns
    -------
    Study -> Series Instance UID -> instances. A study is left out where the PACS does not know it,
    fails, or does not count (Number of Series Related Instances is optional, PS3.4 table C.3-3).
    """
    try:
        with association(destination, config, [(STUDY_ROOT_FIND, NATIVE)]) as opened:
            answers = {uid: _count(opened, uid) for uid in study_instance_uids if opened.is_established}
    except UnreachableError:
        return {}
    return {uid: series for uid, series in answers.items() if series}


def _count(opened: Association, study_instance_uid: str) -> dict[str, int] | None:
    """One question (PS3.4 C.4.1); None if it has no whole answer."""
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_instance_uid
    query.SeriesInstanceUID = ""
    query.Modality = "CT"
    query.NumberOfSeriesRelatedInstances = None
    series = {}
    try:
        for status, found in opened.send_c_find(query, STUDY_ROOT_FIND):
            if status.get("Status") in PENDING and found is not None:
                series[str(found.SeriesInstanceUID)] = int(found.NumberOfSeriesRelatedInstances)
            elif status.get("Status") != 0x0000:
                return None
    except (ValueError, TypeError, AttributeError, RuntimeError):
        # No accepted context, an answer without the number, or one that cannot be decoded.
        return None
    return series


class Asker:
    """Asks again and again about every study that waits; `answers` has the newest word on each.

    Parameters
    ----------
    config: with ``completeness.ask``.
    index: what is received.

    Raises
    ------
    ValueError: `config` names nobody to ask.
    """

    def __init__(self, config: Config, index: Index) -> None:
        name = config.completeness.ask
        asked = [destination for destination in config.destinations if destination.name == name]
        if not asked:
            raise ValueError(f"config.completeness.ask = {name!r} is no destination; name one to ask")
        self._destination = asked[0]
        self._config = config
        self._index = index
        self._lock = threading.Lock()
        self._answers: dict[str, Expected] = {}
        self._due: dict[str, float] = {}

    def answers(self) -> dict[str, Expected]:
        """Study Instance UID -> the newest answer."""
        with self._lock:
            return dict(self._answers)

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set."""
        while not stop.wait(POLL_SECONDS):
            self.ask_due(time.time())

    def ask_due(self, now: float) -> None:
        """Ask about the studies whose last CT image, or last question, is long enough ago."""
        settle = self._config.completeness.settle_seconds
        with self._index.reading() as session:
            waiting = session.execute(
                sa.select(Study.study_instance_uid, Study.last_ct_at).where(Study.waiting)
            )
            last = {uid: last_ct_at for uid, last_ct_at in waiting}
        self._due = {uid: due for uid, due in self._due.items() if uid in last}
        asked = [uid for uid, at in last.items() if now >= max(at + settle, self._due.get(uid, 0.0))]
        found = ask(self._destination, self._config, asked) if asked else {}
        self._due |= {uid: now + settle for uid in asked}
        for uid in set(asked) - set(found):
            logger.warning("no instance count study=%s destination=%s", tag(uid), self._destination.name)
        with self._lock:
            self._answers |= {uid: Expected(now, series) for uid, series in found.items()}
            self._answers = {uid: answer for uid, answer in self._answers.items() if uid in last}
