"""From an archive's corrections to de-identified studies: which count, whose they are, and on which side.

The last correction of a study counts; by the content date of its SR, then the file's time. What cannot be
used is named by a keyed digest, counted and skipped. Nothing is written but the key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom

from training.datasets.archive import SCHEMA, CorrectedStudy, correction_files, read_correction
from training.datasets.sample import UnusableSampleError
from training.datasets.tally import Tally
from training.retraining.deidentify import Deidentifier
from training.retraining.pseudonyms import Pseudonyms

_PATIENT = ["PatientID", "IssuerOfPatientID"]


@dataclass(frozen=True)
class StudyFile:
    """A study whose correction counts; its voxels are not read yet.

    Attributes
    ----------
    name, patient: keyed digests.
    held_out: whether the patient is never learnt from.
    path: of the correction's JSON file.
    images: of the CT, in slice order.
    """

    name: str
    patient: str
    held_out: bool
    path: Path
    images: tuple[Path, ...]


def study_files(archive: Path, pseudonyms: Pseudonyms, tally: Tally) -> list[StudyFile]:
    """The corrected studies of an archive, sorted by name.

    Parameters
    ----------
    tally: told of corrections that cannot be used; a study corrected again is no fault and not told.
    """
    last: dict[str, tuple[tuple[str, int, str], Path, dict[str, Any]]] = {}
    for path in correction_files(archive):
        try:
            document = _document(path)
        except UnusableSampleError as error:
            tally.skip(pseudonyms.study(path.stem), error)
            continue
        study = str(document["study_instance_uid"])
        order = _order(path, document)
        if study not in last or order > last[study][0]:
            last[study] = order, path, document
    found = []
    for study, (_, path, document) in last.items():
        name = pseudonyms.study(study)
        try:
            found.append(_study(name, path, document, pseudonyms))
        except UnusableSampleError as error:
            tally.skip(name, error)
    return sorted(found, key=lambda one: one.name)


def load_study(file: StudyFile, clean: Deidentifier) -> CorrectedStudy:
    """A study without identity: voxels, labels, verdicts, and names that are ours.

    Raises
    ------
    UnusableSampleError: it cannot be read; never with a value of its files.
    """
    try:
        study = read_correction(file.path, clean)
    except UnusableSampleError:
        raise
    except ValueError as error:  # its text may quote values of a data set
        cause = error.__cause__
        kind = type(cause).__name__ if cause is not None else "ValueError"
        raise UnusableSampleError("correction cannot be read", kind) from None
    # What a person called a segment may be a name; what it is, is in its codes.
    segments = tuple(replace(one, name=one.abnormality or one.organ or "unknown") for one in study.segments)
    return replace(study, correction=file.name, segments=segments)


def patient_of(image: Path, pseudonyms: Pseudonyms) -> str:
    """The keyed digest of a DICOM file's patient.

    Raises
    ------
    UnusableSampleError: the file cannot be read or names none.
    """
    try:
        header = pydicom.dcmread(image, stop_before_pixels=True, specific_tags=_PATIENT)
        identifier, issuer = (str(header.get(keyword) or "") for keyword in _PATIENT)
    except Exception:  # whatever a file does to the parser, its text stays in the house
        raise UnusableSampleError("image is missing or unreadable") from None
    try:
        return pseudonyms.patient(identifier, issuer)
    except ValueError:
        raise UnusableSampleError("image names no patient", "a split by patient needs Patient ID") from None


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema, study, images = document["schema"], document["study_instance_uid"], document["images"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UnusableSampleError("correction's JSON is unreadable") from None
    if schema != SCHEMA:
        raise UnusableSampleError("correction is of another version")
    if not (isinstance(study, str) and isinstance(images, list) and images):
        raise UnusableSampleError("correction names no images")
    return dict(document)


def _order(path: Path, document: dict[str, Any]) -> tuple[str, int, str]:
    """When a correction was made, for comparison with others of its study."""
    try:
        tags = ["ContentDate", "ContentTime"]
        report = pydicom.dcmread(path.parent / str(document["report"]), specific_tags=tags)
        made = f"{report.ContentDate}{report.ContentTime}"
    except Exception:  # a copy without its SR is used all the same, by the time of its file
        made = ""
    return made, path.stat().st_mtime_ns, path.stem


def _study(name: str, path: Path, document: dict[str, Any], pseudonyms: Pseudonyms) -> StudyFile:
    images = tuple(path.parent / str(image) for image in document["images"])
    patient = patient_of(images[0], pseudonyms)
    return StudyFile(name, patient, pseudonyms.is_held_out(patient), path, images)


def only(files: Sequence[StudyFile], *, held_out: bool) -> list[StudyFile]:
    """Those of one side of the split."""
    return [file for file in files if file.held_out == held_out]
