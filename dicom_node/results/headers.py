"""Clean copies of the source headers, from which result objects inherit patient and study.

Not a validator of what arrives: real headers miss elements, carry bad dates and mixed
character sets, and highdicom raises on those (research/node.md, fact 7). What comes out has
only the attributes that a result needs, is consistent, and is UTF-8. The originals are never
altered, and no pixel data is copied.
"""

from __future__ import annotations

import copy
import re
import unicodedata
import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.results.geometry import slice_normal
from dicom_node.results.identifiers import derived_uid

# Identity: carried over as it is, because archives match on it.
_IDENTITY = ("PatientID", "IssuerOfPatientID")
_NAMES = ("PatientName", "ReferringPhysicianName")
# VR LO and SH, with their length limits (PS3.5 6.2).
_TEXTS = {
    "AccessionNumber": 16,
    "StudyID": 16,
    "StudyDescription": 64,
    "SeriesDescription": 64,
    "Manufacturer": 64,
    "ManufacturerModelName": 64,
    "DeviceSerialNumber": 64,
    "InstitutionName": 64,
    "PositionReferenceIndicator": 64,
    "DeidentificationMethod": 64,
}
# Type 2 in the modules that results share with their sources: present even if empty.
_REQUIRED = ("PatientID", "PatientName", "ReferringPhysicianName", "AccessionNumber", "StudyID")
_CODE_STRINGS = {
    "PatientSex": {"M", "F", "O"},
    "PatientIdentityRemoved": {"YES", "NO"},
    "LossyImageCompression": {"00", "01"},
    "LossyImageCompressionMethod": {"ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_15"},
}
_INTEGERS = ("Rows", "Columns", "InstanceNumber", "SeriesNumber", "ReferencedFrameNumber")
_NUMBERS = {
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "PixelSpacing": 2,
    "SliceThickness": 1,
    "LossyImageCompressionRatio": 1,
}
_NEEDED = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_AGE = re.compile(r"[0-9]{3}[DWMY]")
_TIME = re.compile(r"([01][0-9]|2[0-3])(([0-5][0-9])(([0-5][0-9]|60)(\.[0-9]{1,6})?)?)?")


def clean_headers(sources: Sequence[Dataset]) -> list[Dataset]:
    """Clean copies of the headers of CT slices, in the same order.

    Parameters
    ----------
    sources: data sets of one series as pydicom read them; `file_meta` is consulted where the
        data set has an empty SOP Class or Instance UID. Frames of a multi-frame object as
        `dicom_node.series_pixels.frame_header` makes them, with a Referenced Frame Number.

    Returns
    -------
    New data sets with the attributes of the Patient, General Study, General Series, Frame of
    Reference, Image Plane and SOP Common Modules that results need. Text is re-encoded as
    UTF-8 (``ISO_IR 192``) where it is not ASCII. A missing or malformed Study or Series
    Instance UID is replaced by one derived from what there is (our choice: the result is
    then a study of its own, but the reading is not lost); so is a missing Frame of Reference
    UID, from the series.

    Raises
    ------
    ValueError: if there is no source, if one is multi-frame, has no SOP Instance UID anywhere
        or no usable geometry, or if the sources are of more than one series.
    """
    if not sources:
        raise ValueError("sources is empty; at least one CT slice is needed")
    with warnings.catch_warnings():
        # pydicom warns on each value that this module is here to repair; nothing is lost by it.
        warnings.simplefilter("ignore")
        cleaned = [_clean(source, index) for index, source in enumerate(sources)]
    series = {str(header.SeriesInstanceUID) for header in cleaned}
    if len(series) > 1:
        raise ValueError(f"sources are of {len(series)} series; results are made for one series at a time")
    _fill_thickness(cleaned)
    return cleaned


def without_name(headers: Sequence[Dataset]) -> list[Dataset]:
    """The same headers, the first one without Patient's Name.

    For highdicom's constructors, which inherit from the first source and print an unusual name
    in a warning. Patient identity must reach no log, so the name is added to the result later.
    """
    first = copy.deepcopy(headers[0])
    first.PatientName = ""
    return [first, *headers[1:]]


def _clean(source: Dataset, index: int) -> Dataset:
    """One clean header; `index` is only for the error message."""
    header = Dataset()
    _copy_uids(source, header, index)
    _copy_text(source, header)
    _copy_codes(source, header)
    header.PatientBirthDate = _date(source, "PatientBirthDate")
    header.StudyDate = _date(source, "StudyDate")
    header.StudyTime = _time(source, "StudyTime")
    header.Modality = "CT"
    _copy_geometry(source, header, index)
    if not all(str(element.value).isascii() for element in header):
        header.SpecificCharacterSet = "ISO_IR 192"
    return header


def _copy_text(source: Dataset, header: Dataset) -> None:
    for keyword in _IDENTITY:
        if value := _texts(source, keyword):
            setattr(header, keyword, value if len(value) > 1 else value[0])
    for keyword in _NAMES:
        setattr(header, keyword, "".join(_texts(source, keyword)[:1]))
    for keyword, limit in _TEXTS.items():
        if value := _texts(source, keyword):
            setattr(header, keyword, value[0][:limit].strip())
    for keyword in _REQUIRED:
        if keyword not in header:
            setattr(header, keyword, "")


def _copy_codes(source: Dataset, header: Dataset) -> None:
    for keyword, allowed in _CODE_STRINGS.items():
        value = [text.upper() for text in _texts(source, keyword)]
        if len(value) == 1 and value[0] in allowed:
            setattr(header, keyword, value[0])
    if "PatientSex" not in header:
        header.PatientSex = ""
    age = "".join(_texts(source, "PatientAge")[:1])
    if _AGE.fullmatch(age):
        header.PatientAge = age
    if header.get("PatientIdentityRemoved") != "YES" or "DeidentificationMethod" not in header:
        # PS3.3 C.7.1.1: YES asks for a method; without one neither can be stated.
        for keyword in ("PatientIdentityRemoved", "DeidentificationMethod"):
            header.pop(keyword, None)


def _copy_uids(source: Dataset, header: Dataset, index: int) -> None:
    meta = getattr(source, "file_meta", None) or Dataset()
    instance = _uid(source, "SOPInstanceUID") or _uid(meta, "MediaStorageSOPInstanceUID")
    if not instance:
        raise ValueError(
            f"sources[{index}] has no valid SOP Instance UID, neither in the data set nor in its file "
            "meta information; a result cannot refer to it. Give every slice a SOP Instance UID"
        )
    header.SOPInstanceUID = UID(instance)
    sop_class = _uid(source, "SOPClassUID") or _uid(meta, "MediaStorageSOPClassUID")
    header.SOPClassUID = UID(sop_class or "1.2.840.10008.5.1.4.1.1.2")  # CT Image Storage, PS3.4 B.5
    series = _uid(source, "SeriesInstanceUID")
    study = _uid(source, "StudyInstanceUID")
    raw_study = "".join(_texts(source, "StudyInstanceUID"))
    if not series:
        series = str(derived_uid("series", study, raw_study, "".join(_texts(source, "SeriesInstanceUID"))))
    header.SeriesInstanceUID = UID(series)
    header.StudyInstanceUID = UID(study or derived_uid("study", raw_study or series))
    frame = _uid(source, "FrameOfReferenceUID")
    header.FrameOfReferenceUID = UID(frame or derived_uid("frame of reference", series))


def _copy_geometry(source: Dataset, header: Dataset, index: int) -> None:
    if int(_numbers(source, "NumberOfFrames")[0] if "NumberOfFrames" in source else 1) > 1:
        raise ValueError(
            f"sources[{index}] is a whole multi-frame object; give one header for each frame "
            "(dicom_node.series_pixels.frame_header)"
        )
    for keyword in _INTEGERS:
        if numbers := _numbers(source, keyword):
            setattr(header, keyword, int(numbers[0]))
    for keyword, count in _NUMBERS.items():
        numbers = _numbers(source, keyword)
        if len(numbers) == count:
            setattr(header, keyword, numbers if count > 1 else numbers[0])
    for keyword in _NEEDED:
        if keyword not in header:
            raise ValueError(
                f"sources[{index}] has no usable {keyword}; without it a mask cannot be placed in the "
                "patient. Choose a series with complete Image Plane Module (PS3.3 C.7.6.2)"
            )
    if header.get("SliceThickness") is not None and header.SliceThickness <= 0:
        del header.SliceThickness


def _fill_thickness(headers: list[Dataset]) -> None:
    """Where a slice does not say how thick it is: the distance of neighbours.

    A SEG needs a Slice Thickness (PS3.3 table C.7.6.16-2), a CT may leave it empty.
    """
    without = [header for header in headers if "SliceThickness" not in header]
    if not without:
        return
    along = [np.asarray(header.ImagePositionPatient) @ slice_normal(headers[0]) for header in headers]
    gaps = np.diff(np.sort(along))
    if not gaps.size or gaps.min() <= 0:
        raise ValueError("sources have no Slice Thickness, and their positions do not give one either")
    for header in without:
        header.SliceThickness = float(f"{np.median(gaps):.6g}")


def _raw(source: Dataset, keyword: str) -> list[Any]:
    """The values of an element as a list; [] if it is missing, empty or cannot be decoded."""
    try:
        value = source.get(keyword)
    except (ValueError, TypeError, OverflowError, LookupError, NotImplementedError, AttributeError):
        # Undecodable bytes or numbers in one optional element: the element counts as absent.
        return []
    if value is None or (isinstance(value, str) and not value):
        return []
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return [value]
    return list(value) if not hasattr(value, "original_string") else [value]


def _texts(source: Dataset, keyword: str) -> list[str]:
    """The values of a text element, without control characters and padding."""
    texts = []
    for value in _raw(source, keyword):
        # Category Cc are the control characters; the ideographic space of a name stays.
        text = "".join(character for character in str(value) if unicodedata.category(character) != "Cc")
        texts.append(text.strip())
    return texts if any(texts) else []


def _numbers(source: Dataset, keyword: str) -> list[float]:
    try:
        numbers = [float(value) for value in _raw(source, keyword)]
    except (ValueError, TypeError):
        return []
    return numbers if all(abs(number) < 1e9 for number in numbers) else []


def _uid(source: Dataset, keyword: str) -> str:
    """A UID, or "" where it is not one. Leading zeros are let pass: a reference must be exact."""
    text = "".join(_texts(source, keyword))
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""


def _date(source: Dataset, keyword: str) -> str:
    """A DA value, or "" (PS3.5 6.2; the ACR-NEMA form with dots is converted)."""
    text = "".join(_texts(source, keyword)[:1]).replace(".", "")
    try:
        return datetime.strptime(text, "%Y%m%d").strftime("%Y%m%d") if len(text) == 8 else ""
    except ValueError:
        return ""


def _time(source: Dataset, keyword: str) -> str:
    """A TM value, or "" (PS3.5 6.2; the ACR-NEMA form with colons is converted)."""
    text = "".join(_texts(source, keyword)[:1]).replace(":", "")
    return text if _TIME.fullmatch(text) else ""
