"""Key images as a Secondary Capture series, for a PACS that shows neither SEG nor SR.

The pictures are those of `dicom_node.results.key_images`, one to an instance, in colour. Single
frames, because every viewer shows them; JPEG 2000 without loss, a thirteenth of the size, of
which delivery makes an uncompressed twin where a destination does not take it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

from core_model.reading import Reading
from dicom_node.results.equipment import NOT_FOR_DIAGNOSIS, Equipment
from dicom_node.results.headers import clean_headers, without_name
from dicom_node.results.identifiers import result_uid
from dicom_node.results.key_images import write_key_images

PATTERN = "key_*.sc.dcm"  # of the files that `write_key_image_series` makes
_SERIES_NUMBER = 9004  # after lesions, organs and report (our choice)
_ROLE = "key-image"


def key_image_series(
    reading: Reading,
    volume: hd.Volume,
    sources: Sequence[Dataset],
    key: str,
    *,
    equipment: Equipment | None = None,
) -> list[hd.sc.SCImage]:
    """The key images of a reading as Secondary Capture instances (PS3.3 A.8.1), overview first.

    Parameters
    ----------
    reading: what the model said.
    volume: the CT that was read, HU.
    sources: the CT slices that were read; pixel data is not needed.
    key: `identifiers.result_key` of the reading.
    equipment: who makes the objects; the default installation if None.

    Raises
    ------
    ValueError: volume, reading and sources do not belong together.
    """
    maker = equipment or Equipment()
    headers = clean_headers(sources)
    with tempfile.TemporaryDirectory() as folder:
        pictures = [
            (_what(path), np.asarray(Image.open(path).convert("RGB")))
            for path in write_key_images(reading, volume, Path(folder))
        ]
    return [
        _instance(picture, what, number, headers=headers, key=key, maker=maker)
        for number, (what, picture) in enumerate(pictures, start=1)
    ]


def write_key_image_series(
    folder: Path, reading: Reading, volume: hd.Volume, sources: Sequence[Dataset], key: str
) -> list[Path]:
    """`key_image_series` as files ``key_01.sc.dcm`` and so on in an existing folder."""
    paths = []
    for image in key_image_series(reading, volume, sources, key):
        paths.append(folder / f"key_{image.InstanceNumber:02d}.sc.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def _what(picture: Path) -> str:
    """What a picture shows, from its name.

    >>> _what(Path("key_01_liver_tumour.png"))
    'liver tumour'
    """
    return picture.stem.split("_", maxsplit=2)[2].replace("_", " ")


def _instance(
    picture: npt.NDArray[np.uint8],
    what: str,
    number: int,
    *,
    headers: Sequence[Dataset],
    key: str,
    maker: Equipment,
) -> hd.sc.SCImage:
    image = hd.sc.SCImage.from_ref_dataset(
        without_name(headers)[0],
        picture,
        photometric_interpretation=hd.PhotometricInterpretationValues.YBR_RCT,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        # A plane of the patient, but not one that a viewer may measure on: it has legends too.
        patient_orientation=("L", "F") if number == 1 else ("L", "P"),
        series_instance_uid=result_uid(key, f"{_ROLE}s"),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=result_uid(key, f"{_ROLE}-{number}"),
        instance_number=number,
        manufacturer=maker.manufacturer,
        transfer_syntax_uid=JPEG2000Lossless,
    )
    image.PatientName = headers[0].PatientName
    if "SpecificCharacterSet" in headers[0]:
        image.SpecificCharacterSet = headers[0].SpecificCharacterSet
    image.SeriesDescription = "Sightline key images"
    image.ImageComments = f"{what}. {NOT_FOR_DIAGNOSIS}"
    image.ImageLaterality = "U"  # not of one side of a paired part of the body
    image.BurnedInAnnotation = "NO"  # nothing in the picture names the patient (PS3.3 C.7.6.1)
    image.ManufacturerModelName = maker.model_name
    image.SoftwareVersions = maker.software_version
    image.DeviceSerialNumber = maker.device_serial
    return image
