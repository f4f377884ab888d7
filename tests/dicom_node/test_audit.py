"""The audit trail: messages by the schema of PS3.15 A.5.1, in files that are only appended to."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node import audit_message as am
from dicom_node.archive import Archive
from dicom_node.audit import FOLDER, AuditTrail
from dicom_node.audit_message import AuditMessage, Concerned, Participant
from dicom_node.config import Config
from dicom_node.log_lines import archive_key, keyed_digest
from dicom_node.receive_metrics import MAX_ALERTS, ReceiveMetrics
from tests.dicom_node.audit_schema import check, event_of, objects
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.test_workflow import put

PEER = Participant("CT1", address="10.0.0.7")
STUDY = Concerned("1.2.3", "0123456789ab", {"1.2.840.10008.5.1.4.1.1.2": 3})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = Config(archive=tmp_path / "archive")
    Archive.open(config).index.close()
    return config


def lines(config: Config) -> list[bytes]:
    """All messages of an archive, in order."""
    files = sorted((config.archive / FOLDER).iterdir())
    return [line for file in files for line in file.read_bytes().splitlines()]


def test_every_message_is_valid_and_names_what_it_must(config: Config) -> None:
    trail = AuditTrail(config)
    trail.started("receiver")
    trail.stopped("receiver")
    trail.receiving(PEER, STUDY)
    trail.received(PEER, STUDY, is_new=True)
    trail.not_received(PEER, 2)
    trail.sending(PEER, STUDY)
    trail.sent(PEER, STUDY, {"1.2": 1})
    trail.removed(STUDY, "older than 3 days")
    trail.asked("/api/1/studies/{study_uid}/query", PEER, STUDY)
    trail.asked("/api/1/query", PEER, None)
    trail.exported(PEER, STUDY)
    trail.corrected(PEER, STUDY)
    trail.alert(PEER, "the association was rejected", 5)
    roots = [check(line) for line in lines(config)]
    events = [event_of(root) for root in roots]
    assert events == [
        *("110100", "110100", "110102", "110104", "110104", "110102", "110104", "110104"),
        *("110105", "110112", "110112", "110106", "110103", "110113"),
    ]
    about = [objects(root) for root in roots]
    assert all(kinds.get("2") == STUDY.patient for kinds in about if kinds.get("110180") == "1.2.3")
    counts = [o.attrib for o in roots[3].iter("SOPClass")]
    assert counts == [{"UID": "1.2.840.10008.5.1.4.1.1.2", "NumberOfInstances": "3"}]
    assert roots[6][0].attrib["EventOutcomeIndicator"] == "0"
    assert roots[7][0].attrib["EventOutcomeIndicator"] == "4"


@given(st.text(), st.text(), st.text())
def test_whatever_a_peer_calls_itself_the_message_is_valid_and_one_line(a: str, b: str, c: str) -> None:
    message = AuditMessage(
        am.SECURITY_ALERT, am.EXECUTE, [Participant(a, address=b)], description=c, alert_subject=b
    )
    xml = message.xml(a or "node", 1e9)
    assert len(xml.splitlines()) == 1
    check(xml)


def test_one_file_a_day_for_its_owner_only(config: Config) -> None:
    trail = AuditTrail(config)
    message = AuditMessage(am.APPLICATION_ACTIVITY, am.EXECUTE, [trail.own_process("reader")])
    for now in (0.0, 86399.0, 86400.0):
        assert trail.write(message, now)
    files = sorted((config.archive / FOLDER).iterdir())
    assert [file.name for file in files] == ["1970-01-01.xml-lines", "1970-01-02.xml-lines"]
    assert [len(file.read_bytes().splitlines()) for file in files] == [2, 1]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (config.archive / FOLDER).stat().st_mode & 0o777 == 0o700


def test_processes_that_write_at_once_do_not_mix_their_lines(config: Config) -> None:
    program = (
        "import pathlib, sys\n"
        "from dicom_node.audit import AuditTrail\n"
        "from dicom_node.config import Config\n"
        "trail = AuditTrail(Config(archive=pathlib.Path(sys.argv[1])))\n"
        "for n in range(40): trail.started('reader' + 'x' * 150 + str(n))\n"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", program, str(config.archive)]
    writers = [subprocess.Popen(command, cwd=root) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    written = lines(config)
    assert len(written) == 120
    for line in written:
        check(line)


def test_a_trail_that_cannot_be_written_stops_nothing(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    (config.archive / FOLDER).write_text("in the way")
    message = AuditMessage(am.APPLICATION_ACTIVITY, am.EXECUTE, [PEER])
    assert not AuditTrail(config).write(message)
    assert "audit message not written" in caplog.text


def test_the_patient_is_a_digest_that_the_key_can_make_again(config: Config) -> None:
    archive = Archive.open(config)
    (image,) = ct_series(shape=(1, 8, 8))
    image.PatientID = "PID-4711"
    put(archive, [image])
    digest = AuditTrail(config).patient_of(archive.path(str(image.SOPInstanceUID)))
    assert digest == keyed_digest(archive_key(config.archive), "PID-4711")
    assert AuditTrail(config).patient_of(config.archive / "absent") == am.UNKNOWN


def test_a_flood_of_refused_peers_makes_a_bounded_number_of_messages(config: Config) -> None:
    config = dataclasses.replace(config, calling_ae_titles=("PACS",))
    metrics = ReceiveMetrics(config, Archive.open(config).index)
    for n in range(1000):
        metrics.on_association_refused(f"AE{n}", "10.0.0.9", "the association was rejected")
    metrics.flush()
    roots = [check(line) for line in lines(config)]
    assert {event_of(root) for root in roots} == {"110113"}
    assert len(roots) == MAX_ALERTS + 1
