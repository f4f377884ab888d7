"""What the tests of delivery share: a finished reading, its rows in the index, and a CA of one's own."""

from __future__ import annotations

import functools
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import trustme
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicom_node import readings
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.delivery_outbox import Peer
from dicom_node.index import Delivery, Generation, Study
from dicom_node.reading_files import write_objects
from tests.dicom_node.ct_series import ct_series, volume_of
from tests.dicom_node.readings import KEY, make_reading

# What is sent of a finished reading, in the order in which it must go.
ORDER = [str(SegmentationStorage), str(SegmentationStorage), str(Comprehensive3DSRStorage)]
STUDY = str(ct_series()[0].StudyInstanceUID)


@functools.cache
def _objects() -> dict[str, bytes]:
    """The files of the reading; made once, because that takes a while."""
    slices = ct_series()
    with tempfile.TemporaryDirectory() as folder:
        written = write_objects(Path(folder), make_reading(volume_of(slices)), slices, KEY)
        return {path.name: path.read_bytes() for path in written}


def finished_reading(config: Config) -> Archive:
    """An archive with one finished reading, not yet sent: two SEG and one SR."""
    archive = Archive.open(config)
    folder = readings.results_folder(archive, KEY)
    folder.mkdir()
    for name, content in _objects().items():
        (folder / name).write_bytes(content)
    assert len(list(folder.iterdir())) == len(ORDER)
    with archive.index.writing() as session:
        session.add(
            Study(study_instance_uid=STUDY, first_ct_at=0.0, last_ct_at=0.0, last_ct_id=1, waiting=False)
        )
        generation = Generation(
            study_instance_uid=STUDY,
            series_instance_uid=str(ct_series()[0].SeriesInstanceUID),
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
    """All rows, in the order of `ORDER`."""
    with archive.index.reading() as session:
        rows = list(session.scalars(sa.select(Delivery)))
    return sorted(rows, key=lambda row: row.sop_instance_uid)


def peer(archive: Archive, name: str = "pacs") -> Peer:
    """The row of a destination."""
    with archive.index.reading() as session:
        return session.get_one(Peer, name)


def next_attempt(archive: Archive, name: str = "pacs") -> float:
    """When everything that waits for a destination is due, seconds since the epoch."""
    due = [row.due_at for row in deliveries(archive) if row.destination == name]
    return max([peer(archive, name).retry_at, *due]) + 1


@dataclass(frozen=True)
class Certificates:
    """A hospital's authority and what it signed, as PEM files."""

    authority: Path
    server: Path
    elsewhere: Path
    client: Path
    stranger: Path

    def server_context(self, certificate: Path, *, asks_client: bool = True) -> ssl.SSLContext:
        """The server side of TLS; client certificates of the hospital's authority are demanded."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if asks_client:
            context.load_verify_locations(self.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_certificates(folder: Path) -> Certificates:
    """Certificates for localhost, for another host, for a client, and a client of another authority."""
    hospital, other = trustme.CA(), trustme.CA()
    issued = {
        "server": hospital.issue_cert("localhost", "127.0.0.1"),
        "elsewhere": hospital.issue_cert("elsewhere.example"),
        "client": hospital.issue_cert("node.example"),
        "stranger": other.issue_cert("node.example"),
    }
    hospital.cert_pem.write_to_path(folder / "authority.pem")
    for name, certificate in issued.items():
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
    return Certificates(folder / "authority.pem", **{name: folder / f"{name}.pem" for name in issued})
