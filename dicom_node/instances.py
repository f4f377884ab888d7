"""One DICOM file's header as typed values: what is needed to sort files into series.

Not a DICOM parser (pydicom is) and not a judgement: a value that is missing or cannot be
understood becomes None, and `dicom_node.series` says what that means for the series. The frames
of a multi-frame file are told apart by `dicom_node.series_frames`.
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
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.errors import SightlineError

# A deflated header must be inflated whole to be read; this bounds what a hostile file can cost.
_MAX_DEFLATED_BYTES = 32 << 20

_TAGS = re.findall(
    r"\w+",
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality "
    "SeriesNumber SeriesDescription InstanceNumber ImageType Rows Columns SamplesPerPixel "
    "PhotometricInterpretation BitsAllocated NumberOfFrames ImagePositionPatient "
    "ImageOrientationPatient PixelSpacing SliceThickness RescaleSlope RescaleIntercept RescaleType "
    "ConvolutionKernel ContrastBolusAgent ContrastBolusAgentSequence AcquisitionNumber AcquisitionTime "
    "TemporalPositionIdentifier NominalPercentageOfCardiacPhase TriggerTime "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence",
)
# What may tell two images at one place apart, the surest first, and what a person calls it.
_PARTS = {
    "temporal position": "TemporalPositionIdentifier",
    "acquisition": "AcquisitionNumber",
    "cardiac phase": "NominalPercentageOfCardiacPhase",
    "trigger time": "TriggerTime",
    "kernel": "ConvolutionKernel",
    "image type": "ImageType",
    "acquisition time": "AcquisitionTime",
}
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
    thickness_mm: Slice Thickness, which says nothing of how slices are spaced.
    pixel_problem: why the pixel data cannot be complete, or None.
    parts: what may tell two images of a series at one place apart: (name, value) of each.
    frame: of a multi-frame object, counted from 1; None for a file of one image.
    stack: of a multi-frame object (Stack ID, PS3.3 C.7.6.16.2.2); else empty.
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
    thickness_mm: float | None
    rescale_slope: float | None
    rescale_intercept: float | None
    rescale_type: str
    kernel: str
    contrast: bool
    pixel_problem: str | None
    parts: tuple[tuple[str, str], ...] = ()
    frame: int | None = None
    stack: str = ""

    @property
    def reference(self) -> str:
        """SOP Instance UID, and for a frame "#" and its number: names one image for good."""
        return self.sop_instance_uid if self.frame is None else f"{self.sop_instance_uid}#{self.frame}"


def read_instance(path: Path, name: str | None = None) -> Instance:
    """Read the header of one file; the pixel data is measured, not read.

    Parameters and errors as for `read_header`.
    """
    return read_header(path, name)[0]


def read_header(path: Path, name: str | None = None) -> tuple[Instance, pydicom.Dataset]:
    """The same with the elements that it was made of, for what is told of each frame.

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
            return _instance(dataset, path, name, file), dataset
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
    syntax = str(meta.get("TransferSyntaxUID") or "")
    shape = tuple(integer(dataset, keyword) or 0 for keyword in ("Rows", "Columns"))
    samples = integer(dataset, "SamplesPerPixel") or 1
    bits = integer(dataset, "BitsAllocated") or 0
    frames = integer(dataset, "NumberOfFrames") or 1
    expected = shape[0] * shape[1] * samples * frames * bits // 8  # bytes
    return Instance(
        path=path,
        name=name,
        sop_class_uid=text(dataset, "SOPClassUID") or str(meta.get("MediaStorageSOPClassUID") or ""),
        sop_instance_uid=text(dataset, "SOPInstanceUID") or str(meta.get("MediaStorageSOPInstanceUID") or ""),
        study_instance_uid=text(dataset, "StudyInstanceUID"),
        series_instance_uid=text(dataset, "SeriesInstanceUID"),
        frame_of_reference_uid=text(dataset, "FrameOfReferenceUID") or None,
        transfer_syntax_uid=syntax,
        modality=text(dataset, "Modality"),
        series_number=integer(dataset, "SeriesNumber"),
        series_description=text(dataset, "SeriesDescription"),
        instance_number=integer(dataset, "InstanceNumber"),
        image_type=image_type(text(dataset, "ImageType")),
        rows=shape[0],
        columns=shape[1],
        samples_per_pixel=samples,
        photometric=text(dataset, "PhotometricInterpretation"),
        bits_allocated=bits,
        number_of_frames=frames,
        position_mm=numbers(dataset, "ImagePositionPatient", 3),
        orientation=numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers(dataset, "PixelSpacing", 2),
        thickness_mm=number(dataset, "SliceThickness"),
        rescale_slope=number(dataset, "RescaleSlope"),
        rescale_intercept=number(dataset, "RescaleIntercept"),
        rescale_type=text(dataset, "RescaleType").upper(),
        kernel=text(dataset, "ConvolutionKernel"),
        contrast=bool(text(dataset, "ContrastBolusAgent") or items_of(dataset, "ContrastBolusAgentSequence")),
        pixel_problem=_pixel_problem(file, path.stat().st_size, syntax, expected),
        parts=tuple((part, text(dataset, keyword)) for part, keyword in _PARTS.items()),
    )


def value_of(dataset: pydicom.Dataset, keyword: str) -> Any:
    """The element's value, or None where it is missing or does not convert."""
    try:
        return dataset.get(keyword)
    except _VALUE_ERRORS:
        return None


def items_of(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    """The items of a sequence; none where it is missing or no sequence."""
    value = value_of(dataset, keyword)
    return (
        [item for item in value if isinstance(item, pydicom.Dataset)] if isinstance(value, Sequence) else []
    )


def image_type(values: str) -> tuple[str, ...]:
    """The values of Image Type or Frame Type in capitals, without empty ones at the end."""
    return tuple(part.strip().upper() for part in values.split("\\") if part)


def text(dataset: pydicom.Dataset, keyword: str) -> str:
    """Values joined by the backslash of PS3.5 section 6.4, without control characters."""
    value = value_of(dataset, keyword)
    if value is None:
        return ""
    parts = [value] if isinstance(value, str | bytes | int | float) else list(value)
    joined = "\\".join(part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in parts)
    return "".join(char for char in joined if char.isprintable()).strip()


def numbers(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The finite numbers of an element; None where it is missing or does not hold `count` of them."""
    value = value_of(dataset, keyword)
    if value is None:
        return None
    try:
        parts = [value] if isinstance(value, str | bytes | int | float) else list(value)
        found = tuple(float(part) for part in parts)
    except (ValueError, TypeError):
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """The one finite number of an element, or None."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def integer(dataset: pydicom.Dataset, keyword: str) -> int | None:
    """The whole number of an element, or None."""
    found = number(dataset, keyword)
    return None if found is None else int(found)


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
