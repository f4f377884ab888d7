"""Key images as Secondary Capture: valid, complete, of the right patient, and deliverable anywhere."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, SecondaryCaptureImageStorage

from core_model.reading import ModelIdentity, Reading
from dicom_node import readings
from dicom_node.archive import Archive
from dicom_node.config import Config, Destination, ResultSettings
from dicom_node.delivery_dimse import store
from dicom_node.delivery_parcels import Parcel
from dicom_node.index import Generation, Result
from dicom_node.results.identifiers import result_key
from dicom_node.results.key_image_series import PATTERN, key_image_series, write_key_image_series
from dicom_node.results.key_images import write_key_images
from tests.dicom_node.ct_series import ct_series, volume_of
from tests.dicom_node.faulty_pacs import NATIVE, FaultyPacs
from tests.dicom_node.network import free_port
from tests.dicom_node.readings import KEY, make_reading
from tests.dicom_node.validation import dciodvfy_errors

SC = str(SecondaryCaptureImageStorage)


@pytest.fixture(scope="module")
def case() -> tuple[Reading, hd.Volume, list[Dataset]]:
    slices = ct_series()
    volume = volume_of(slices)
    return make_reading(volume, slices), volume, slices


@pytest.fixture(scope="module")
def images(case: tuple[Reading, hd.Volume, list[Dataset]]) -> list[hd.sc.SCImage]:
    return key_image_series(*case, KEY)


def test_every_key_image_is_there_pixel_by_pixel(
    case: tuple[Reading, hd.Volume, list[Dataset]], images: list[hd.sc.SCImage], tmp_path: Path
) -> None:
    reading, volume, _ = case
    pictures = write_key_images(reading, volume, tmp_path)
    assert len(images) == len(pictures) == 3
    for image, picture in zip(images, pictures, strict=True):
        image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
        kept = pydicom.dcmread(tmp_path / "image.dcm")
        assert kept.file_meta.TransferSyntaxUID == JPEG2000Lossless
        assert np.array_equal(kept.pixel_array, np.asarray(Image.open(picture).convert("RGB")))
        assert len(kept.PixelData) < kept.Rows * kept.Columns * 3 / 4
    assert [str(image.ImageComments).split(".")[0] for image in images] == [
        "overview",
        "liver tumour",
        "renal tumour",
    ]


def test_it_is_a_series_of_the_study_under_its_own_names(
    case: tuple[Reading, hd.Volume, list[Dataset]], images: list[hd.sc.SCImage]
) -> None:
    _, _, slices = case
    assert {str(image.StudyInstanceUID) for image in images} == {str(slices[0].StudyInstanceUID)}
    assert {str(image.PatientID) for image in images} == {str(slices[0].PatientID)}
    assert len({str(image.SeriesInstanceUID) for image in images}) == 1
    again = key_image_series(*case, KEY)
    assert [i.SOPInstanceUID for i in again] == [i.SOPInstanceUID for i in images]
    assert len({str(image.SOPInstanceUID) for image in images}) == len(images)


def test_dciodvfy_finds_no_error(images: list[hd.sc.SCImage], tmp_path: Path) -> None:
    for image in images:
        assert dciodvfy_errors(image, tmp_path) == []


@pytest.mark.parametrize("name", ["Müller^Jörg", "山田^太郎", ""])
def test_any_name_is_kept(name: str, tmp_path: Path) -> None:
    slices = ct_series(patient_name=name, character_set="ISO_IR 192")
    volume = volume_of(slices)
    image = key_image_series(make_reading(volume, slices, lesions=False), volume, slices, KEY)[0]
    image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert str(pydicom.dcmread(tmp_path / "image.dcm").PatientName) == name


@pytest.mark.parametrize("takes_compressed", [True, False])
def test_a_pacs_without_jpeg_2000_gets_the_uncompressed_twin(
    case: tuple[Reading, hd.Volume, list[Dataset]], tmp_path: Path, takes_compressed: bool
) -> None:
    (path, *_) = write_key_image_series(tmp_path, *case, KEY)
    sent = pydicom.dcmread(path)
    syntaxes = [*NATIVE, str(JPEG2000Lossless)] if takes_compressed else NATIVE
    pacs = FaultyPacs(free_port(), classes={SC: syntaxes})
    destination = Destination("pacs", "127.0.0.1", pacs.port, "PACS")
    with pacs.listening():
        (outcome,) = store(destination, Config(), [Parcel(str(sent.SOPInstanceUID), SC, path)])
    assert outcome.stored, outcome.reason
    ((_, uid, syntax, received),) = pacs.received
    assert uid == str(sent.SOPInstanceUID)
    assert syntax == (str(JPEG2000Lossless) if takes_compressed else str(ExplicitVRLittleEndian))
    received.file_meta = pydicom.dataset.FileMetaDataset()
    received.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(received.pixel_array, sent.pixel_array)


class _Reads:
    """Stands for the model: gives the reading of the test."""

    identity = ModelIdentity("sightline-test", "0.0.1", "ab" * 32)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def read(self, *_: object, **__: object) -> Reading:
        return self._reading


@pytest.mark.parametrize("wanted", [True, False])
def test_the_node_sends_them_where_it_is_told_to(
    case: tuple[Reading, hd.Volume, list[Dataset]], tmp_path: Path, wanted: bool
) -> None:
    reading, _, slices = case
    config = Config(
        archive=tmp_path / "archive",
        results=ResultSettings(key_images=wanted),
        destinations=(Destination("pacs", "127.0.0.1", free_port(), "PACS"),),
    )
    archive = Archive.open(config)
    for image in slices:
        image.save_as(archive.path(str(image.SOPInstanceUID)), enforce_file_format=True)
    uids = [str(image.SOPInstanceUID) for image in slices]
    key = result_key(uids, _Reads.identity.digest, config.settings_digest)
    with archive.index.writing() as session:
        generation = Generation(
            study_instance_uid=str(slices[0].StudyInstanceUID),
            series_instance_uid=str(slices[0].SeriesInstanceUID),
            sop_instance_uids=uids,
            number=1,
            watermark=1,
            last_ct_at=0.0,
            complete_at=0.0,
            state="queued",
            reading_key=key,
        )
        session.add(generation)
        session.flush()
    finished = readings.read(archive, config, _Reads(reading), generation.id)
    readings.publish(archive, config, generation.id, finished)
    folder = readings.results_folder(archive, key)
    assert len(list(folder.glob(PATTERN))) == (3 if wanted else 0)
    with archive.index.reading() as session:
        ranks = {row.sop_class_uid: row.rank for row in session.query(Result)}
    assert ranks.get(SC) == (readings.REPORT_RANK if wanted else None)
