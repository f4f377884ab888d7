"""The patients and questions of `benchmarks.extension_queries`: made, stored as DICOM, read by the node.

Not the asking. Which questions there are follows from the seeds and the dictionary alone, never from an
answer: patients of the phantom benchmark from its first test seed on, in order, and of each patient one
question for each focal abnormality that was planted and can be seen in the scan.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from benchmarks.read_studies import archive_folder, read_waiting
from core_model.abnormality import abnormality
from core_model.reader import Reader
from dicom_node.archive import Archive
from dicom_node.config import Config
from training.benchmark import TEST_SEED, coverage_of
from training.phantoms.dicom import KERNELS, SeriesSettings, nearest, phantom_geometry, write_series
from training.phantoms.lesions import lesion_kinds
from training.phantoms.study import make_phantom
from training.phantoms.tissues import Phantom

SPACING_MM = 2.5  # as `training.benchmark.make_case`
VOXELS, ABOUT = "voxels.npz", "about.json"
_OPENING = re.compile(r"^(There (is|are) )?(an |a )?", re.I)


@dataclass(frozen=True)
class Question:
    """One question and what was planted for it.

    Attributes
    ----------
    seed: of the patient.
    abnormality: its name in the dictionary.
    text: what is typed.
    mask_values: of the planted lesions of this kind in the truth.
    """

    seed: int
    abnormality: str
    text: str
    mask_values: tuple[int, ...]

    @property
    def key(self) -> str:
        """Names the question in a file of answers."""
        return f"{self.seed}/{self.abnormality}"


def wording(name: str) -> str:
    """What is typed for an abnormality: the dictionary's first sentence for it, without "There is a".

    >>> wording("liver_tumour"), wording("gallstones"), wording("aortic_calcification")
    ('hypodense liver lesion', 'gallstones', 'calcification of the aorta')
    """
    return _OPENING.sub("", abnormality(name).present[0]).removesuffix(".")


def questions(work: Path, wanted: int, checkpoint: Path | None) -> Iterator[Question]:
    """The questions in order; a patient that is not in `work` yet is made and read first.

    Parameters
    ----------
    work: folder that keeps the archive of the node and, under ``cases``, the truth of each patient.
    wanted: how many.
    checkpoint: that reads; None for the shipped one.
    """
    config = Config(archive=work / "archive", checkpoint=checkpoint)
    reader: Reader | None = None
    left, seed = wanted, TEST_SEED
    while left > 0:
        folder = work / "cases" / str(seed)
        if not (folder / ABOUT).exists():
            reader = reader or Reader.load(checkpoint, "cpu")
            _make(seed, folder, config, reader)
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        for entry in about["questions"][:left]:
            yield Question(seed, entry["abnormality"], entry["text"], tuple(entry["mask_values"]))
            left -= 1
        seed += 1


def _make(seed: int, folder: Path, config: Config, reader: Reader) -> None:
    phantom = make_phantom(seed, spacing_mm=SPACING_MM, coverage=coverage_of(seed))
    settings = SeriesSettings(seed=seed, kernel=sorted(KERNELS)[seed % len(KERNELS)])
    images = folder / "images"
    shutil.rmtree(images, ignore_errors=True)
    series = write_series(phantom, images, settings)
    archive = Archive.open(config)
    archive_folder(archive, images)
    read_waiting(archive, config, reader)
    archive.index.close()
    lesions = nearest(phantom.lesions, phantom_geometry(phantom), series.geometry)
    hu = _pixels(series.files)
    np.savez_compressed(folder / VOXELS, hu=hu, lesions=lesions, affine=series.geometry.affine)
    shutil.rmtree(images)
    asked = [asdict(question) for question in _asked(seed, phantom, lesions)]
    about = {
        "study_instance_uid": series.study_instance_uid,
        "series_instance_uid": series.series_instance_uid,
        "questions": asked,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _pixels(files: tuple[Path, ...]) -> npt.NDArray[np.int16]:
    """HU of the files as they were stored, (slice, row, column)."""
    planes = []
    for path in files:
        image = pydicom.dcmread(path)
        planes.append(image.pixel_array.astype(np.int16) + np.int16(image.RescaleIntercept))
    return np.stack(planes)


def _asked(seed: int, phantom: Phantom, lesions: npt.NDArray[np.uint8]) -> Iterator[Question]:
    """One question for each focal abnormality of which a voxel is on the images."""
    shown = set(np.unique(lesions).tolist())
    for kind in lesion_kinds():
        values = tuple(
            p.mask_value
            for p in phantom.planted
            if p.abnormality == kind.abnormality and p.mask_value in shown
        )
        if values:
            yield Question(seed, kind.abnormality, wording(kind.abnormality), values)
