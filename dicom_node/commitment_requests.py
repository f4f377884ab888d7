"""Asking a destination to commit to what it stored: N-ACTION (PS3.4 J.3.2).

Waits a moment for the report on the same association, as some peers send it; others open an
association of their own, seconds or hours later (`dicom_node.commitment_reports`).
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node import commitment
from dicom_node.archive import tag
from dicom_node.commitment_reports import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    storage_commitment_handlers,
)
from dicom_node.config import Config
from dicom_node.delivery_dimse import association
from dicom_node.delivery_parcels import NATIVE
from dicom_node.destination_settings import Destination
from dicom_node.index import Index

logger = logging.getLogger(__name__)

_REQUEST_COMMITMENT = 1  # action type, PS3.4 table J.3-1
_WAIT_SECONDS = 2.0  # for a report on the same association (our choice)
_AT_ONCE = 500  # instances in one transaction


def request_commitment(index: Index, config: Config, destination: Destination, now: float) -> int:
    """Ask for everything that is due to be asked for; how many instances that were.

    Raises
    ------
    UnreachableError: there is no association. What was to be asked is due again then.
    """
    given_up = commitment.give_up_old(index, destination.name, config.delivery, now)
    if given_up:
        logger.error("storage commitment given up destination=%s n=%d", destination.name, given_up)
    if not commitment.is_due(index, destination.name, now):
        return 0
    contexts = [(STORAGE_COMMITMENT, NATIVE)]
    handlers = storage_commitment_handlers(index, config)
    with association(destination, config, contexts, handlers) as opened:
        # Drawn at random: only the peer that was asked can know it.
        transaction = f"2.25.{uuid.uuid4().int}"
        promises = commitment.begin(index, destination.name, transaction, now, _AT_ONCE)
        problem = "the peer no longer offers it"
        if opened.is_established:
            status, _ = opened.send_n_action(
                _request(transaction, promises),
                _REQUEST_COMMITMENT,
                STORAGE_COMMITMENT,
                STORAGE_COMMITMENT_INSTANCE,
            )
            problem = _problem(status)
        if problem:
            commitment.postpone(index, transaction, problem, now, config.delivery)
        deadline = time.monotonic() + _WAIT_SECONDS
        while commitment.is_open(index, transaction) and time.monotonic() < deadline:
            time.sleep(0.05)
    logger.info(
        "storage commitment asked destination=%s transaction=%s n=%d problem=%s",
        destination.name,
        tag(transaction),
        len(promises),
        problem or None,
    )
    return len(promises)


def _request(transaction: str, promises: Sequence[commitment.Promise]) -> Dataset:
    """The action information (PS3.4 table J.3-2)."""
    request = Dataset()
    request.TransactionUID = UID(transaction)
    request.ReferencedSOPSequence = []
    for promise in promises:
        item = Dataset()
        item.ReferencedSOPClassUID = UID(promise.sop_class_uid)
        item.ReferencedSOPInstanceUID = UID(promise.sop_instance_uid)
        request.ReferencedSOPSequence.append(item)
    return request


def _problem(status: Dataset) -> str:
    """Why the question was not accepted; empty where it was."""
    if "Status" not in status:
        return "no answer to N-ACTION"
    return "" if status.Status == 0 else f"N-ACTION answered 0x{status.Status:04X}"
