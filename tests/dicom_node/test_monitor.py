"""Metrics from the index, and probes that say what the node can do, without its DICOM port."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from pydicom.uid import ExplicitVRLittleEndian
from starlette.testclient import TestClient

from dicom_node import heartbeat
from dicom_node.archive import Archive
from dicom_node.audit import FOLDER
from dicom_node.config import Config, MonitorSettings, load_config
from dicom_node.delivery_dimse import rejection
from dicom_node.errors import SightlineError
from dicom_node.heartbeat import ProcessRow, beat, beating, processes
from dicom_node.index import Delivery, Generation, ReadingRow, Result, Study
from dicom_node.monitor import monitor_app
from dicom_node.receiver import Receiver
from dicom_node.traffic import OTHER, Traffic
from tests.dicom_node.audit_schema import check, event_of, objects
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import ANY_DISK, association, free_port, send

TOKEN = "a-token-of-sixteen-or-more"
Metrics = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        archive=tmp_path / "archive",
        port=free_port(),
        calling_ae_titles=("TESTER",),
        reserve_gib=0,
        receiver=ANY_DISK,
    )


@pytest.fixture
def archive(config: Config) -> Archive:
    return Archive.open(config)


def client(config: Config, archive: Archive) -> TestClient:
    return TestClient(monitor_app(config, archive))


def scrape(config: Config, archive: Archive) -> Metrics:
    """All samples, as Prometheus's own parser reads them."""
    answer = client(config, archive).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics[name, frozenset(labels.items())]


def lives(archive: Archive, role: str, ago: float = 0.0) -> None:
    row = ProcessRow(name=f"here:{role}:1", role=role, host="here", started_at=0.0)
    beat(archive.index, row, time.time() - ago)


def read_study(archive: Archive, number: int, moments: tuple[float, float, float, float | None]) -> None:
    """A study whose last image came, was complete, was read and was delivered at these times."""
    came, complete, read, delivered = moments
    key, uid = f"key{number}", f"1.2.{number}"
    with archive.index.writing() as session:
        session.add(
            Generation(
                study_instance_uid=uid, number=1, watermark=1, last_ct_at=came, complete_at=complete,
                state="read", reading_key=key,
            )
        )  # fmt: skip
        session.add(
            ReadingRow(
                key=key, study_instance_uid=uid, series_instance_uid=uid, started_at=complete,
                finished_at=read, seconds={}, peak_rss_bytes=0, device="",
            )
        )  # fmt: skip
        session.flush()
        for rank, suffix in enumerate(("seg", "sr")):
            session.add(
                Result(
                    sop_instance_uid=f"{uid}.{rank}", reading_key=key, sop_class_uid="1.2",
                    file_name=suffix, rank=rank,
                )
            )  # fmt: skip
            session.flush()
            there = delivered is not None or rank == 0
            session.add(
                Delivery(
                    sop_instance_uid=f"{uid}.{rank}", destination="pacs", attempts=1, created_at=read,
                    state="delivered" if there else "pending", due_at=read,
                    delivered_at=(delivered or read + 1) if there else None,
                )
            )  # fmt: skip


def test_histograms_and_queues_come_from_the_index(config: Config, archive: Archive) -> None:
    now = time.time()
    read_study(archive, 1, (0.0, 30.0, 75.0, 79.0))
    read_study(archive, 2, (0.0, 31.0, 41.0, 5041.0))
    read_study(archive, 3, (now - 600, now - 500, now - 400, None))
    with archive.index.writing() as session:
        session.add(
            Study(study_instance_uid="1.9", first_ct_at=0.0, last_ct_at=now - 20, last_ct_id=1, waiting=True)
        )
    found = scrape(config, archive)
    assert value(found, "sightline_index_up") == 1
    assert value(found, "sightline_received_to_ready_seconds_count") == 3
    assert value(found, "sightline_received_to_ready_seconds_sum") == pytest.approx(161)
    assert value(found, "sightline_received_to_ready_seconds_bucket", le="30.0") == 1
    assert value(found, "sightline_received_to_ready_seconds_bucket", le="60.0") == 2
    assert value(found, "sightline_ready_to_read_seconds_bucket", le="10.0") == 1
    assert value(found, "sightline_ready_to_read_seconds_sum") == pytest.approx(45 + 10 + 100)
    assert value(found, "sightline_read_to_delivered_seconds_count") == 5
    # The third study is not all there yet.
    assert value(found, "sightline_received_to_delivered_seconds_count") == 2
    assert value(found, "sightline_received_to_delivered_seconds_sum") == pytest.approx(79 + 5041)
    assert value(found, "sightline_queue_depth", queue="delivery") == 1
    assert value(found, "sightline_queue_depth", queue="receiving") == 1
    assert value(found, "sightline_oldest_job_age_seconds", queue="delivery") == pytest.approx(400, abs=60)
    assert value(found, "sightline_oldest_job_age_seconds", queue="receiving") == pytest.approx(20, abs=60)
    assert value(found, "sightline_oldest_job_age_seconds", queue="reading") == 0
    assert value(found, "sightline_deliveries", destination="pacs", state="delivered") == 5
    assert value(found, "sightline_disk_free_bytes") > 0


def test_what_the_receiver_sees_is_counted_by_peer_and_audited(config: Config, archive: Archive) -> None:
    receiver = Receiver(config, archive)
    receiver.start()
    try:
        images = ct_series()[:2]
        assert send(config, images) == [0, 0]
        assert send(config, images[:1]) == [0]
        nowhere = ct_series()[2]
        nowhere.StudyInstanceUID = ""
        assert send(config, [nowhere]) == [0xC001]
        with association(config, [("1.2.840.10008.1.1", ExplicitVRLittleEndian)], ae_title="EVE") as refused:
            assert rejection(refused) is not None
    finally:
        receiver.stop()
    found = scrape(config, archive)  # from another process's point of view: only the index is asked
    assert value(found, "sightline_associations_total", ae_title="TESTER") == 3
    assert value(found, "sightline_instances_total", ae_title="TESTER") == 2
    assert value(found, "sightline_duplicates_total", ae_title="TESTER") == 1
    assert value(found, "sightline_refusals_total", ae_title="TESTER", status="0xC001") == 1
    size = sum(archive.path(str(i.SOPInstanceUID)).stat().st_size for i in (*images, images[0]))
    assert value(found, "sightline_received_bytes_total", ae_title="TESTER") == size
    reason = "calling ae title"
    assert value(found, "sightline_associations_refused_total", ae_title=OTHER, reason=reason) == 1
    assert not any("EVE" in text for _, labels in found for pair in labels for text in pair)

    (file,) = (config.archive / FOLDER).iterdir()
    roots = [check(line) for line in file.read_bytes().splitlines()]
    events = sorted(event_of(root) for root in roots)
    assert events == ["110102", "110102", "110104", "110104", "110104", "110113"]
    study = str(images[0].StudyInstanceUID)
    transferred = [root for root in roots if event_of(root) == "110104"]
    assert sorted(root[0].attrib["EventActionCode"] for root in transferred) == ["C", "R", "R"]
    assert [objects(root)["110180"] for root in transferred].count(study) == 2


def test_counts_of_two_processes_add_up_and_survive(archive: Archive) -> None:
    for _ in range(2):
        traffic = Traffic(archive.index, ("CT1",))
        for _ in range(3):
            traffic.add("CT1 ", "instances")
            traffic.add("STRANGER", "instances")
        traffic.flush()
        traffic.flush()
    with archive.index.reading() as session:
        rows = session.execute(sa.text("select ae_title, count from traffic order by ae_title")).all()
    assert [tuple(row) for row in rows] == [("CT1", 6), (OTHER, 6)]


def test_counts_that_could_not_be_written_are_kept(config: Config, archive: Archive) -> None:
    traffic = Traffic(archive.index, ())
    traffic.add("A", "instances")
    with archive.index.writing() as session:
        session.execute(sa.text("alter table traffic rename to gone"))
    with pytest.raises(sa.exc.OperationalError):
        traffic.flush()
    with archive.index.writing() as session:
        session.execute(sa.text("alter table gone rename to traffic"))
    traffic.flush()
    assert value(scrape(config, archive), "sightline_instances_total", ae_title=OTHER) == 1


def test_ready_is_said_by_heartbeats_and_not_by_the_dicom_port(config: Config, archive: Archive) -> None:
    probe = client(config, archive)
    assert probe.get("/healthz").text == "alive\n"
    answer = probe.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {
        **dict.fromkeys(("archive", "disk", "index"), "ok"),
        **dict.fromkeys(("receiver", "reader"), "no sign of life"),
    }
    lives(archive, "receiver")
    lives(archive, "reader")
    assert probe.get("/readyz").status_code == 200  # though nobody listens on config.port
    lives(archive, "receiver", ago=heartbeat.STALE_SECONDS + 1)
    assert probe.get("/readyz").json()["checks"]["receiver"] == "no sign of life"
    found = scrape(config, archive)
    assert value(found, "sightline_process_up", process="here:receiver:1", role="receiver") == 0
    assert value(found, "sightline_process_up", process="here:reader:1", role="reader") == 1
    assert value(found, "sightline_resident_bytes", process="here:reader:1", role="reader") > 1 << 20


def test_a_process_beats_while_it_lives_and_is_gone_after_a_clean_end(archive: Archive) -> None:
    with beating(archive.index, "receiver"):
        deadline = time.monotonic() + 30
        while not processes(archive.index):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (row,) = processes(archive.index)
        assert (row.role, heartbeat.alive(row, time.time())) == ("receiver", True)
        assert (row.gpu_free_bytes is None) == (heartbeat.gpu_memory() is None)
    assert processes(archive.index) == []


def test_what_is_wrong_is_said(config: Config, archive: Archive) -> None:
    for role in ("receiver", "reader"):
        lives(archive, role)
    greedy = dataclasses.replace(config, reserve_gib=1e6)
    assert "below reserve_gib" in client(greedy, archive).get("/readyz").json()["checks"]["disk"]
    archive.index.close()
    for file in config.archive.glob("index.sqlite*"):
        file.write_bytes(b"this is no database" * 100)
    checks = client(config, archive).get("/readyz").json()["checks"]
    assert checks["index"] == "DatabaseError"
    assert checks["archive"] == "ok"
    found = scrape(config, archive)
    assert value(found, "sightline_index_up") == 0
    assert value(found, "sightline_disk_free_bytes") > 0
    config.archive.rename(config.archive.with_name("away"))
    assert client(config, archive).get("/readyz").json()["checks"]["archive"] == "No such file or directory"
    assert client(config, archive).get("/metrics").status_code == 200


def test_a_token_guards_metrics_and_reasons(tmp_path: Path, config: Config, archive: Archive) -> None:
    file = tmp_path / "monitor.token"
    file.write_text(TOKEN + "\n")
    guarded = dataclasses.replace(config, monitor=MonitorSettings(token_file=file))
    probe = client(guarded, archive)
    assert probe.get("/metrics").status_code == 401
    assert probe.get("/healthz").status_code == 200
    assert probe.get("/readyz").json() == {"ready": False}
    header = {"Authorization": f"Bearer {TOKEN}"}
    assert probe.get("/metrics", headers=header).status_code == 200
    assert "checks" in probe.get("/readyz", headers=header).json()
    assert probe.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
    file.write_text("short")
    with pytest.raises(SightlineError, match=r"monitor\.token_file"):
        monitor_app(guarded, archive)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('address = "0.0.0.0"', "monitor.token_file"),
        ("port = 0", "monitor.port"),
        ('certificate = "a.crt"', "monitor.key is missing"),
        ('roles = ["reciever"]', "must be of receiver, reader, service"),
    ],
)
def test_mistakes_in_the_table_are_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f"[monitor]\n{text}\n")
    with pytest.raises(SightlineError, match=words):
        load_config(path)
    path.write_text('[monitor]\naddress = "0.0.0.0"\nopen_to_all = true\n')
    assert load_config(path).monitor.open_to_all
