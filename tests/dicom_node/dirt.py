"""What real CT headers get wrong, as functions that spoil a clean slice."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from pydicom import config
from pydicom.dataset import Dataset


def _set(**values: object) -> Callable[[Dataset], None]:
    def spoil(dataset: Dataset) -> None:
        with warnings.catch_warnings():
            # Bad values are the purpose.
            warnings.simplefilter("ignore")
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return spoil


def _drop(*keywords: str) -> Callable[[Dataset], None]:
    def spoil(dataset: Dataset) -> None:
        for keyword in keywords:
            delattr(dataset, keyword)

    return spoil


DIRT: dict[str, Callable[[Dataset], None]] = {
    "no patient sex": _drop("PatientSex"),
    "no study id, no accession number": _drop("StudyID", "AccessionNumber"),
    "sex U": _set(PatientSex="U"),
    "dates with dashes": _set(StudyDate="2024-02-29", PatientBirthDate="01.02.1950"),
    "impossible date": _set(StudyDate="20240231", PatientBirthDate="UNKNOWN"),
    "times with colons": _set(StudyTime="10:11:12"),
    "impossible time": _set(StudyTime="257199"),
    "no dates": _drop("StudyDate", "StudyTime", "PatientBirthDate"),
    "multi-valued character set": _set(SpecificCharacterSet=["", "ISO 2022 IR 87"]),
    "unknown character set": _set(SpecificCharacterSet="ISO_IR 999"),
    "no frame of reference": _drop("FrameOfReferenceUID", "PositionReferenceIndicator"),
    "empty SOP UIDs": _set(SOPClassUID="", SOPInstanceUID=""),
    "no study UID": _drop("StudyInstanceUID"),
    "study UID that is a path": _set(StudyInstanceUID="../../etc/passwd"),
    "no series UID": _drop("SeriesInstanceUID"),
    "no patient": _drop("PatientName", "PatientID", "ReferringPhysicianName"),
    "long and odd text": _set(StudyID="x" * 40, AccessionNumber="line\nbreak", Manufacturer="M" * 90),
    "age in words": _set(PatientAge="seventy"),
    "no thickness": _drop("SliceThickness"),
    "zero thickness": _set(SliceThickness="0"),
    "anonymised without method": _set(PatientIdentityRemoved="YES"),
    "two names": _set(PatientName="A^B\\C^D"),
}


def spoiled(slices: list[Dataset], name: str) -> list[Dataset]:
    """The same slices with one kind of dirt on each of them."""
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        for dataset in slices:
            DIRT[name](dataset)
    finally:
        config.settings.reading_validation_mode = before
    return slices
