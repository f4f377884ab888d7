"""What a peer says about storage commitment: N-EVENT-REPORT (PS3.4 J.3.3), wherever it comes.

A report may come on the association of the question or, mostly, on one that the peer opens to
the node's own port. A receiver therefore takes two things from here: `COMMITMENT_CONTEXT` among
its supported contexts, and the handler of `storage_commitment_handlers`. Light: imports no model.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import sqlalchemy as sa
from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_node.archive import tag
from dicom_node.commitment import settle
from dicom_node.config import Config
from dicom_node.index import Index

logger = logging.getLogger(__name__)

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model SOP Class, PS3.4 J.4
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # its one well-known instance
# Keyword arguments of pynetdicom's `AE.add_supported_context`: the peer that calls to report is
# the SCP, the node the SCU (role selection, PS3.7 D.3.3.4); the node commits to nothing itself.
COMMITMENT_CONTEXT: dict[str, Any] = {
    "abstract_syntax": STORAGE_COMMITMENT,
    "scu_role": False,
    "scp_role": True,
}
_SUCCESSFUL, _FAILURES_EXIST = 1, 2  # event types, PS3.4 table J.3-3
# Statuses of N-EVENT-REPORT, PS3.7 10.1.1.1.8.
_SUCCESS, _PROCESSING_FAILURE, _NO_SUCH_EVENT_TYPE, _INVALID_ARGUMENT = 0x0000, 0x0110, 0x0113, 0x0115
# Failure reasons, PS3.3 table C.14-1.
_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class and instance in conflict",
    0x0122: "SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


def storage_commitment_handlers(index: Index, config: Config) -> list[tuple[Any, Any]]:
    """The event handlers, for pynetdicom, that take reports to the books."""
    return [(evt.EVT_N_EVENT_REPORT, _Reports(index, config).on_report)]


class _Reports:
    def __init__(self, index: Index, config: Config) -> None:
        self._index = index
        self._settings = config.delivery

    def on_report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Answer one N-EVENT-REPORT request: status, and no reply data set.

        Only what is in the index is answered with success, so that a peer may report again.
        """
        if event.request.AffectedSOPClassUID != STORAGE_COMMITMENT:
            return _INVALID_ARGUMENT, None
        if event.event_type not in (_SUCCESSFUL, _FAILURES_EXIST):
            return _NO_SUCH_EVENT_TYPE, None
        try:
            information = event.event_information
            transaction = str(information.get("TransactionUID") or "")
            committed = [_uid(item) for item in information.get("ReferencedSOPSequence") or []]
            failed = {_uid(item): _reason(item) for item in information.get("FailedSOPSequence") or []}
        except Exception as error:  # whatever a parser makes of the peer's bytes
            logger.warning("storage commitment report cannot be parsed error=%s", type(error).__name__)
            return _INVALID_ARGUMENT, None
        try:
            ours = settle(
                self._index,
                transaction,
                committed=committed,
                failed=failed,
                now=time.time(),
                settings=self._settings,
            )
        except sa.exc.SQLAlchemyError as error:
            logger.error("storage commitment report not kept error=%s", type(error).__name__)
            return _PROCESSING_FAILURE, None
        if not ours:
            logger.warning("storage commitment report of an unknown transaction=%s", tag(transaction))
            return _INVALID_ARGUMENT, None
        logger.log(
            logging.WARNING if failed else logging.INFO,
            "storage commitment transaction=%s committed=%d failed=%d",
            tag(transaction),
            len(committed),
            len(failed),
        )
        return _SUCCESS, None


def _uid(item: Dataset) -> str:
    return str(item.get("ReferencedSOPInstanceUID") or "")


def _reason(item: Dataset) -> str:
    code = int(item.get("FailureReason") or 0)
    return f"0x{code:04X} {_REASONS.get(code, '')}".strip()
