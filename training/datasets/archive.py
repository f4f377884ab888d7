"""Corrected studies of a node's archive, as training reads them: CT, corrected labels, verdicts.

Reads documented files alone (``"sightline-correction/1"``, described in ``dicom_node/corrections.py``): the
JSON of a correction, the DICOM images that it names, and the corrected SEG. Nothing of the node runs, and
nothing is written. Not a sampler: what becomes of a study in training is not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from training.datasets.sample import UnusableSampleError

SCHEMA = "sightline-correction/1"
# What still counts as regular; our choice, closer than any that a mask at 4 mm would show.
ALIKE, TILT_MM, UNEVEN = 1e-3, 0.05, 0.05


@dataclass(frozen=True)
class Verdict:
    """What a radiologist said of one finding.

    Attributes
    ----------
    organ, abnormality: names of the organ table and the dictionary.
    status: what the node had said.
    verdict: of the radiologist.
    presence: what stands now; None where a decision was rejected that the node had not made.
    """

    organ: str
    abnormality: str
    status: Literal["present", "absent", "undetermined"]
    verdict: Literal["accept", "reject"]
    presence: Literal["present", "absent", "undetermined"] | None


@dataclass(frozen=True)
class CorrectedSegment:
    """One segment of the corrected SEG.

    Attributes
    ----------
    label: its value in `CorrectedStudy.labels`.
    name: what the radiologist called it.
    abnormality: of the dictionary; None where its codes name none, or an organ.
    organ: of the organ table; None where its codes name none.
    """

    label: int
    name: str
    abnormality: str | None
    organ: str | None


@dataclass(frozen=True)
class CorrectedStudy:
    """A CT and what a radiologist made of its reading.

    Attributes
    ----------
    correction: hexadecimal id.
    volume: HU float32, (slice, row, column), LPS mm.
    labels: uint8 on the same voxels, 0 where nothing is, else `CorrectedSegment.label`; where segments
        overlap the later one. None where no segmentation was sent: nothing was said of outlines. All 0
        where the radiologist left no segment.
    segments: what the labels are.
    verdicts: of the findings that were judged.
    """

    correction: str
    volume: hd.Volume
    labels: npt.NDArray[np.uint8] | None
    segments: tuple[CorrectedSegment, ...]
    verdicts: tuple[Verdict, ...]


def correction_files(archive: Path) -> list[Path]:
    """The JSON files of all corrections in a node's archive folder, sorted by path."""
    return sorted((archive / "results").glob("*/corrections/*.json"))


def as_it_is(dataset: Dataset) -> Dataset:
    """No change: for those who look at their own archive and train nothing."""
    return dataset


def corrected_studies(archive: Path) -> Iterator[CorrectedStudy]:
    """All corrected studies of an archive folder, read one at a time; raises as `read_correction`."""
    for path in correction_files(archive):
        yield read_correction(path)


def read_correction(path: Path, clean: Callable[[Dataset], Dataset] = as_it_is) -> CorrectedStudy:
    """One corrected study from the JSON file of its correction.

    Parameters
    ----------
    clean: what each DICOM object passes before anything is read of it (`training.retraining.deidentify`).

    Raises
    ------
    UnusableSampleError: the series is tilted, unevenly spaced or multi-frame, or `clean` refuses an image.
    ValueError: if the file is no correction that this version reads, or an image or the SEG that it
        names is missing or does not belong to it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}; this version reads {SCHEMA!r}")
        verdicts = tuple(
            Verdict(**{key: mark[key] for key in Verdict.__dataclass_fields__}) for mark in document["marks"]
        )
        images = [clean(pydicom.dcmread(path.parent / name)) for name in document["images"]]
        volume = volume_of(images)
        labels, segments = _labels(path.parent, document, images, clean)
    except UnusableSampleError:
        raise
    except (
        OSError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        pydicom.errors.InvalidDicomError,
    ) as error:
        raise ValueError(f"{path.name} cannot be read as a corrected study: {error}") from error
    return CorrectedStudy(path.stem, volume, labels, segments, verdicts)


def volume_of(images: Sequence[Dataset]) -> hd.Volume:
    """HU of axial or oblique slices in the order given, LPS mm.

    What the node reads by resampling in patient space is refused here: its geometry code is the node's, and
    labels of the original slices would have to be resampled with it.

    Raises
    ------
    UnusableSampleError: the images are multi-frame, tilted, unevenly spaced, or of several shapes.
    ValueError: there is none.
    """
    if not images:
        raise ValueError("no images are named")
    _refuse_irregular(images)
    planes = [i.pixel_array * np.float32(i.RescaleSlope) + np.float32(i.RescaleIntercept) for i in images]
    first, last = (np.array(image.ImagePositionPatient, dtype=float) for image in (images[0], images[-1]))
    along_row, along_column = np.reshape(np.array(images[0].ImageOrientationPatient, dtype=float), (2, 3))
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / max(1, len(images) - 1)
    affine[:3, 1] = along_column * float(images[0].PixelSpacing[0])
    affine[:3, 2] = along_row * float(images[0].PixelSpacing[1])
    affine[:3, 3] = first
    return hd.Volume(np.stack(planes).astype(np.float32), affine, coordinate_system="PATIENT")


def _refuse_irregular(images: Sequence[Dataset]) -> None:
    if any(int(image.get("NumberOfFrames") or 1) > 1 for image in images):
        raise UnusableSampleError("series is multi-frame")
    first = images[0]
    directions = np.array([image.ImageOrientationPatient for image in images], dtype=float)  # (N, 6)
    sizes = {(int(i.Rows), int(i.Columns), *map(float, i.PixelSpacing)) for i in images}
    if len(sizes) > 1 or np.abs(directions - directions[0]).max() > ALIKE:
        raise UnusableSampleError("slices of the series differ in shape or direction")
    steps = np.diff(np.array([i.ImagePositionPatient for i in images], dtype=float), axis=0)  # (N - 1, 3)
    if not len(steps):
        raise UnusableSampleError("series has one slice")
    normal = np.cross(directions[0, :3], directions[0, 3:])
    along = steps @ normal
    aside = np.linalg.norm(steps - along[:, None] * normal, axis=1)
    if (aside > TILT_MM + ALIKE * np.abs(along)).any():
        raise UnusableSampleError("series is tilted", f"{first.Modality} slices are shifted in their plane")
    if along.min() * along.max() <= 0 or np.ptp(along) > UNEVEN * np.abs(along).mean():
        raise UnusableSampleError("slices of the series are spaced unevenly")


def _labels(
    folder: Path,
    document: dict[str, Any],
    images: Sequence[Dataset],
    clean: Callable[[Dataset], Dataset],
) -> tuple[npt.NDArray[np.uint8] | None, tuple[CorrectedSegment, ...]]:
    shape = (len(images), int(images[0].Rows), int(images[0].Columns))
    if document["segmentation"] is None:
        return (np.zeros(shape, dtype=np.uint8) if document["emptied"] else None), ()
    segmentation = hd.seg.Segmentation.from_dataset(
        clean(pydicom.dcmread(folder / document["segmentation"])), copy=False
    )
    stack = segmentation.get_pixels_by_source_instance(
        source_sop_instance_uids=[str(image.SOPInstanceUID) for image in images],
        assert_missing_frames_are_empty=True,
        dtype=np.uint8,
    )  # (slices, rows, columns, segments)
    labels = np.zeros(shape, dtype=np.uint8)
    for number in range(stack.shape[-1]):
        labels[stack[..., number] > 0] = number + 1
    described = [
        segmentation.get_segment_description(number) for number in sorted(segmentation.segment_numbers)
    ]
    return labels, tuple(_segment(n, description) for n, description in enumerate(described, start=1))


def _segment(label: int, description: hd.seg.SegmentDescription) -> CorrectedSegment:
    kind = description.segmented_property_type.value
    regions = {code.value for code in description.anatomic_regions or ()}
    named = [organ.name for organ in organs() if organ.snomed_code == kind]
    if named:
        return CorrectedSegment(label, str(description.segment_label), None, named[0])
    # Two abnormalities may have one code: a metastasis of the lumbar and of the thoracic spine.
    places = {organ.name for organ in organs() if organ.snomed_code in regions}
    fitting = [a for a in abnormalities() if a.snomed_code == kind and (not places or a.organ in places)]
    found = fitting[0] if len(fitting) == 1 else None
    organ_name = found.organ if found is not None else next(iter(places), None)
    name = None if found is None else found.name
    return CorrectedSegment(label, str(description.segment_label), name, organ_name)
