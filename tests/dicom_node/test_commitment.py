"""Storage commitment: asked for where it is offered, heard wherever it is answered, and acted upon."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.dsutils import decode

from dicom_node import commitment
from dicom_node.archive import Archive
from dicom_node.commitment import REPORT_SECONDS, Commitment
from dicom_node.commitment_reports import (
    COMMITMENT_CONTEXT,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    storage_commitment_handlers,
)
from dicom_node.config import Config, DeliverySettings, Destination
from dicom_node.delivery import Courier
from tests.dicom_node.deliveries import deliveries, finished_reading, next_attempt, peer
from tests.dicom_node.faulty_pacs import FaultyPacs
from tests.dicom_node.network import ANY_DISK, free_port, wait_until
from tests.dicom_node.orthanc import AE_TITLE, orthanc
from tests.peers import require

SUCCESSFUL, FAILURES_EXIST = 1, 2
NO_SUCH_OBJECT = 0x0112
DAY = 86400.0


@pytest.fixture
def pacs() -> FaultyPacs:
    return FaultyPacs(free_port(), commitment=True)


@pytest.fixture
def config(tmp_path: Path, pacs: FaultyPacs) -> Config:
    return Config(
        port=free_port(),
        archive=tmp_path / "archive",
        delivery=DeliverySettings(retry_seconds=600, timeout_seconds=15),
        receiver=ANY_DISK,
        destinations=(Destination("pacs", "127.0.0.1", pacs.port, "PACS"),),
    )


@pytest.fixture
def archive(config: Config) -> Archive:
    return finished_reading(config)


def commitments(archive: Archive) -> list[Commitment]:
    with archive.index.reading() as session:
        return list(session.scalars(sa.select(Commitment).order_by(Commitment.sop_instance_uid)))


def states(archive: Archive) -> list[str]:
    return sorted(row.state for row in commitments(archive))


def report(request: Dataset, failed: Mapping[str, int]) -> tuple[int, Dataset]:
    """Event type and event information that answer a request (PS3.4 table J.3-3)."""
    information = Dataset()
    information.TransactionUID = request.TransactionUID
    kept = [i for i in request.ReferencedSOPSequence if i.ReferencedSOPInstanceUID not in failed]
    lost = [i for i in request.ReferencedSOPSequence if i.ReferencedSOPInstanceUID in failed]
    for item in lost:
        item.FailureReason = failed[item.ReferencedSOPInstanceUID]
    information.ReferencedSOPSequence = kept
    if lost:
        information.FailedSOPSequence = lost
    return FAILURES_EXIST if lost else SUCCESSFUL, information


@contextlib.contextmanager
def receiver(config: Config, archive: Archive) -> Iterator[None]:
    """A port of the node, as a receiver with the two lines that it needs."""
    ae = AE(config.ae_title)
    ae.add_supported_context(**COMMITMENT_CONTEXT)
    server = ae.start_server(
        ("127.0.0.1", config.port),
        block=False,
        evt_handlers=storage_commitment_handlers(archive.index, config),
    )
    try:
        yield
    finally:
        server.shutdown()
        ae.shutdown()


def send_report(config: Config, event_type: int, information: Dataset, *, with_role: bool = True) -> int:
    """N-EVENT-REPORT on an association of its own, as a PACS sends it; the status."""
    ae = AE("PACS")
    ae.add_requested_context(STORAGE_COMMITMENT)
    roles = [build_role(STORAGE_COMMITMENT, scp_role=True)] if with_role else []
    opened = ae.associate("127.0.0.1", config.port, ae_title=config.ae_title, ext_neg=roles)
    assert opened.is_established
    try:
        status, _ = opened.send_n_event_report(
            information, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
        return int(status.Status)
    finally:
        opened.release()


def test_a_report_on_the_same_association(config: Config, archive: Archive, pacs: FaultyPacs) -> None:
    def answer(event: evt.Event, request: Dataset) -> None:
        kind, information = report(request, {})
        send = (information, kind, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
        threading.Timer(0.2, event.assoc.send_n_event_report, send).start()

    pacs.on_action = answer
    with pacs.listening():
        assert Courier(config, archive).send_due() == 3
    assert states(archive) == ["committed"] * 3
    (request,) = pacs.actions
    asked = {str(item.ReferencedSOPInstanceUID) for item in request.ReferencedSOPSequence}
    assert asked == {row.sop_instance_uid for row in deliveries(archive)}


@pytest.mark.parametrize("with_role", [True, False])
def test_a_report_on_another_association_to_another_process(
    config: Config, archive: Archive, pacs: FaultyPacs, with_role: bool
) -> None:
    """Some peers do not negotiate the role that they take; they are heard all the same."""
    with pacs.listening():
        assert Courier(config, archive).send_due() == 3
    assert states(archive) == ["asked"] * 3
    kind, information = report(pacs.actions[0], {})
    with receiver(config, Archive.open(config)):
        assert send_report(config, kind, information, with_role=with_role) == 0x0000
        assert states(archive) == ["committed"] * 3
        assert send_report(config, kind, information) == 0x0000, "a second time it changes nothing"
    assert states(archive) == ["committed"] * 3


def test_what_the_pacs_did_not_keep_is_sent_again(config: Config, archive: Archive, pacs: FaultyPacs) -> None:
    courier = Courier(config, archive)
    with pacs.listening(), receiver(config, archive):
        assert courier.send_due() == 3
        lost = str(pacs.received[0][1])
        kind, information = report(pacs.actions[0], {lost: NO_SUCH_OBJECT})
        assert send_report(config, kind, information) == 0x0000
        (again,) = (row for row in deliveries(archive) if row.state == "pending")
        assert again.sop_instance_uid == lost
        assert again.reason == "storage commitment failed: 0x0112 no such object instance"
        assert again.delivered_at is None
        assert states(archive) == ["committed"] * 2
        assert courier.send_due() == 0, "it waits, as after any failure"
        assert courier.send_due(now=next_attempt(archive)) == 1
    assert pacs.received[-1][1] == lost
    assert states(archive) == ["asked", "committed", "committed"]


def test_what_the_pacs_never_keeps_is_given_up_on_the_last_day(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    with pacs.listening():
        Courier(config, archive).send_due()
    transaction = str(pacs.actions[0].TransactionUID)
    lost = {str(pacs.received[0][1]): "0x0112"}
    late = time.time() + config.delivery.give_up_days * DAY + 60
    assert commitment.settle(
        archive.index, transaction, committed=[], failed=lost, now=late, settings=config.delivery
    )
    (dead,) = (row for row in deliveries(archive) if row.state == "dead")
    assert "storage commitment failed" in (dead.reason or "")


def test_without_a_report_the_pacs_is_asked_again_and_at_last_no_more(
    config: Config, archive: Archive, pacs: FaultyPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.commitment_requests._WAIT_SECONDS", 0.0)
    courier, now = Courier(config, archive), time.time()
    with pacs.listening():
        courier.send_due(now)
        courier.send_due(now + REPORT_SECONDS / 2)
        assert len(pacs.actions) == 1
        courier.send_due(now + REPORT_SECONDS + 300)
        assert len(pacs.actions) == 2
        assert pacs.actions[0].TransactionUID != pacs.actions[1].TransactionUID
        courier.send_due(now + config.delivery.give_up_days * DAY + 60)
        assert len(pacs.actions) == 2
    assert states(archive) == ["unanswered"] * 3
    assert {row.state for row in deliveries(archive)} == {"delivered"}


def test_a_question_that_is_refused_is_asked_again_after_a_pause(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    pacs.action_status = 0x0213
    courier = Courier(config, archive)
    with pacs.listening():
        assert courier.send_due() == 3
        assert {(row.state, row.reason) for row in commitments(archive)} == {
            ("due", "N-ACTION answered 0x0213")
        }
        pacs.action_status = 0x0000
        due = max(row.due_at for row in commitments(archive))
        courier.send_due(due - 1)
        assert len(pacs.actions) == 1
        courier.send_due(due + 1)
    assert states(archive) == ["asked"] * 3


def test_a_pacs_that_goes_away_before_the_question_is_asked_later(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    with archive.index.writing() as session:
        for row in deliveries(archive):
            commitment.note_stored(session, row.sop_instance_uid, "pacs", time.time())
            session.merge(row).state = "delivered"
    courier = Courier(config, archive)
    courier.send_due()
    assert peer(archive).failures == 1
    assert states(archive) == ["due"] * 3
    with pacs.listening():
        courier.send_due(now=next_attempt(archive))
    assert states(archive) == ["asked"] * 3
    assert peer(archive).failures == 0


@pytest.mark.parametrize("offered", [True, False])
def test_it_is_asked_for_only_where_offered_and_wanted(
    config: Config, archive: Archive, pacs: FaultyPacs, offered: bool
) -> None:
    pacs.commitment = offered
    destination = dataclasses.replace(config.destinations[0], storage_commitment=not offered)
    with pacs.listening():
        assert Courier(dataclasses.replace(config, destinations=(destination,)), archive).send_due() == 3
    assert commitments(archive) == []
    assert pacs.actions == []


@pytest.mark.parametrize(
    ("change", "status"),
    [({"TransactionUID": "2.25.1"}, 0x0115), ({"TransactionUID": None}, 0x0115), ({}, 0x0113)],
)
def test_reports_that_make_no_sense_change_nothing(
    config: Config, archive: Archive, pacs: FaultyPacs, change: dict[str, Any], status: int
) -> None:
    with pacs.listening():
        Courier(config, archive).send_due()
    kind, information = report(pacs.actions[0], {})
    for keyword, value in change.items():
        setattr(information, keyword, value)
    with receiver(config, archive):
        assert send_report(config, kind if change else 7, information) == status
    assert states(archive) == ["asked"] * 3


class _Event:
    """N-EVENT-REPORT with bytes that nobody checked, as the handler gets it from pynetdicom."""

    event_type = FAILURES_EXIST

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.request = type("Request", (), {"AffectedSOPClassUID": STORAGE_COMMITMENT})

    @property
    def event_information(self) -> Dataset:
        return decode(io.BytesIO(self._content), True, True)


@given(content=st.binary(max_size=200))
def test_a_report_of_any_bytes_is_answered(content: bytes) -> None:
    ((_, on_report),) = storage_commitment_handlers(_NoIndex(), Config())  # type: ignore[arg-type]
    status, reply = on_report(_Event(content))
    assert status == 0x0115
    assert reply is None


class _NoIndex:
    """An index that knows no transaction; a report that gets so far asks it."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[_NoIndex]:
        yield self

    def scalars(self, _query: object) -> _NoIndex:
        return self

    def all(self) -> list[object]:
        return []


@pytest.mark.slow
def test_a_real_orthanc_commits(config: Config, tmp_path: Path) -> None:
    """It opens an association of its own to report."""
    with (
        orthanc(
            require("Orthanc"),
            tmp_path / "pacs",
            node_ae_title=config.ae_title,
            node_port=config.port,
            stable_seconds=60,
        ) as pacs,
        receiver(config, Archive.open(config)),
    ):
        destination = Destination("pacs", "127.0.0.1", pacs.dicom_port, AE_TITLE)
        config = dataclasses.replace(config, destinations=(destination,))
        archive = finished_reading(config)
        courier = Courier(config, archive)
        assert courier.send_due() == 3
        wait_until(lambda: states(archive) == ["committed"] * 3, 20, "Orthanc's report")
        # Deleted behind our back and asked again: it says so, and gets the object once more.
        lost = pacs.objects()[0]
        pacs.delete(lost["id"])
        with archive.index.writing() as session:
            for row in commitments(archive):
                commitment.note_stored(session, row.sop_instance_uid, "pacs", time.time())
        courier.send_due()
        wait_until(lambda: len(commitments(archive)) == 2, 20, "Orthanc's second report")
        (again,) = (row for row in deliveries(archive) if row.state == "pending")
        assert again.sop_instance_uid == lost["SOPInstanceUID"]
        assert courier.send_due(now=next_attempt(archive)) == 1
        assert len(pacs.objects()) == 3
