"""A study with an unmistakable patient goes through a whole node; nothing of him is where it must not be."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.audit import FOLDER
from dicom_node.config import Config, Destination, MonitorSettings
from dicom_node.log_lines import archive_key, keyed_digest
from tests.dicom_node.audit_schema import check, event_of
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import ANY_DISK, Pacs, association, free_port, running_node, wait_until
from tests.tiny import tiny_checkpoint

CALLING = "KNOEDELWERK-AE7"
SECRETS = ("Zwetschgenknoedel", "Kunigunde", "PID-98765-QX", "ACC-7654321-ZZ", "19470313", CALLING)
ROOT = "2.25.98765432109876543210"


def patient() -> list[Dataset]:
    images = ct_series(uid_root=ROOT)
    for image in images:
        image.PatientName = f"{SECRETS[0]}^{SECRETS[1]}"
        image.PatientID, image.AccessionNumber, image.PatientBirthDate = SECRETS[2:5]
    return images


def probe(config: Config, path: str) -> tuple[int, str]:
    """Status and body that the monitor answers."""
    url = f"http://127.0.0.1:{config.monitor.port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def store(config: Config, images: list[Dataset]) -> list[int]:
    contexts = [(str(i.SOPClassUID), str(i.file_meta.TransferSyntaxUID)) for i in images]
    with association(config, contexts, ae_title=CALLING) as opened:
        return [int(opened.send_c_store(image).Status) for image in images]


@pytest.mark.slow
def test_nothing_of_the_patient_is_in_logs_metrics_or_file_names(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "checkpoint")
    images, pacs = patient(), Pacs(free_port())
    study = str(images[0].StudyInstanceUID)
    config = Config(
        port=free_port(),
        archive=tmp_path / "archive",
        quiet_seconds=0.5,
        receiver=ANY_DISK,
        log_level="DEBUG",
        log_format="json",
        checkpoint=tmp_path / "checkpoint",
        monitor=MonitorSettings(port=free_port()),
        destinations=(Destination("pacs", "127.0.0.1", pacs.port, "PACS"),),
    )
    with pacs.listening(), running_node(config, tmp_path, ["receiver", "reader", "monitor"]):
        assert set(store(config, images)) == {0}
        other = patient()[0]
        other.PatientName = f"{SECRETS[1]}^{SECRETS[0]}"
        assert store(config, [other]) == [0x0111]  # another content under the same UID
        wait_until(lambda: len(pacs.received) >= 2, 240, "SEG and SR at the PACS")
        delivered = 'sightline_deliveries{destination="pacs",state="pending"}'
        wait_until(lambda: delivered not in probe(config, "/metrics")[1], 60, "all deliveries noted")
        assert probe(config, "/healthz") == (200, "alive\n")
        status, metrics = probe(config, "/metrics")
        ready = probe(config, "/readyz")
    log = (tmp_path / "node.log").read_text("utf-8")
    names = "\n".join(str(path.relative_to(tmp_path)) for path in config.archive.rglob("*"))
    uids = {ROOT, study, *(str(i.SOPInstanceUID) for i in images), str(images[0].SeriesInstanceUID)}
    for text in (log, metrics, ready[1], names):
        assert text
        for secret in (*SECRETS, *uids):
            assert secret.lower() not in text.lower(), secret

    # What was looked through is what it should be: the study can be followed by its digest.
    assert (status, ready[0]) == (200, 200)
    assert 'sightline_generations{state="read"} 1.0' in metrics
    digest = keyed_digest(archive_key(config.archive), study)
    documents = [json.loads(line) for line in log.splitlines()]
    (read,) = [d for d in documents if d["event"] == "study read"]
    assert (read["study"], read["generation"], read["level"]) == (digest, 1, "INFO")

    trail = "".join(file.read_text("utf-8") for file in (config.archive / FOLDER).iterdir())
    for secret in SECRETS[:5]:
        assert secret.lower() not in trail.lower()
    assert study in trail
    assert keyed_digest(archive_key(config.archive), SECRETS[2]) in trail
    events = [event_of(check(line)) for line in trail.splitlines()]
    assert {"110100", "110102", "110104"} == set(events)
    assert events.count("110100") == 6  # three processes started and stopped
