"""Results reach their destinations: in order, once, and after any trouble on the way."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicom_node import readings
from dicom_node.archive import Archive
from dicom_node.config import Config, DeliverySettings, Destination
from dicom_node.delivery import Courier, echo, retry_delay, stored_back_at
from dicom_node.index import Delivery, Generation
from dicom_node.reading_files import REPORT, write_objects
from tests.dicom_node.ct_series import ct_series, volume_of
from tests.dicom_node.network import Pacs, free_port, wait_until
from tests.dicom_node.readings import KEY, make_reading
from tests.peers import require

ORDER = [str(SegmentationStorage), str(SegmentationStorage), str(Comprehensive3DSRStorage)]


@pytest.fixture
def pacs() -> Pacs:
    return Pacs(free_port())


@pytest.fixture
def config(tmp_path: Path, pacs: Pacs) -> Config:
    return Config(
        archive=tmp_path / "archive",
        delivery=DeliverySettings(retry_seconds=10, timeout_seconds=5),
        destinations=(Destination("pacs", "127.0.0.1", pacs.port, "PACS"),),
    )


@pytest.fixture
def archive(config: Config) -> Archive:
    """An archive with one finished reading, not yet sent."""
    archive = Archive.open(config)
    slices = ct_series()
    reading = make_reading(volume_of(slices))
    folder = readings.results_folder(archive, KEY)
    folder.mkdir()
    assert len(write_objects(folder, reading, slices, KEY)) == 3
    with archive.index.writing() as session:
        generation = Generation(
            study_instance_uid=str(slices[0].StudyInstanceUID),
            series_instance_uid=str(slices[0].SeriesInstanceUID),
            number=1,
            watermark=1,
            last_ct_at=0.0,
            complete_at=0.0,
            state="queued",
            reading_key=KEY,
        )
        session.add(generation)
        session.flush()
    finished = readings.Finished(started_at=0.0, seconds={}, peak_rss_bytes=1, device="cpu")
    readings.publish(archive, config, generation.id, finished)
    return archive


def deliveries(archive: Archive) -> list[Delivery]:
    with archive.index.reading() as session:
        return list(session.scalars(sa.select(Delivery)))


def last_due(archive: Archive) -> float:
    return max(row.due_at for row in deliveries(archive))


def test_segmentations_go_before_the_report_and_all_go_once(
    config: Config, archive: Archive, pacs: Pacs
) -> None:
    assert stored_back_at(archive, KEY) is None
    courier = Courier(config, archive)
    with pacs.listening():
        assert courier.send_due() == 3
        assert courier.send_due() == 0
    assert [sop_class for sop_class, _ in pacs.received] == ORDER
    assert {row.state for row in deliveries(archive)} == {"delivered"}
    assert stored_back_at(archive, KEY) == max(row.delivered_at or 0 for row in deliveries(archive))


def test_a_pacs_that_was_down_gets_everything_after_a_restart(
    config: Config, archive: Archive, pacs: Pacs
) -> None:
    assert Courier(config, archive).send_due() == 0
    rows = deliveries(archive)
    # The report waits for its segmentations and has not been tried itself.
    assert sorted(row.attempts for row in rows) == [0, 1, 1]
    assert all("no connection" in (row.reason or "") for row in rows if row.attempts)
    archive.index.close()
    restarted = Courier(config, Archive.open(config))
    with pacs.listening():
        assert restarted.send_due() == 0  # not due yet
        assert restarted.send_due(now=last_due(archive) + 1) == 3
    assert [sop_class for sop_class, _ in pacs.received] == ORDER


def test_a_refused_segmentation_is_sent_again_and_holds_the_report_back(
    config: Config, archive: Archive, pacs: Pacs
) -> None:
    pacs.answers = [0x0000, 0xA700]
    courier = Courier(config, archive)
    with pacs.listening():
        assert courier.send_due() == 1
        assert [sop_class for sop_class, _ in pacs.received] == ORDER[:2]
        assert courier.send_due(now=last_due(archive) + 1) == 2
    assert len(pacs.received) == 4
    assert pacs.received[1] == pacs.received[2]
    assert stored_back_at(archive, KEY) is not None


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_warnings_and_duplicates_count_as_stored(
    config: Config, archive: Archive, pacs: Pacs, status: int
) -> None:
    pacs.answers = [status] * 3
    with pacs.listening():
        assert Courier(config, archive).send_due() == 3
    assert {row.status for row in deliveries(archive)} == {status}


def test_after_the_last_day_a_result_is_given_up_and_kept(
    config: Config, archive: Archive, pacs: Pacs
) -> None:
    courier = Courier(config, archive)
    late = last_due(archive) + config.delivery.give_up_days * 86400 + 1
    assert courier.send_due(now=late) == 0
    assert {row.state for row in deliveries(archive)} == {"dead"}
    assert (readings.results_folder(archive, KEY) / REPORT).exists()
    with pacs.listening():
        assert courier.send_due(now=late + 1e6) == 0
    assert pacs.received == []


def test_a_real_storescp_stores_all_three(
    config: Config, archive: Archive, pacs: Pacs, tmp_path: Path
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


def test_echo_says_why_a_peer_does_not_answer(config: Config, pacs: Pacs) -> None:
    (peer,) = config.destinations
    assert "no connection" in (echo(peer, config) or "")
    with pacs.listening():
        assert echo(peer, config) is None
        assert echo(dataclasses.replace(peer, ae_title="OTHER"), config) is None


@given(attempts=st.integers(1, 10**6), base=st.floats(0.1, 1e4), cap=st.floats(0.1, 1e5))
def test_delays_grow_up_to_the_cap(attempts: int, base: float, cap: float) -> None:
    settings = DeliverySettings(retry_seconds=base, retry_cap_seconds=cap)
    delay, following = retry_delay(attempts, settings), retry_delay(attempts + 1, settings)
    assert 0 < delay <= following <= cap
