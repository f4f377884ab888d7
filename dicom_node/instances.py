"""One DICOM file's header as typed values: what is needed to sort files into series.

Not a DICOM parser (pydicom is) and not a judgement: a value that is missing or cannot be
understood becomes None, and `dicom_node.series` says what that means for the series.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.errors import SightlineError

# A deflated header must be inflated whole to be read; this bounds what a hostile file can cost.
_MAX_DEFLATED_BYTES = 32 << 20

_TAGS = re.findall(
    r"\w+",
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality "
    "SeriesNumber SeriesDescription InstanceNumber ImageType Rows Columns SamplesPerPixel "
    "PhotometricInterpretation BitsAllocated NumberOfFrames ImagePositionPatient "
    "ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept RescaleType "
    "ConvolutionKernel ContrastBolusAgent",
)
# What pydicom raises when a raw value does not convert to its value representation.
_VALUE_ERRORS = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, struct.error)


class NotDicomError(SightlineError):
    """The file is no DICOM file (PS3.10 section 7.1: no preamble with "DICM")."""


@dataclass(frozen=True)
class Instance:
    """The header of one DICOM file; None or empty where a value is missing or not understood.

    Attributes
    ----------
    path, name: where the file lies, and what a person knows it by.
    sop_class_uid, sop_instance_uid: of the data set, or of the file meta information where the
        data set's are empty (over-anonymised objects have that).
    position_mm, orientation: Image Position and Orientation (Patient), PS3.3 C.7.6.2.
    pixel_spacing_mm: between rows, between columns.
    pixel_problem: why the pixel data cannot be complete, or None.
    """

    path: Path
    name: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str | None
    transfer_syntax_uid: str
    modality: str
    series_number: int | None
    series_description: str
    instance_number: int | None
    image_type: tuple[str, ...]
    rows: int
    columns: int
    samples_per_pixel: int
    photometric: str
    bits_allocated: int
    number_of_frames: int
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    rescale_slope: float | None
    rescale_intercept: float | None
    rescale_type: str
    kernel: str
    contrast: bool
    pixel_problem: str | None


def read_instance(path: Path, name: str | None = None) -> Instance:
    """Read the header of one file; the pixel data is measured, not read.

    Parameters
    ----------
    path: the file.
    name: what messages call it; the file's name by default.

    Raises
    ------
    NotDicomError: if the file is not DICOM.
    SightlineError: if it is DICOM and its header cannot be read; the message names the file.
    """
    name = name if name is not None else path.name
    try:
        with path.open("rb") as file:
            _refuse_large_deflated(file, path)
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
            return _instance(dataset, path, name, file)
    except InvalidDicomError as error:
        raise NotDicomError(f"{name}: not a DICOM file") from error
    except SightlineError:
        raise
    except Exception as error:  # whatever a parser makes of hostile bytes, the file is named
        raise SightlineError(f"{name}: the DICOM header cannot be read ({_short(error)})") from error


def _short(error: Exception) -> str:
    """The kind of error and its first line, without the values of the file's elements."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:80]}" if text else type(error).__name__


def _refuse_large_deflated(file: BinaryIO, path: Path) -> None:
    """Raise before pydicom inflates a deflated data set that is larger than any header or slice."""
    if path.stat().st_size <= _MAX_DEFLATED_BYTES:
        return
    if DeflatedExplicitVRLittleEndian.encode("ascii") in file.read(1024):
        raise SightlineError(
            f"{path.name}: deflated transfer syntax and {path.stat().st_size >> 20} MiB; store it "
            "uncompressed (for example `dcmconv +te IN OUT`)"
        )


def _instance(dataset: pydicom.FileDataset, path: Path, name: str, file: BinaryIO) -> Instance:
    meta = dataset.file_meta
    rescale = [_numbers(dataset, keyword, 1) for keyword in ("RescaleSlope", "RescaleIntercept")]
    syntax = str(meta.get("TransferSyntaxUID") or "")
    shape = tuple(_integer(dataset, keyword) or 0 for keyword in ("Rows", "Columns"))
    samples = _integer(dataset, "SamplesPerPixel") or 1
    bits = _integer(dataset, "BitsAllocated") or 0
    frames = _integer(dataset, "NumberOfFrames") or 1
    expected = shape[0] * shape[1] * samples * frames * bits // 8  # bytes
    return Instance(
        path=path,
        name=name,
        sop_class_uid=_text(dataset, "SOPClassUID") or str(meta.get("MediaStorageSOPClassUID") or ""),
        sop_instance_uid=_text(dataset, "SOPInstanceUID")
        or str(meta.get("MediaStorageSOPInstanceUID") or ""),
        study_instance_uid=_text(dataset, "StudyInstanceUID"),
        series_instance_uid=_text(dataset, "SeriesInstanceUID"),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID") or None,
        transfer_syntax_uid=syntax,
        modality=_text(dataset, "Modality"),
        series_number=_integer(dataset, "SeriesNumber"),
        series_description=_text(dataset, "SeriesDescription"),
        instance_number=_integer(dataset, "InstanceNumber"),
        image_type=tuple(part.strip().upper() for part in _text(dataset, "ImageType").split("\\") if part),
        rows=shape[0],
        columns=shape[1],
        samples_per_pixel=samples,
        photometric=_text(dataset, "PhotometricInterpretation"),
        bits_allocated=bits,
        number_of_frames=frames,
        position_mm=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing_mm=_numbers(dataset, "PixelSpacing", 2),
        rescale_slope=rescale[0][0] if rescale[0] else None,
        rescale_intercept=rescale[1][0] if rescale[1] else None,
        rescale_type=_text(dataset, "RescaleType").upper(),
        kernel=_text(dataset, "ConvolutionKernel"),
        contrast=bool(_text(dataset, "ContrastBolusAgent")),
        pixel_problem=_pixel_problem(file, path.stat().st_size, syntax, expected),
    )


def _value(dataset: pydicom.Dataset, keyword: str) -> Any:
    """The element's value, or None where it is missing or does not convert."""
    try:
        return dataset.get(keyword)
    except _VALUE_ERRORS:
        return None


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    """Values joined by the backslash of PS3.5 section 6.4, without control characters."""
    value = _value(dataset, keyword)
    if value is None:
        return ""
    parts = [value] if isinstance(value, str | bytes | int | float) else list(value)
    joined = "\\".join(part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in parts)
    return "".join(char for char in joined if char.isprintable()).strip()


def _numbers(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    value = _value(dataset, keyword)
    if value is None:
        return None
    try:
        parts = [value] if isinstance(value, str | bytes | int | float) else list(value)
        numbers = tuple(float(part) for part in parts)
    except (ValueError, TypeError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _integer(dataset: pydicom.Dataset, keyword: str) -> int | None:
    numbers = _numbers(dataset, keyword, 1)
    return int(numbers[0]) if numbers else None


def _pixel_problem(file: BinaryIO, size: int, syntax: str, expected: int) -> str | None:
    """Measure the Pixel Data element (7FE0,0010) that `file` stands before, without reading it.

    A truncated JPEG 2000 stream decodes to a picture with a grey end, so completeness is
    decided here, by the element's own structure (PS3.5 section 8.2 and annex A.4).
    """
    if syntax == DeflatedExplicitVRLittleEndian:
        return None  # inflated in memory; its length shows only when the pixels are read
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = file.read(8)
    if len(head) < 8:
        return "no pixel data (the file may be cut off)"
    group, element = struct.unpack(order + "HH", head[:4])
    if (group, element) != (0x7FE0, 0x0010):
        return "no pixel data of whole numbers"
    explicit = head[4:6] in (b"OW", b"OB", b"UN") and syntax != ImplicitVRLittleEndian
    length = struct.unpack(order + "I", file.read(4) if explicit else head[4:8])[0]
    if length == 0xFFFFFFFF:
        return _fragments_problem(file, size)
    present = min(length, size - file.tell())
    return None if present >= expected else f"the pixel data is cut off: {present} of {expected} bytes"


def _fragments_problem(file: BinaryIO, size: int) -> str | None:
    """Walk the items of encapsulated pixel data to the sequence delimiter (PS3.5 table A.4-1)."""
    while len(head := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == (0xFFFE, 0xE0DD):
            return None
        if (group, element) != (0xFFFE, 0xE000) or file.tell() + length > size:
            break
        file.seek(length, 1)
    return "the compressed pixel data is cut off"
