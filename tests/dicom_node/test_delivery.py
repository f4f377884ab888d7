"""Results reach their destinations: in order, once, and after any trouble on the way."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage
from pynetdicom.acse import ACSE

from dicom_node import readings
from dicom_node.archive import Archive
from dicom_node.config import Config, DeliverySettings, Destination
from dicom_node.delivery import Courier, stored_back_at
from dicom_node.delivery_dimse import echo, store
from dicom_node.delivery_outbox import PATIENCE, Outbox
from dicom_node.delivery_parcels import Outcome, Parcel
from dicom_node.index import Delivery
from dicom_node.reading_files import LESIONS, REPORT
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.deliveries import ORDER, deliveries, finished_reading, next_attempt, peer
from tests.dicom_node.faulty_pacs import ABORT, ANSWER_AND_ABORT, NATIVE, SILENT, FaultyPacs
from tests.dicom_node.network import free_port, wait_until
from tests.dicom_node.readings import KEY
from tests.peers import require

SEG, SR = str(SegmentationStorage), str(Comprehensive3DSRStorage)
DAY = 86400.0


@pytest.fixture
def pacs() -> FaultyPacs:
    return FaultyPacs(free_port())


@pytest.fixture
def config(tmp_path: Path, pacs: FaultyPacs) -> Config:
    return Config(
        archive=tmp_path / "archive",
        delivery=DeliverySettings(retry_seconds=10, timeout_seconds=15),
        destinations=(Destination("pacs", "127.0.0.1", pacs.port, "PACS"),),
    )


def hurried(config: Config) -> Config:
    """The same for peers that never answer: nothing is lost by giving up soon."""
    return dataclasses.replace(config, delivery=dataclasses.replace(config.delivery, timeout_seconds=2))


@pytest.fixture
def archive(config: Config) -> Archive:
    return finished_reading(config)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever read or said."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_segmentations_go_before_the_report_and_all_go_once(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    assert stored_back_at(archive, KEY) is None
    courier = Courier(config, archive)
    with pacs.listening():
        assert courier.send_due() == 3
        assert courier.send_due() == 0
    assert pacs.order() == ORDER
    assert {row.state for row in deliveries(archive)} == {"delivered"}
    assert stored_back_at(archive, KEY) == max(row.delivered_at or 0 for row in deliveries(archive))


def test_a_pacs_that_was_down_gets_everything_after_a_restart(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    courier = Courier(config, archive)
    now = time.time()
    assert courier.send_due(now) == 0
    down = peer(archive)
    assert down.failures == 1
    assert "no connection" in (down.reason or "")
    assert 0.8 * 10 <= down.retry_at - now <= 1.2 * 10 + 60
    # No result is to blame: none has used up an attempt, and none is tried before the peer is.
    assert {row.attempts for row in deliveries(archive)} == {0}
    assert courier.send_due(now + 1) == 0
    assert peer(archive).failures == 1
    archive.index.close()
    restarted = Courier(config, Archive.open(config))
    with pacs.listening():
        assert restarted.send_due(now=next_attempt(archive)) == 3
    assert pacs.order() == ORDER
    assert (peer(archive).failures, peer(archive).reason) == (0, None)


def test_days_without_a_pacs_cost_few_attempts(config: Config, archive: Archive) -> None:
    courier = Courier(config, archive)
    start = now = time.time()
    while now - start < DAY:
        courier.send_due(now)
        now = peer(archive).retry_at
    # 10 s, doubled to the cap of an hour, then once an hour.
    assert DAY / 3600 / 1.2 <= peer(archive).failures <= DAY / 3600 / 0.8 + 10
    assert {row.state for row in deliveries(archive)} == {"pending"}


def test_a_refused_segmentation_is_sent_again_and_holds_the_report_back(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    pacs.answers = [0x0000, 0xA700]
    courier = Courier(config, archive)
    with pacs.listening():
        assert courier.send_due() == 1
        assert pacs.order() == ORDER[:2]
        assert courier.send_due(now=next_attempt(archive)) == 2
    assert len(pacs.received) == 4
    assert pacs.received[1][1] == pacs.received[2][1]
    assert stored_back_at(archive, KEY) is not None


def test_a_pacs_that_takes_no_segmentation_still_gets_the_report(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    pacs.classes = {SR: NATIVE}
    courier = Courier(config, archive)
    with pacs.listening():
        for attempt in range(PATIENCE):
            assert pacs.received == [], attempt
            courier.send_due(now=time.time() if attempt == 0 else next_attempt(archive))
        assert pacs.order() == [SR]
    segmentations = [row for row in deliveries(archive) if row.state == "pending"]
    assert [row.attempts for row in segmentations] == [PATIENCE] * 2
    assert all("no presentation context" in (row.reason or "") for row in segmentations)
    assert peer(archive).failures == 0


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111, 0x0107])
def test_warnings_and_duplicates_count_as_stored(
    config: Config, archive: Archive, pacs: FaultyPacs, status: int
) -> None:
    pacs.answers = [status] * 3
    with pacs.listening():
        assert Courier(config, archive).send_due() == 3
    assert {row.status for row in deliveries(archive)} == {status}
    assert all(f"0x{status:04X}" in (row.reason or "") for row in deliveries(archive))


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC000, 0x0124, 0x0110, 0x0122])
def test_a_refusal_is_kept_in_words_and_tried_again(
    config: Config, archive: Archive, pacs: FaultyPacs, status: int
) -> None:
    pacs.answers = [status, status]
    pacs.comment = "Study is locked"
    courier = Courier(config, archive)
    now = time.time()
    with pacs.listening():
        assert courier.send_due(now) == 0
        refused = [row for row in deliveries(archive) if row.attempts]
        assert [row.status for row in refused] == [status] * 2
        assert all("Study is locked" in (row.reason or "") for row in refused)
        assert all(row.due_at > now + 5 for row in refused)
        assert courier.send_due(now=next_attempt(archive)) == 3


def test_a_peers_own_words_are_not_logged(
    config: Config, archive: Archive, pacs: FaultyPacs, caplog: pytest.LogCaptureFixture
) -> None:
    pacs.answers, pacs.comment = [0xC000] * 2, "No such patient: Doe^Jane"
    with pacs.listening(), caplog.at_level("DEBUG", logger="dicom_node"):
        Courier(config, archive).send_due()
    assert "0xC000" in caplog.text
    assert "Doe" not in caplog.text
    assert any("Doe^Jane" in (row.reason or "") for row in deliveries(archive))


@pytest.mark.parametrize(("fault", "reason"), [(SILENT, "no answer"), (ABORT, "abort")])
def test_a_peer_that_goes_silent_or_aborts_costs_one_attempt_of_one_result(
    config: Config, archive: Archive, pacs: FaultyPacs, fault: str, reason: str
) -> None:
    pacs.answers = [fault]
    courier = Courier(config, archive)
    with pacs.listening():
        # The other segmentation goes over an association of its own.
        assert Courier(hurried(config), archive).send_due() == 1
        failed = [row for row in deliveries(archive) if row.attempts and row.state == "pending"]
        assert len(failed) == 1
        assert reason in (failed[0].reason or "")
        assert courier.send_due(now=next_attempt(archive)) == 2
    assert {row.state for row in deliveries(archive)} == {"delivered"}
    assert peer(archive).failures == 0


def test_a_peer_that_aborts_after_its_answer_does_not_hold_its_courier_for_ever(
    config: Config, archive: Archive, pacs: FaultyPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The abort comes when the next result is about to be sent; pynetdicom's window is held open here."""
    is_aborted = ACSE.is_aborted

    def slow(acse: ACSE, *arguments: str) -> bool:
        found: bool = is_aborted(acse, *arguments)
        if found and acse.assoc.is_requestor:
            time.sleep(0.5)
        return found

    monkeypatch.setattr(ACSE, "is_aborted", slow)
    parcels = Outbox(archive, "pacs", config.delivery, "test").due(time.time())
    pacs.answers = [ANSWER_AND_ABORT]
    outcomes: list[Outcome] = []
    with pacs.listening():
        sending = threading.Thread(
            target=lambda: outcomes.extend(store(config.destinations[0], config, parcels)), daemon=True
        )
        sending.start()
        sending.join(60)
        assert not sending.is_alive()
    assert [outcome.status for outcome in outcomes] == [0xC000, None]


def test_a_rejected_association_waits_as_a_whole(config: Config, archive: Archive, pacs: FaultyPacs) -> None:
    pacs.callers = ["SOMEONE"]
    with pacs.listening():
        assert Courier(config, archive).send_due() == 0
    assert "rejected: Calling AE title not recognised" in (peer(archive).reason or "")
    assert {row.attempts for row in deliveries(archive)} == {0}


def test_one_silent_destination_does_not_delay_another(
    config: Config, tmp_path: Path, pacs: FaultyPacs, deaf_port: int
) -> None:
    slow = dataclasses.replace(config.delivery, timeout_seconds=60)
    deaf = Destination("deaf", "127.0.0.1", deaf_port, "DEAF")
    config = dataclasses.replace(config, delivery=slow, destinations=(deaf, *config.destinations))
    archive = finished_reading(config)
    stop = threading.Event()
    thread = threading.Thread(target=Courier(config, archive).run, args=(stop,))
    with pacs.listening():
        thread.start()
        try:
            wait_until(lambda: len(pacs.received) == 3, 30, "the results at the other destination")
        finally:
            stop.set()
            thread.join(15)
    assert not thread.is_alive()
    states = {(row.destination, row.state) for row in deliveries(archive)}
    assert states == {("deaf", "pending"), ("pacs", "delivered")}


def test_a_port_that_never_answers_does_not_hold_its_courier_for_ever(
    config: Config, archive: Archive, deaf_port: int
) -> None:
    deaf = dataclasses.replace(config.destinations[0], port=deaf_port)
    clock = time.monotonic()
    assert Courier(dataclasses.replace(hurried(config), destinations=(deaf,)), archive).send_due() == 0
    assert time.monotonic() - clock < 60
    assert "no answer to the association request" in (peer(archive).reason or "")


def test_a_peer_that_stops_reading_does_not_hold_its_courier_for_ever(
    config: Config, pacs: FaultyPacs, tmp_path: Path
) -> None:
    """More than all buffers on the way take, so that sending itself blocks."""
    image = ct_series()[0]
    image.PixelData = bytes(16 << 20)
    image.save_as(tmp_path / "large.dcm", enforce_file_format=True)
    parcel = Parcel(str(image.SOPInstanceUID), str(image.SOPClassUID), tmp_path / "large.dcm")
    pacs.deaf = True
    clock = time.monotonic()
    with pacs.listening():
        (outcome,) = store(config.destinations[0], hurried(config), [parcel])
        assert time.monotonic() - clock < 60
    assert not outcome.stored
    assert outcome.status is None


def test_the_courier_goes_on_when_the_index_was_away(
    config: Config, archive: Archive, pacs: FaultyPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that fails twice: the round ends in its error, a later one delivers."""
    failures = [sa.exc.OperationalError("", {}, Exception("away"))] * 2
    due = Outbox.due

    def fails_at_first(outbox: Outbox, now: float) -> list[object]:
        if failures:
            raise failures.pop()
        return due(outbox, now)

    monkeypatch.setattr(Outbox, "due", fails_at_first)
    monkeypatch.setattr("dicom_node.delivery._AFTER_DEFECT_SECONDS", 0.1)
    stop = threading.Event()
    thread = threading.Thread(target=Courier(config, archive).run, args=(stop,))
    with pacs.listening():
        thread.start()
        try:
            wait_until(lambda: len(pacs.received) == 3, 20, "the results")
        finally:
            stop.set()
            thread.join(15)
    assert failures == []


@pytest.mark.parametrize("damage", ["gone", "empty", "cut off in its head"])
def test_a_damaged_result_does_not_keep_the_others(
    config: Config, archive: Archive, pacs: FaultyPacs, damage: str
) -> None:
    damaged = readings.results_folder(archive, KEY) / LESIONS
    content = damaged.read_bytes()
    damaged.unlink()
    if damage != "gone":
        damaged.write_bytes(b"" if damage == "empty" else content[:200])
    courier = Courier(config, archive)
    with pacs.listening():
        assert courier.send_due() == 1
        for _ in range(PATIENCE - 1):
            courier.send_due(now=next_attempt(archive))
    assert pacs.order()[-1] == SR
    (failed,) = (row for row in deliveries(archive) if row.state == "pending")
    assert failed.attempts == PATIENCE
    assert "cannot be read" in (failed.reason or "")


def test_two_couriers_do_not_send_to_one_destination_at_once(config: Config, archive: Archive) -> None:
    now = time.time()
    one, other = (Outbox(archive, "pacs", config.delivery, name) for name in ("one", "other"))
    assert one.hold(now, 60)
    assert one.hold(now, 60), "what it holds it may hold on"
    assert not other.hold(now + 59, 60)
    assert other.hold(now + 61, 60), "the first is dead"
    one.let_go()  # too late: it is the other's by now
    assert not one.hold(now + 62, 60)
    other.let_go()
    assert one.hold(now + 62, 60)


def test_after_the_last_day_a_result_is_given_up_and_kept(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    courier = Courier(config, archive)
    late = next(iter(deliveries(archive))).created_at + config.delivery.give_up_days * DAY + 1
    assert courier.send_due(now=late) == 0
    assert {row.state for row in deliveries(archive)} == {"dead"}
    assert all("no connection" in (row.reason or "") for row in deliveries(archive))
    assert (readings.results_folder(archive, KEY) / REPORT).exists()
    with pacs.listening():
        assert courier.send_due(now=late + 1e6) == 0
    assert pacs.received == []


def test_a_segmentation_given_up_no_longer_holds_the_report(
    config: Config, archive: Archive, pacs: FaultyPacs
) -> None:
    """Too late for the refused segmentation, in time for the report, which is younger here."""
    late = time.time() + config.delivery.give_up_days * DAY + 60
    with archive.index.writing() as session:
        for row in session.scalars(sa.select(Delivery)):
            row.created_at = late if _is_report(archive, row) else row.created_at
    pacs.answers = [0xC000, 0xC000]
    with pacs.listening():
        assert Courier(config, archive).send_due(now=late + 1) == 1
    assert pacs.order()[-1] == SR
    assert sorted(row.state for row in deliveries(archive)) == ["dead", "dead", "delivered"]


def _is_report(archive: Archive, row: Delivery) -> bool:
    report = pydicom.dcmread(readings.results_folder(archive, KEY) / REPORT, stop_before_pixels=True)
    return row.sop_instance_uid == str(report.SOPInstanceUID)


def test_a_real_storescp_stores_all_three(
    config: Config, archive: Archive, pacs: FaultyPacs, tmp_path: Path
) -> None:
    folder = tmp_path / "storescp"
    folder.mkdir()
    command = [require("storescp"), "-od", str(folder), "-aet", "PACS", str(pacs.port)]
    process = subprocess.Popen(command, env={"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"})
    try:
        wait_until(lambda: echo(config.destinations[0], config) is None, 10, "storescp to answer")
        assert Courier(config, archive).send_due() == 3
    finally:
        process.kill()
        process.wait()
    kept = {str(pydicom.dcmread(path).SOPInstanceUID) for path in folder.iterdir()}
    assert kept == {row.sop_instance_uid for row in deliveries(archive)}


def test_a_host_name_without_a_dot_is_found(config: Config, pacs: FaultyPacs) -> None:
    (local,) = config.destinations
    with pacs.listening():
        assert echo(dataclasses.replace(local, address="localhost"), config) is None
    assert "check address" in (echo(dataclasses.replace(local, address="no-such-host.invalid"), config) or "")


def test_echo_says_why_a_peer_does_not_answer(config: Config, pacs: FaultyPacs) -> None:
    (local,) = config.destinations
    assert "no connection" in (echo(local, config) or "")
    with pacs.listening():
        assert echo(local, config) is None
        assert echo(dataclasses.replace(local, ae_title="OTHER"), config) is None


@given(attempts=st.integers(1, 10**6), base=st.floats(0.1, 1e4), cap=st.floats(0.1, 1e5))
def test_delays_grow_up_to_the_cap(attempts: int, base: float, cap: float) -> None:
    settings = DeliverySettings(retry_seconds=base, retry_cap_seconds=cap)
    delay, following = settings.delay(attempts), settings.delay(attempts + 1)
    assert 0 < delay <= following <= cap
