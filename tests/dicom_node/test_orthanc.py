"""The whole path on a real CT: Orthanc routes a study to the node, and SEG and SR come back."""

from __future__ import annotations

import collections
import io
import json
import time
import zipfile
from pathlib import Path

import pydicom
import pytest

from dicom_node.archive import Archive
from dicom_node.config import Config, Destination
from dicom_node.status import Progress, study_progress
from tests.dicom_node.network import ANY_DISK, free_port, running_node, wait_until
from tests.dicom_node.orthanc import AE_TITLE, Orthanc, orthanc
from tests.peers import require, shared_data

STABLE_SECONDS = 2


def kinds(pacs: Orthanc) -> collections.Counter[str]:
    """How many results of each kind the PACS holds."""
    return collections.Counter(
        f"{tags['Modality']} {tags.get('SeriesDescription', '')}" for tags in pacs.objects()
    )


def upload(pacs: Orthanc, archive: Path) -> str:
    """All images of a zip into the PACS; their Study Instance UID."""
    uid = ""
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            if name.endswith(".dcm"):
                image = content.read(name)
                pacs.upload(image)
                uid = str(pydicom.dcmread(io.BytesIO(image), stop_before_pixels=True).StudyInstanceUID)
    return uid


def routed(pacs: Orthanc) -> int:
    """How often the PACS has sent the study to the node."""
    return sum(job["State"] == "Success" for job in pacs.jobs())


def newest(archive: Archive, study_instance_uid: str) -> Progress | None:
    """The newest generation of a study, if it has one."""
    return next(iter(study_progress(archive, study_instance_uid)[::-1]), None)


@pytest.mark.slow
def test_a_routed_study_comes_back_once(tmp_path: Path) -> None:
    program, study = require("Orthanc"), shared_data("crlm_ct", "CRLM-CT-1004.zip")
    node_port = free_port()
    with orthanc(
        program,
        tmp_path / "pacs",
        node_ae_title="SIGHTLINE",
        node_port=node_port,
        stable_seconds=STABLE_SECONDS,
    ) as pacs:
        config = Config(
            port=node_port,
            archive=tmp_path / "archive",
            quiet_seconds=2,
            receiver=ANY_DISK,
            destinations=(Destination("pacs", "127.0.0.1", pacs.dicom_port, AE_TITLE),),
        )
        with running_node(config, tmp_path):
            uid = upload(pacs, study)
            archive = Archive.open(config)
            wait_until(
                lambda: (g := newest(archive, uid)) is not None and (g.stored_back_at or g.reason),
                180,
                "the results to be stored back",
            )
            first = newest(archive, uid)
            assert first is not None
            assert first.state == "read", first.reason
            assert first.stored_back_at is not None
            seconds = first.stored_back_at - first.complete_at
            peak = first.peak_rss_bytes >> 20
            print(f"complete to stored back {seconds:.1f} s, peak {peak} MiB, stages {first.seconds}")
            found = kinds(pacs)
            reading = json.loads((first.folder / "reading.json").read_text("utf-8"))
            n_lesion_segs = 1 if reading["lesions"] else 0
            assert sum(found.values()) == 2 + n_lesion_segs
            assert sum(n for kind, n in found.items() if kind.startswith("SR")) == 1
            assert sum(n for kind, n in found.items() if kind.startswith("SEG")) == 1 + n_lesion_segs

            # The results made the study stable again, so the PACS sends all of it once more; twice where
            # it became stable between SEG and SR. Then there is nothing new, and it ends.
            wait_until(lambda: routed(pacs) >= 2, 60, "the study to be routed again")
            time.sleep(20)
            times = routed(pacs)
            time.sleep(20)
            assert kinds(pacs) == found
            assert len(study_progress(archive, uid)) == 1
            assert times == routed(pacs) <= 3
            for tags in pacs.objects():
                result = pydicom.dcmread(io.BytesIO(pacs.fetch(tags["id"])))
                assert result.StudyInstanceUID == uid
                assert result.PatientID not in (tmp_path / "node.log").read_text("utf-8")
            assert seconds <= 60
            assert first.peak_rss_bytes <= 8 * 2**30
