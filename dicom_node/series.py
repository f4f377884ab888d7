"""Which series of a study can be read as a CT volume, which is best, and why the others cannot.

Headers only; pixels are loaded by `dicom_node.series_pixels`. Serves both `sightline read`
and the node: everything here is a function of files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.uid import MediaStorageDirectoryStorage

from dicom_node.errors import SightlineError
from dicom_node.instances import Instance, NotDicomError, read_instance
from dicom_node.results.identifiers import derived_uid
from dicom_node.series_geometry import GeometryError, slice_normal, stack_slices
from dicom_node.series_rules import image_problem, kind_problem

Progress = Callable[[str, float], None]

# Our choice: below this no organ can be recognised by its surroundings.
MIN_SLICES, MIN_EXTENT_MM = 8, 20.0
# Within 30 degrees of the body's axis a series counts as axial.
_AXIAL_COSINE = float(np.cos(np.radians(30)))


@dataclass(frozen=True)
class CandidateSeries:
    """A series that can be read.

    Attributes
    ----------
    series_instance_uid, study_instance_uid: derived from the instances where the files have none.
    number, description: what a person knows the series by.
    instances: in slice order; `instances[k]` is slice k of `geometry`.
    geometry: grid of (slice, row, column), LPS mm; the first axis runs along row × column,
        for an axial series towards the head.
    """

    series_instance_uid: str
    study_instance_uid: str
    number: int | None
    description: str
    instances: tuple[Instance, ...]
    geometry: hd.VolumeGeometry

    @property
    def extent_mm(self) -> float:
        """Distance between the first and the last slice centre."""
        return (len(self.instances) - 1) * float(self.geometry.spacing[0])

    def __str__(self) -> str:
        spacing = float(self.geometry.spacing[0])
        return f"{_title(self)} ({len(self.instances)} slices, {spacing:.2f} mm apart)"


@dataclass(frozen=True)
class Refusal:
    """A series, or the part of a series of one kind, that cannot be read.

    Attributes
    ----------
    number, description: what a person knows the series by.
    n_instances: how many files.
    reason: for a person, one line.
    """

    series_instance_uid: str
    number: int | None
    description: str
    n_instances: int
    reason: str

    def __str__(self) -> str:
        files = f"{self.n_instances} file{'s' * (self.n_instances != 1)}"
        return f"{_title(self)} ({files}): {self.reason}"


@dataclass(frozen=True)
class Survey:
    """What a set of files holds.

    Attributes
    ----------
    candidates: series that can be read.
    refusals: series that cannot, with the reason.
    unreadable: one line per DICOM file whose header cannot be read.
    n_other: number of files that are no DICOM (texts, pictures, DICOMDIR).
    """

    candidates: tuple[CandidateSeries, ...]
    refusals: tuple[Refusal, ...]
    unreadable: tuple[str, ...]
    n_other: int


def _title(series: CandidateSeries | Refusal) -> str:
    number = "without number" if series.number is None else str(series.number)
    return f"series {number} {series.description[:40]!r}" if series.description else f"series {number}"


def survey_files(
    paths: Iterable[Path], *, names: Sequence[str] | None = None, progress: Progress | None = None
) -> Survey:
    """Read the headers of files and sort them into series.

    Parameters
    ----------
    paths: files; those that are no DICOM are counted and left out.
    names: what messages call each file; their file names by default.
    progress: called with ("headers", fraction).

    Raises
    ------
    ValueError: if `names` has another length than `paths`.
    """
    files = list(paths)
    labels = [path.name for path in files] if names is None else list(names)
    instances: list[Instance] = []
    unreadable: list[str] = []
    n_other = 0
    for done, (path, label) in enumerate(zip(files, labels, strict=True), start=1):
        try:
            instance = read_instance(path, label)
        except NotDicomError:
            n_other += 1
        except SightlineError as error:
            unreadable.append(error.message)
        else:
            if instance.sop_class_uid == MediaStorageDirectoryStorage:
                n_other += 1
            else:
                instances.append(instance)
        if progress is not None:
            progress("headers", done / len(files))
    results = [classify_series(group) for group in group_series(instances)]
    return Survey(
        candidates=tuple(r for r in results if isinstance(r, CandidateSeries)),
        refusals=tuple(r for r in results if isinstance(r, Refusal)),
        unreadable=tuple(unreadable),
        n_other=n_other,
    )


def group_series(instances: Iterable[Instance]) -> list[tuple[Instance, ...]]:
    """Instances of one series and one kind, in the order in which they first appear.

    A localizer or a dose screen filed under the series of the axial images must not spoil
    them, so a series is split by SOP class, modality and whether it is a localizer. Where
    over-anonymised files have no Series Instance UID, number and description stand for it.
    Copies of one instance (same SOP Instance UID) count once.
    """
    groups: dict[tuple[str, str, str, bool], dict[str, Instance]] = {}
    for instance in instances:
        key = (
            instance.series_instance_uid or f"{instance.series_number} {instance.series_description}",
            instance.sop_class_uid,
            instance.modality,
            "LOCALIZER" in instance.image_type,
        )
        identity = instance.sop_instance_uid or str(instance.path)
        groups.setdefault(key, {}).setdefault(identity, instance)
    return [tuple(group.values()) for group in groups.values()]


def classify_series(instances: Sequence[Instance]) -> CandidateSeries | Refusal:
    """One group of `group_series`: a readable CT volume, or why not.

    Parameters
    ----------
    instances: at least one, of one series and one kind.
    """
    first = instances[0]
    reason = kind_problem(first) or image_problem(instances)
    if reason is None:
        try:
            return _candidate(instances)
        except GeometryError as error:
            reason = error.message
    return Refusal(
        series_instance_uid=first.series_instance_uid,
        number=first.series_number,
        description=first.series_description,
        n_instances=len(instances),
        reason=reason,
    )


def _candidate(instances: Sequence[Instance]) -> CandidateSeries:
    """Raises GeometryError with the reason where the slices make no volume."""
    first = instances[0]
    if first.pixel_spacing_mm is None:
        raise ValueError("instances must have passed image_problem")
    stack = stack_slices(
        [i.position_mm or () for i in instances],
        [i.orientation or () for i in instances],
        first.pixel_spacing_mm,
    )
    extent = stack.spacing_mm * (len(instances) - 1)
    if len(instances) < MIN_SLICES or extent < MIN_EXTENT_MM:
        raise GeometryError(
            f"only {len(instances)} slices over {extent:.0f} mm; organs are recognised from "
            f"{MIN_SLICES} slices and {MIN_EXTENT_MM:.0f} mm on"
        )
    identity = ",".join(sorted(i.sop_instance_uid for i in instances))
    return CandidateSeries(
        series_instance_uid=first.series_instance_uid or derived_uid("series", identity),
        study_instance_uid=first.study_instance_uid or derived_uid("study", identity),
        number=first.series_number,
        description=first.series_description,
        instances=tuple(instances[index] for index in stack.order),
        geometry=hd.VolumeGeometry(
            stack.affine,
            spatial_shape=(len(instances), first.rows, first.columns),
            coordinate_system="PATIENT",
            frame_of_reference_uid=first.frame_of_reference_uid,
        ),
    )


def choose_series(candidates: Sequence[CandidateSeries]) -> CandidateSeries:
    """The best of several readable series. Our choice of rules, the first that differs decides.

    1. Axial (within 30 degrees) before coronal and sagittal reformats.
    2. ORIGINAL before DERIVED (Image Type value 1; empty counts as original).
    3. Soft before unknown before sharp kernel (`kernel_softness`): the sharp one is for lung
       and bone, and its noise hides lesions.
    4. More of the body, in steps of 50 mm.
    5. With contrast agent before without.
    6. Thinner slices, but not below 1 mm; then more slices; then the lower series number.

    Raises
    ------
    ValueError: if there is none.
    """
    if not candidates:
        raise ValueError("candidates is empty; at least one readable series is needed")
    return min(candidates, key=_rank)


def _rank(series: CandidateSeries) -> tuple[float | str, ...]:
    first = series.instances[0]
    normal = slice_normal(first.orientation or ())
    return (
        abs(float(normal[2])) < _AXIAL_COSINE,
        "DERIVED" in first.image_type[:1],
        -kernel_softness(first.kernel),
        -round(series.extent_mm / 50),
        not first.contrast,
        max(1.0, round(float(series.geometry.spacing[0]), 2)),
        -len(series.instances),
        float("inf") if series.number is None else series.number,
        series.series_instance_uid,
    )


def kernel_softness(kernel: str) -> int:
    """2 for a soft-tissue reconstruction kernel, 0 for a sharp one (lung, bone), 1 if unknown.

    Convolution Kernel is free text by vendor (PS3.3 C.8.2.1): Siemens B31f, Br38, I70f (sharp
    from 50), Canon FC18 (sharp from FC30 on), GE STANDARD, LUNG, BONE; Philips B, YA, L.

    >>> [kernel_softness(k) for k in ("B31f", "Br64", "FC52", "STANDARD", "LUNG", "")]
    [2, 0, 0, 2, 0, 1]
    """
    name = kernel.split("\\", maxsplit=1)[0].strip().upper()
    numbered = re.match(r"([A-Z]+)(\d{2})", name)
    if numbered:
        sharp_from = 30 if numbered[1] == "FC" else 50
        return 0 if int(numbered[2]) >= sharp_from else 2
    if re.search(r"LUNG|BONE|EDGE|ULTRA|SHARP|DETAIL|^(L|E|D|Y[B-E])$", name):
        return 0
    return 2 if re.search(r"^STANDARD|^STD|SOFT|SMOOTH|^(A|B|C|YA|UB)$", name) else 1
