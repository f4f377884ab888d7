"""What came back to the demo's PACS, held against what was planted.

Everything is read from the objects as a stranger would (highdicom on the received files), so
that a SEG that lies in the wrong place or a report that refers to nothing shows here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from core_model.abnormality import abnormality
from dicom_node.demo_pacs import DemoError
from dicom_node.sources import open_ct

Labels = npt.NDArray[np.uint8]
NEAR_MM = 30.0  # a report that points further away has found something else; our choice


@dataclass(frozen=True)
class Planted:
    """One entry of the phantom's truth; without a mask where it is diffuse (`mask_value` 0)."""

    abnormality: str
    organ: str
    side: str
    diameter_mm: float
    mask_value: int
    centroid_lps_mm: tuple[float, float, float] | None


@dataclass(frozen=True)
class PlantedResult:
    """A planted lesion and what came back of it; Dice and distance are None where nothing did.

    `segmented` tells whether this abnormality is one that the node draws (tumours).
    """

    planted: Planted
    segmented: bool
    found: bool
    dice: float | None
    distance_mm: float | None


@dataclass(frozen=True)
class FindingResult:
    """One abnormality that was searched for: what the node says, and whether it was planted."""

    abnormality: str
    status: str
    probability: float | None
    planted: bool


@dataclass(frozen=True)
class Comparison:
    """All of truth against all that came back; `false_lesions` touch nothing planted."""

    planted: tuple[PlantedResult, ...]
    findings: tuple[FindingResult, ...]
    false_lesions: int


@dataclass(frozen=True)
class Scene:
    """Image, truth and results on one grid: (slice, row, column), first slice at the feet.

    Attributes
    ----------
    ct: Hounsfield units.
    truth: values are `Planted.mask_value`.
    lesions: values are segment numbers of the lesion SEG; zero where none came.
    organs: values are segment numbers of the organ SEG.
    planted: the truth.
    document: the node's ``reading.json``.
    encoding_file: the node's encoding of the study.
    title, objects: for a person.
    problems: what is wrong with the objects that came back.
    """

    ct: hd.Volume
    truth: Labels
    lesions: Labels
    organs: Labels
    planted: tuple[Planted, ...]
    document: dict[str, Any]
    encoding_file: Path
    title: str
    objects: tuple[str, ...]
    problems: tuple[str, ...]

    def largest(self) -> Planted | None:
        """The largest planted lesion that has a place, or None."""
        placed = [p for p in self.planted if p.centroid_lps_mm is not None]
        return max(placed, key=lambda p: p.diameter_mm, default=None)

    def nearest(self, abnormality: str, point_lps_mm: Sequence[float]) -> Planted | None:
        """The planted lesion of a kind whose middle is nearest to a position; None if none has a place."""
        placed = [p for p in self.planted if p.abnormality == abnormality and p.centroid_lps_mm is not None]
        return min(placed, key=lambda p: _distance(p, point_lps_mm) or 0.0, default=None)


def load_scene(phantom: Path, received: Sequence[Path], results: Path) -> Scene:
    """Read the phantom, its truth, and the objects that came back.

    Parameters
    ----------
    phantom: folder that ``python -m training.phantoms study`` wrote.
    received: the files that the PACS took.
    results: the node's folder of the reading.

    Raises
    ------
    DemoError: an object that came back cannot be read.
    """
    source = open_ct(phantom / "dicom")
    truth = json.loads((phantom / "truth.json").read_text(encoding="utf-8"))
    try:
        datasets = [pydicom.dcmread(path) for path in received]
        segmentations = [hd.seg.Segmentation.from_dataset(d) for d in _of(datasets, SegmentationStorage)]
        reports = [hd.sr.Comprehensive3DSR.from_dataset(d) for d in _of(datasets, Comprehensive3DSRStorage)]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise DemoError(f"what came back to the PACS cannot be read: {error}") from error
    lesions, organs = ([s for s in segmentations if (_is_organs(s)) == wanted] for wanted in (False, True))
    grid = source.volume.get_geometry()
    return Scene(
        ct=source.volume,
        truth=_nifti_labels(phantom / "truth_lesions.nii.gz", grid),
        lesions=_seg_labels(lesions, grid),
        organs=_seg_labels(organs, grid),
        planted=tuple(_planted(entry) for entry in truth["planted"]),
        document=json.loads((results / "reading.json").read_text(encoding="utf-8")),
        encoding_file=results / "encoding.safetensors",
        title=source.title,
        objects=tuple(_describe(dataset) for dataset in datasets),
        problems=tuple(_problems(lesions, organs, reports, len(datasets), truth)),
    )


def _of(datasets: Sequence[pydicom.Dataset], sop_class_uid: str) -> list[pydicom.Dataset]:
    return [d for d in datasets if d.SOPClassUID == sop_class_uid]


def _is_organs(segmentation: hd.seg.Segmentation) -> bool:
    """Organs are described for the whole table; lesions carry tracking UIDs (PS3.3 C.8.20.4)."""
    return "TrackingUID" not in segmentation.SegmentSequence[0]


def _describe(dataset: pydicom.Dataset) -> str:
    description = str(dataset.get("SeriesDescription", ""))
    content = ""
    if dataset.SOPClassUID == SegmentationStorage:
        content = f", {len(dataset.SegmentSequence)} segments, {dataset.NumberOfFrames} frames"
    return f"{dataset.Modality} {description}{content}"


def _problems(
    lesions: list[hd.seg.Segmentation],
    organs: list[hd.seg.Segmentation],
    reports: list[hd.sr.Comprehensive3DSR],
    n_received: int,
    truth: dict[str, Any],
) -> list[str]:
    """What is wrong with the set of objects: how many, of which study, and who refers to whom."""
    problems = []
    if (len(organs), len(reports)) != (1, 1) or len(lesions) > 1:
        problems.append(
            f"{len(organs)} organ SEG, {len(lesions)} lesion SEG and {len(reports)} SR came back; "
            "expected 1, at most 1, and 1"
        )
    results = [*lesions, *organs, *reports]
    if len(results) != n_received:
        problems.append(f"{n_received - len(results)} objects came back that are neither SEG nor SR")
    if any(r.StudyInstanceUID != truth["study_instance_uid"] for r in results):
        problems.append("a result is filed under another study than the one that was sent")
    for report in reports:
        evidence = _referenced_uids(report)
        for segmentation in [*lesions, *organs]:
            if segmentation.SOPInstanceUID not in evidence:
                problems.append("the SR does not refer to a SEG that came with it")
    return problems


def _referenced_uids(report: pydicom.Dataset) -> set[str]:
    """Every SOP Instance UID that the report refers to, in its evidence and its content."""
    found = set()
    for element in report.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            found.add(str(element.value))
    return found


def _seg_labels(segmentations: list[hd.seg.Segmentation], grid: hd.VolumeGeometry) -> Labels:
    """Segment numbers on `grid`, placed by the SEG's own geometry; zeros if there is no SEG."""
    if not segmentations:
        return np.zeros(grid.spatial_shape, np.uint8)
    try:
        volume = segmentations[0].get_volume(combine_segments=True, dtype=np.uint8)
        labels: Labels = volume.match_geometry(grid, tol=0.01).array
    except (RuntimeError, ValueError) as error:
        raise DemoError(f"a SEG does not lie on the slices that were sent: {error}") from error
    return labels


def _nifti_labels(path: Path, grid: hd.VolumeGeometry) -> Labels:
    image: Any = nib.load(path)
    volume = hd.Volume(
        np.asarray(image.dataobj, dtype=np.uint8),
        image.affine,
        coordinate_system="PATIENT",
        from_reference_convention="RAS",
    )
    labels: Labels = volume.match_geometry(grid, tol=0.01).array
    return labels


def _planted(entry: dict[str, Any]) -> Planted:
    centroid = entry.get("centroid_lps_mm")
    return Planted(
        abnormality=entry["abnormality"],
        organ=entry["organ"],
        side=entry["side"],
        diameter_mm=float(entry["diameter_mm"]),
        mask_value=int(entry["mask_value"]),
        centroid_lps_mm=None if centroid is None else (centroid[0], centroid[1], centroid[2]),
    )


def compare(scene: Scene) -> Comparison:
    """Hold what came back against the truth.

    A planted tumour is found if a segment of the lesion SEG touches it (our choice); its Dice
    is with all segments that do. Other abnormalities are reported and not drawn: found means
    that the node calls them present.
    """
    status = {f["abnormality"]: f for f in scene.document["findings"]}
    planted = tuple(_result(scene, entry, status.get(entry.abnormality, {})) for entry in scene.planted)
    kinds = {entry.abnormality for entry in scene.planted}
    touching = set(np.unique(scene.lesions[scene.truth > 0]).tolist())
    found = set(np.unique(scene.lesions).tolist()) - {0}
    return Comparison(
        planted=planted,
        findings=tuple(
            FindingResult(name, f["status"], f["probability"], name in kinds) for name, f in status.items()
        ),
        false_lesions=len(found - touching),
    )


def _result(scene: Scene, entry: Planted, finding: dict[str, Any]) -> PlantedResult:
    if not abnormality(entry.abnormality).tumour:
        distance = _distance(entry, finding.get("position_lps_mm"))
        present = finding.get("status") == "present"
        near = distance is None or distance <= NEAR_MM
        return PlantedResult(entry, False, present and near, None, distance if present else None)
    truth = scene.truth == entry.mask_value
    segments = [s for s in np.unique(scene.lesions[truth]).tolist() if s]
    if not segments:
        return PlantedResult(entry, True, False, None, None)
    drawn = np.isin(scene.lesions, segments)
    dice = 2 * float((truth & drawn).sum()) / float(truth.sum() + drawn.sum())
    centre = scene.ct.map_indices_to_reference(np.argwhere(drawn).mean(0, keepdims=True))[0]
    return PlantedResult(entry, True, True, dice, _distance(entry, centre.tolist()))


def _distance(entry: Planted, point: Sequence[float] | None) -> float | None:
    if entry.centroid_lps_mm is None or point is None:
        return None
    return float(np.linalg.norm(np.asarray(point) - np.asarray(entry.centroid_lps_mm)))
