"""A node's archive with corrected studies of several patients, made the way a node makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from core_model.abnormality import abnormalities, abnormality
from dicom_node.corrections import Correction, keep_correction
from dicom_node.results import codes
from dicom_node.results.correction import DrawnSegment
from dicom_node.results.correction import Verdict as Mark
from tests.dicom_node.service.stage import Stage, make_stage, series
from training.retraining.pseudonyms import Pseudonyms, key_of, open_pseudonyms

KIND = "liver_tumour"
ROOT = "2.25.7731005500"  # of all UIDs


def patients(pseudonyms: Pseudonyms, *, learnt: int, held_out: int) -> list[str]:
    """Patient IDs, first those that may be learnt from."""
    found: dict[bool, list[str]] = {False: [], True: []}
    number = 0
    while len(found[False]) < learnt or len(found[True]) < held_out:
        identifier = f"PATIENT-{number:04d}"
        found[pseudonyms.is_held_out(pseudonyms.patient(identifier))].append(identifier)
        number += 1
    return found[False][:learnt] + found[True][:held_out]


def drawn(planes: np.ndarray, kind: str = KIND, name: str = "one") -> DrawnSegment:
    """An outlined lesion."""
    return DrawnSegment(
        name=name,
        planes=planes,
        tracking_uid=None,
        from_node=False,
        category=codes.MORPHOLOGICALLY_ABNORMAL,
        kind=codes.abnormality_code(kind),
        region=codes.organ_code(abnormality(kind).organ),
    )


def block(shape: tuple[int, int, int], low: int = 8, size: int = 8) -> np.ndarray:
    """(slices, rows, columns) bool, a box."""
    planes = np.zeros(shape, dtype=bool)
    planes[low : low + size, 12:26, 14:30] = True
    return planes


def correct(
    stage: Stage,
    slices: list[Dataset],
    segments: tuple[DrawnSegment, ...] | None,
    marks: tuple[tuple[int, Mark], ...] = (),
    observer: str = "Doe^Jane",
) -> Path:
    """Correct a study that was read; the JSON file of the correction."""
    study = str(slices[0].StudyInstanceUID)
    folder = stage.folder(study)
    row = keep_correction(
        stage.archive,
        stage.config,
        study=study,
        key=folder.name,
        folder=folder,
        slices=[str(s.SOPInstanceUID) for s in slices],
        correction=Correction(observer, marks, "", segments, str(segments is None)),
    )
    return folder / "corrections" / f"{row.id}.json"


@dataclass
class Hospital:
    """A stage whose archive has corrected studies."""

    stage: Stage
    pseudonyms: Pseudonyms
    patients: list[str]

    @property
    def archive(self) -> Path:
        return self.stage.archive.root


def hospital(
    folder: Path,
    *,
    learnt: int = 3,
    held_out: int = 3,
    change: Callable[[Dataset], None] = lambda _: None,
    observer: str = "Doe^Jane",
) -> Hospital:
    """One study of each patient, read, with a bright box in it that the radiologist outlines and confirms.

    Parameters
    ----------
    change: what is done to each slice before it is received.
    """
    stage = make_stage(folder)
    pseudonyms = open_pseudonyms(key_of(stage.archive.root))
    names = patients(pseudonyms, learnt=learnt, held_out=held_out)
    finding = [a.name for a in abnormalities()].index(KIND)
    for number, name in enumerate(names):
        slices = series(f"{ROOT}{number}")
        low = 4 + number % 6
        box = block((len(slices), int(slices[0].Rows), int(slices[0].Columns)), low)
        for k, image in enumerate(slices):
            image.PatientID = name
            pixels = image.pixel_array.copy()
            pixels[box[k]] += 300
            image.PixelData = pixels.astype("<u2").tobytes()
            change(image)
        stage.read(slices)
        mark: Mark = "accept" if number % 2 else "reject"
        correct(stage, slices, (drawn(box),), ((finding, mark), (1, "accept")), observer)
    return Hospital(stage, pseudonyms, names)
