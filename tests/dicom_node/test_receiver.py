"""Real associations with the receiver: what is acknowledged, what is refused, what survives."""

from __future__ import annotations

import hashlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.delivery_dimse import rejection
from dicom_node.errors import SightlineError
from dicom_node.index import Association, Instance, Study
from dicom_node.receiver import Receiver, decodable_transfer_syntaxes
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import ANY_DISK, association, free_port, role_process, send, wait_until

CT = (str(CTImageStorage), str(ExplicitVRLittleEndian))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(port=free_port(), archive=tmp_path / "archive", reserve_gib=0.0, receiver=ANY_DISK)


@pytest.fixture
def archive(config: Config) -> Archive:
    return Archive.open(config)


@pytest.fixture
def receiver(config: Config, archive: Archive) -> Iterator[Receiver]:
    receiver = Receiver(config, archive)
    receiver.start()
    yield receiver
    receiver.stop()


def rows(archive: Archive) -> list[Instance]:
    with archive.index.reading() as session:
        return list(session.scalars(sa.select(Instance).order_by(Instance.id)))


def waiting(archive: Archive) -> list[Study]:
    with archive.index.reading() as session:
        return list(session.scalars(sa.select(Study).where(Study.waiting)))


def still_open(archive: Archive) -> int:
    with archive.index.reading() as session:
        return len(session.scalars(sa.select(Association).where(Association.closed_at.is_(None))).all())


def test_it_answers_c_echo(config: Config, receiver: Receiver) -> None:
    with association(config, [("1.2.840.10008.1.1", str(ExplicitVRLittleEndian))]) as opened:
        assert opened.send_c_echo().Status == 0


def test_a_series_is_stored_as_it_came(config: Config, archive: Archive, receiver: Receiver) -> None:
    slices = ct_series()
    assert send(config, slices) == [0] * len(slices)
    assert len(rows(archive)) == len(slices)
    for sent in slices:
        kept = pydicom.dcmread(archive.path(sent.SOPInstanceUID))
        assert kept == sent
        assert kept.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert [study.study_instance_uid for study in waiting(archive)] == [slices[0].StudyInstanceUID]


def test_sent_again_it_is_taken_and_the_study_does_not_wait_again(
    config: Config, archive: Archive, receiver: Receiver
) -> None:
    slices = ct_series()
    send(config, slices)
    with archive.index.writing() as session:
        session.execute(sa.update(Study).values(waiting=False))
    assert send(config, slices) == [0] * len(slices)
    assert (len(rows(archive)), waiting(archive)) == (len(slices), [])
    slices[0].SliceThickness = "9"
    assert send(config, slices[:1]) == [0x0111]


def test_other_objects_are_taken_and_no_study_waits_for_them(
    config: Config, archive: Archive, receiver: Receiver
) -> None:
    other = ct_series()[0]
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    assert send(config, [other]) == [0]
    assert [row.is_ct for row in rows(archive)] == [False]
    assert waiting(archive) == []


def test_compressed_images_are_kept_compressed(config: Config, archive: Archive, receiver: Receiver) -> None:
    image = ct_series()[0]
    image.compress(JPEG2000Lossless, generate_instance_uid=False)
    assert send(config, [image]) == [0]
    kept = pydicom.dcmread(archive.path(image.SOPInstanceUID))
    assert kept.file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert kept.PixelData == image.PixelData


def test_only_what_can_be_decoded_is_negotiated(config: Config, receiver: Receiver) -> None:
    mpeg, deflated = "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.1.99"
    assert {str(JPEG2000Lossless), str(ExplicitVRLittleEndian)} <= set(decodable_transfer_syntaxes())
    with association(config, [(CT[0], mpeg), (CT[0], deflated), CT]) as opened:
        accepted = [syntax for context in opened.accepted_contexts for syntax in context.transfer_syntax]
    assert accepted == [ExplicitVRLittleEndian]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("StudyInstanceUID", ""), ("StudyInstanceUID", "../../etc/passwd"), ("SeriesInstanceUID", "1.2.x")],
)
def test_a_ct_image_without_study_or_series_is_refused(
    config: Config, archive: Archive, receiver: Receiver, keyword: str, value: str
) -> None:
    image = ct_series()[0]
    setattr(image, keyword, value)
    assert send(config, [image]) == [0xC001]
    assert rows(archive) == []
    assert list(archive.root.glob("instances/*/*")) == []


@pytest.mark.parametrize("uid", ["../../x", "1.2/../3", "1.2.3 4"])
def test_a_sop_instance_uid_that_is_none_is_refused(
    config: Config, archive: Archive, receiver: Receiver, uid: str
) -> None:
    image = ct_series()[0]
    image.SOPInstanceUID = uid
    assert send(config, [image]) == [0xC001]
    assert list(archive.root.glob("instances/*/*")) == []


def test_a_data_set_of_another_instance_is_refused(
    config: Config, archive: Archive, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ct_series()[0]
    encoded = io.BytesIO()
    with association(config, [CT]) as opened:
        other = ct_series()[1]
        pydicom.filewriter.dcmwrite(encoded, other, implicit_vr=False, little_endian=True)
        monkeypatch.setattr("pynetdicom.association.encode", lambda *_a, **_k: encoded.getvalue())
        assert opened.send_c_store(image).Status == 0xA900
    assert rows(archive) == []


def test_below_the_reserve_nothing_is_taken(tmp_path: Path) -> None:
    config = Config(port=free_port(), archive=tmp_path / "archive", reserve_gib=1e9, receiver=ANY_DISK)
    archive = Archive.open(config)
    receiver = Receiver(config, archive)
    receiver.start()
    try:
        assert send(config, ct_series()[:2]) == [0xA700, 0xA700]
    finally:
        receiver.stop()
    assert rows(archive) == []


def test_only_listed_callers_may_associate(tmp_path: Path) -> None:
    config = Config(
        port=free_port(), archive=tmp_path / "archive", calling_ae_titles=("PACS",), receiver=ANY_DISK
    )
    receiver = Receiver(config, Archive.open(config))
    receiver.start()
    try:
        with association(config, [CT], ae_title="STRANGER") as opened:
            assert rejection(opened) is not None
        with association(config, [CT], ae_title="PACS") as opened:
            assert opened.is_established
    finally:
        receiver.stop()


def test_a_rejection_is_seen_that_comes_before_the_requestor_looks(tmp_path: Path) -> None:
    config = Config(
        port=free_port(), archive=tmp_path / "archive", calling_ae_titles=("PACS",), receiver=ANY_DISK
    )
    receiver = Receiver(config, Archive.open(config))
    receiver.start()
    ae = AE("STRANGER")
    ae.add_requested_context(*CT)

    def be_slow(event: evt.Event) -> None:
        wait_until(lambda: not event.assoc.dul.is_alive(), 30, "the answer")

    try:
        opened = ae.associate("127.0.0.1", config.port, evt_handlers=[(evt.EVT_REQUESTED, be_slow)])
    finally:
        receiver.stop()
    answer = rejection(opened)
    assert answer is not None
    assert answer.reason_str == "Calling AE title not recognised"


def test_a_taken_port_is_named(config: Config, archive: Archive, receiver: Receiver) -> None:
    with pytest.raises(SightlineError, match=rf"port = {config.port}: cannot listen"):
        Receiver(config, archive).start()


def test_the_index_knows_which_associations_are_open(
    config: Config, archive: Archive, receiver: Receiver
) -> None:
    slices = ct_series()
    with association(config, [CT]) as opened:
        opened.send_c_store(slices[0])
        assert still_open(archive) == 1
    wait_until(lambda: still_open(archive) == 0, 5, "the released association to be closed")
    with association(config, [CT]) as opened:
        opened.send_c_store(slices[1])
        assert still_open(archive) == 1
        opened.abort()
    wait_until(lambda: still_open(archive) == 0, 5, "the aborted association to be closed")
    assert len(rows(archive)) == 2


def test_nothing_acknowledged_is_lost_when_the_receiver_is_killed(tmp_path: Path) -> None:
    config = Config(port=free_port(), archive=tmp_path / "archive", receiver=ANY_DISK)
    slices = ct_series(shape=(60, 64, 64))
    acknowledged: list[Dataset] = []
    with role_process("receiver", config, tmp_path) as process, association(config, [CT]) as opened:
        for image in slices:
            status = opened.send_c_store(image)
            if "Status" not in status:
                break
            assert status.Status == 0
            acknowledged.append(image)
            if len(acknowledged) == 25:
                os.kill(process.pid, signal.SIGKILL)
    assert 25 <= len(acknowledged) < len(slices)
    archive = Archive.open(config)
    kept = {row.sop_instance_uid: row for row in rows(archive)}
    for image in acknowledged:
        assert image.SOPInstanceUID in kept
        assert pydicom.dcmread(archive.path(image.SOPInstanceUID)) == image
    assert still_open(archive) == 1
    with role_process("receiver", config, tmp_path):
        assert send(config, slices) == [0] * len(slices)
        wait_until(lambda: still_open(archive) == 0, 5, "the killed receiver's association to be closed")
    assert len(rows(archive)) == len(slices)
    assert list(archive.root.glob("instances/*/*.part")) == []


def test_the_log_holds_no_patient(tmp_path: Path) -> None:
    config = Config(port=free_port(), archive=tmp_path / "archive", log_level="DEBUG", receiver=ANY_DISK)
    slices = ct_series(patient_name="Secret^Patient")
    slices[1].StudyInstanceUID = ""
    with role_process("receiver", config, tmp_path):
        assert send(config, slices[:2]) == [0, 0xC001]
    log = (tmp_path / "receiver.log").read_text("utf-8")
    assert "refused instance" in log
    for secret in ("Secret", str(slices[0].PatientID), str(slices[0].StudyInstanceUID)):
        assert secret not in log
    digest = hashlib.sha256(str(slices[0].SOPInstanceUID).encode()).hexdigest()
    assert (config.archive / "instances" / digest[:2] / f"{digest}.dcm").exists()
