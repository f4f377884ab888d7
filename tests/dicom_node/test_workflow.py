"""Reading is durable: refusals are recorded, the same input is read once, a killed reader resumes."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
import pytest
import sqlalchemy as sa
from dbos import DBOS
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, SecondaryCaptureImageStorage

from benchmarks.campaign_node import context
from core_model.reader import Reader
from core_model.reading import Reading
from dicom_node import readings
from dicom_node.archive import Archive, Received
from dicom_node.completeness import open_again
from dicom_node.config import Config, Destination
from dicom_node.index import Delivery, Generation, ReadingRow
from dicom_node.model_in_use import OneReader
from dicom_node.reading_process import read_and_deliver
from dicom_node.status import Progress, study_progress
from dicom_node.workflow import Workflow
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import Pacs, free_port, role_process, wait_until
from tests.dicom_node.validation import dciodvfy_errors
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_checkpoint(folder)
    return Reader.load(folder, device="cpu")


@pytest.fixture
def config(tmp_path: Path, database: str | None) -> Config:
    archive = tmp_path / "archive"
    return Config(port=free_port(), archive=archive, database=database, quiet_seconds=0.2)


@pytest.fixture
def archive(config: Config) -> Archive:
    return Archive.open(config)


@pytest.fixture
def workflow(config: Config, archive: Archive, reader: Reader) -> Iterator[Workflow]:
    """A workflow that watches until the test ends."""
    workflow = Workflow(config, archive, OneReader(reader))
    workflow.start()
    stop = threading.Event()
    watching = threading.Thread(target=workflow.watch, args=(stop,))
    watching.start()
    yield workflow
    stop.set()
    watching.join()
    workflow.stop()


def put(archive: Archive, slices: Sequence[Dataset]) -> str:
    """Archive data sets as if they had come over one association; their Study Instance UID."""
    association = archive.open_association("TESTER")  # a slow disk must not look like a quiet time
    for dataset in slices:
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        content = buffer.getvalue()
        archive.store(
            Received(
                sop_instance_uid=str(dataset.SOPInstanceUID),
                sop_class_uid=str(dataset.SOPClassUID),
                study_instance_uid=str(dataset.StudyInstanceUID),
                series_instance_uid=str(dataset.SeriesInstanceUID),
                transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
                is_ct=dataset.SOPClassUID != SecondaryCaptureImageStorage,
                content=content,
                sha256=hashlib.sha256(content).hexdigest(),
            ),
            association,
        )
    archive.close_association(association)
    return str(slices[0].StudyInstanceUID)


def settled(archive: Archive, study: str, number: int = 1) -> Callable[[], bool]:
    """Whether the n-th generation of a study has reached an end."""

    def check() -> bool:
        progress = study_progress(archive, study)
        return len(progress) >= number and progress[number - 1].state not in {"complete", "queued"}

    return check


def finish(archive: Archive, study: str, number: int = 1) -> Progress:
    wait_until(settled(archive, study, number), 240, f"generation {number} to be read")
    return study_progress(archive, study)[number - 1]


def test_a_study_is_read_and_its_results_kept(
    config: Config, archive: Archive, workflow: Workflow, reader: Reader
) -> None:
    slices = ct_series()
    progress = finish(archive, put(archive, slices))
    assert (progress.state, progress.reason, progress.number) == ("read", None, 1)
    assert progress.folder is not None
    names = {path.name for path in progress.folder.iterdir()}
    assert {"findings.sr.dcm", "reading.json", "encoding.safetensors"} <= names
    report = pydicom.dcmread(progress.folder / "findings.sr.dcm")
    assert report.StudyInstanceUID == slices[0].StudyInstanceUID
    assert next(iter(progress.seconds)) == "load"
    assert list(progress.seconds)[-1] == "write"
    assert 50 * 2**20 < progress.peak_rss_bytes < 16 * 2**30
    assert progress.stored_back_at is None  # no destination


def test_what_was_read_is_not_read_again_when_something_else_comes_late(
    archive: Archive, workflow: Workflow
) -> None:
    study = put(archive, ct_series())
    assert finish(archive, study).state == "read"
    localizer = ct_series()[0]
    localizer.SeriesInstanceUID = "2.25.777"
    localizer.SOPInstanceUID = localizer.file_meta.MediaStorageSOPInstanceUID = "2.25.778"
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    put(archive, [localizer])
    second = finish(archive, study, 2)
    assert second.state == "unchanged"
    assert "generation 1" in (second.reason or "")
    with archive.index.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(ReadingRow)) == 1


def test_late_slices_of_the_series_are_read_with_the_rest(
    archive: Archive, workflow: Workflow, tmp_path: Path
) -> None:
    slices = ct_series(shape=(20, 40, 48))
    study = put(archive, slices[:15])
    assert finish(archive, study).state == "read"
    put(archive, slices[15:])
    second = finish(archive, study, 2)
    assert second.state == "read"
    folders = [progress.folder for progress in study_progress(archive, study)]
    reports = [pydicom.dcmread((folder or Path()) / "findings.sr.dcm") for folder in folders]
    assert "PredecessorDocumentsSequence" not in reports[0]
    (predecessor,) = reports[1].PredecessorDocumentsSequence
    (replaced,) = predecessor.ReferencedSeriesSequence
    assert predecessor.StudyInstanceUID == study
    assert replaced.SeriesInstanceUID == reports[0].SeriesInstanceUID
    (named,) = replaced.ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == reports[0].SOPInstanceUID != reports[1].SOPInstanceUID
    assert named.ReferencedSOPClassUID == reports[0].SOPClassUID
    assert dciodvfy_errors(reports[1], tmp_path) == []


def test_a_study_without_a_readable_series_is_refused_with_the_reason(
    archive: Archive, workflow: Workflow
) -> None:
    progress = finish(archive, put(archive, ct_series()[:3]))
    assert progress.state == "refused"
    assert "only 3 slices" in (progress.reason or "")
    with archive.index.reading() as session:
        assert session.scalars(sa.select(Delivery)).all() == []


def test_broken_pixels_fail_their_study_and_not_the_next(archive: Archive, workflow: Workflow) -> None:
    broken = ct_series(uid_root="2.25.9")
    for image in broken:
        image.compress(JPEG2000Lossless, generate_instance_uid=False)
    middle = bytearray(broken[5].PixelData)
    middle[30:-20] = bytes(len(middle) - 50)
    broken[5].PixelData = bytes(middle)
    failed = finish(archive, put(archive, broken))
    assert failed.state == "failed"
    assert failed.reason
    assert not (failed.folder or Path()).joinpath("findings.sr.dcm").exists()
    assert finish(archive, put(archive, ct_series())).state == "read"


def test_a_crash_between_choice_and_queue_is_made_good(
    config: Config, archive: Archive, reader: Reader
) -> None:
    study = put(archive, ct_series())
    with archive.index.writing() as session:
        session.add(
            Generation(
                study_instance_uid=study,
                number=1,
                watermark=10**6,
                last_ct_at=0.0,
                complete_at=0.0,
                state="complete",
            )
        )
    with archive.index.reading() as session:
        generation = session.scalars(sa.select(Generation)).one()
    assert readings.select(archive, config, reader.identity, generation).state == "queued"
    workflow = Workflow(config, archive, OneReader(reader))
    workflow.start()
    try:
        wait_until(settled(archive, study), 240, "the study to be read")
        runs = DBOS.list_workflows()
        workflow.reconcile()
        assert len(DBOS.list_workflows()) == len(runs) == 1
    finally:
        workflow.stop()
    assert study_progress(archive, study)[0].state == "read"


@pytest.mark.slow
def test_a_reader_killed_while_it_reads_finishes_the_study_once(tmp_path: Path) -> None:
    pacs = Pacs(free_port())
    config = Config(
        archive=tmp_path / "archive",
        quiet_seconds=0.2,
        destinations=(Destination("pacs", "127.0.0.1", pacs.port, "PACS"),),
    )
    archive = Archive.open(config)
    with pacs.listening():
        with role_process("reader", config, tmp_path) as process:
            study = put(archive, ct_series(shape=(40, 128, 128)))
            wait_until(
                lambda: [p.state for p in study_progress(archive, study)] == ["queued"],
                60,
                "the study to be queued",
            )
            os.kill(process.pid, signal.SIGKILL)
        assert pacs.received == []
        assert study_progress(archive, study)[0].state == "queued"
        with role_process("reader", config, tmp_path):
            wait_until(
                lambda: study_progress(archive, study)[0].stored_back_at is not None, 240, "the results"
            )
    (progress,) = study_progress(archive, study)
    assert progress.state == "read"
    uids = [uid for _, uid in pacs.received]
    assert len(uids) == len(set(uids))
    assert progress.folder is not None
    files = {str(pydicom.dcmread(path).SOPInstanceUID) for path in progress.folder.glob("*.dcm")}
    assert set(uids) == files


POISON = "2.25.666"


class Poisoned:
    """A reader that ends its process, without a word, on one series: as a crash of CUDA does."""

    def __init__(self, reader: Reader) -> None:
        self.identity = reader.identity
        self.organ_drawing = reader.organ_drawing
        self._reader = reader

    def read(self, volume: hd.Volume, **about: Any) -> Reading:
        if str(about["series_instance_uid"]).startswith(POISON):
            os._exit(9)
        return self._reader.read(volume, **about)


def read_poisoned(config: Config) -> None:
    """Target of a process: a reader as the node has it, with `Poisoned` for a model."""
    reader = Poisoned(Reader.load(config.checkpoint, "cpu"))
    read_and_deliver(
        config, Archive.open(config), OneReader(reader), threading.Event(), say_ready=lambda: None
    )


@pytest.mark.slow
def test_a_study_that_ends_its_reader_is_set_aside_after_three_tries_and_the_others_are_read(
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "checkpoint"
    tiny_checkpoint(checkpoint)
    config = Config(archive=tmp_path / "archive", checkpoint=checkpoint, quiet_seconds=0.2)
    archive = Archive.open(config)
    poison, healthy = put(archive, ct_series(uid_root=POISON)), put(archive, ct_series())
    source = context()
    process, deaths = source.Process(target=read_poisoned, args=(config,)), 0
    process.start()
    deadline = time.monotonic() + 240
    while not all(settled(archive, study)() for study in (poison, healthy)):
        assert time.monotonic() < deadline, study_progress(archive, poison)
        if not process.is_alive():
            assert process.exitcode == 9
            deaths += 1
            process = source.Process(target=read_poisoned, args=(config,))
            process.start()
        time.sleep(0.05)
    process.kill()
    process.join()
    (aside,) = study_progress(archive, poison)
    assert (aside.state, deaths) == ("set aside", 3)
    assert aside.reason == "3 times a reader ended while it read this study"
    assert study_progress(archive, healthy)[0].state == "read"
    assert open_again(archive.index, poison) is not None  # a person may want it tried
