"""Which series of a study can be read as a CT volume, and why the others cannot.

Headers only; pixels are loaded by `dicom_node.series_pixels`, and which of several is best says
`dicom_node.series_choice`. Serves both `sightline read` and the node: everything here is a
function of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
from pydicom.uid import MediaStorageDirectoryStorage

from dicom_node.errors import SightlineError
from dicom_node.instances import Instance, NotDicomError
from dicom_node.results.identifiers import derived_uid
from dicom_node.series_frames import read_images
from dicom_node.series_geometry import GeometryError, stack_slices
from dicom_node.series_parts import split_parts
from dicom_node.series_resampling import SliceGrid
from dicom_node.series_rules import (
    MAX_VOXELS,
    image_problem,
    is_bolus_tracking,
    is_reformat,
    kind_problem,
    plane_name,
)
from dicom_node.series_settings import SeriesSettings, matches

Progress = Callable[[str, float], None]
_DEFAULT = SeriesSettings()


@dataclass(frozen=True)
class CandidateSeries:
    """A series that can be read.

    Attributes
    ----------
    series_instance_uid, study_instance_uid: derived from the instances where the files have none.
    number, description: what a person knows the series by.
    part: which volume of the series, where it holds several (phases, stacks); else empty.
    instances: the slices in order along row × column, for an axial series towards the head.
    grid: how they lie, and the regular grid that they are read on.
    """

    series_instance_uid: str
    study_instance_uid: str
    number: int | None
    description: str
    part: str
    instances: tuple[Instance, ...]
    grid: SliceGrid

    @property
    def title(self) -> str:
        """What a person knows the series by."""
        return _title(self.number, self.description, self.part)

    @property
    def geometry(self) -> hd.VolumeGeometry:
        """The grid (slice, row, column) of the volume, LPS mm. Regular: its planes are the slices."""
        return self.grid.geometry

    @property
    def extent_mm(self) -> float:
        """Distance between the first and the last slice centre."""
        return self.grid.stack.extent_mm

    @property
    def references(self) -> tuple[str, ...]:
        """`Instance.reference` of each slice, in slice order."""
        return tuple(instance.reference for instance in self.instances)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know of how the slices became a volume; none where they are one."""
        if self.grid.stack.is_regular:
            return ()
        spacing = " x ".join(f"{value:.2f}" for value in self.geometry.spacing)
        oddities = " and ".join(self.grid.stack.oddities)
        return (f"Read from a volume resampled to {spacing} mm: {oddities}.",)

    def __str__(self) -> str:
        notes = f"; {' and '.join(self.grid.stack.oddities)}: resampled" if self.notes else ""
        spacing = self.grid.stack.spacing_mm
        return f"{self.title} ({len(self.instances)} slices, {spacing:.2f} mm apart{notes})"


@dataclass(frozen=True)
class Refusal:
    """A series, or the part of a series of one kind, that cannot be read.

    Attributes
    ----------
    number, description, part: as of `CandidateSeries`.
    n_instances: how many images: files, or frames of a multi-frame file.
    reason: for a person, one line.
    """

    series_instance_uid: str
    number: int | None
    description: str
    part: str
    n_instances: int
    reason: str

    def __str__(self) -> str:
        objects = f"{self.n_instances} object{'s' * (self.n_instances != 1)}"
        title = _title(self.number, self.description, self.part)
        return f"{title} ({objects}): {self.reason}"


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


def _title(number: int | None, description: str, part: str) -> str:
    """What a person knows a series by."""
    name = "series without number" if number is None else f"series {number}"
    name += f" {description[:40]!r}" if description else ""
    return f"{name}, {part}" if part else name


def survey_files(
    paths: Iterable[Path],
    *,
    names: Sequence[str] | None = None,
    settings: SeriesSettings = _DEFAULT,
    progress: Progress | None = None,
) -> Survey:
    """Read the headers of files and sort them into series.

    Parameters
    ----------
    paths: files; those that are no DICOM are counted and left out.
    names: what messages call each file; their file names by default.
    settings: what is too little, and what is never read.
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
            images = read_images(path, label)
        except NotDicomError:
            n_other += 1
        except SightlineError as error:
            unreadable.append(error.message)
        else:
            if images[0].sop_class_uid == MediaStorageDirectoryStorage:
                n_other += 1
            else:
                instances += images
        if progress is not None:
            progress("headers", done / len(files))
    results = [
        classify_series(images, settings, part=part)
        for group in group_series(instances)
        for part, images in split_parts(group)
    ]
    return Survey(
        candidates=tuple(r for r in results if isinstance(r, CandidateSeries)),
        refusals=tuple(r for r in results if isinstance(r, Refusal)),
        unreadable=tuple(unreadable),
        n_other=n_other,
    )


def group_series(instances: Iterable[Instance]) -> list[tuple[Instance, ...]]:
    """Instances of one series and one kind, in the order in which they first appear.

    A localizer, a dose screen or a coronal reformat filed under the series of the axial images
    must not spoil them, so a series is split by SOP class, modality, stack, and plane or why
    the kind is not read. Where over-anonymised files have no Series Instance UID, number and
    description stand for it. Copies of one image (same SOP Instance UID and frame) count once.
    """
    groups: dict[tuple[str, ...], dict[str, Instance]] = {}
    for instance in instances:
        problem = kind_problem(instance)
        key = (
            instance.series_instance_uid or f"{instance.series_number} {instance.series_description}",
            instance.sop_class_uid,
            instance.modality,
            instance.stack,
            plane_name(instance) if problem is None else problem,
        )
        identity = instance.reference if instance.sop_instance_uid else str(instance.path)
        groups.setdefault(key, {}).setdefault(identity, instance)
    return [tuple(group.values()) for group in groups.values()]


def classify_series(
    instances: Sequence[Instance], settings: SeriesSettings = _DEFAULT, *, part: str = ""
) -> CandidateSeries | Refusal:
    """One volume of `group_series` and `split_parts`: a readable CT volume, or why not.

    Parameters
    ----------
    instances: at least one, of one series and one kind.
    settings: what is too little, and what is never read.
    part: which volume of the series it is.
    """
    first = instances[0]
    if first.stack and first.frame is not None:
        part = f"stack {first.stack}" + (f", {part}" if part else "")
    reason = kind_problem(first) or _unwanted(first, settings) or image_problem(instances)
    if reason is None:
        try:
            return _candidate(instances, settings, part)
        except GeometryError as error:
            reason = error.message
            if "at the same position" in reason and is_bolus_tracking(first):
                reason = f"bolus tracking: all {len(instances)} images lie at the same position"
    return Refusal(
        series_instance_uid=first.series_instance_uid,
        number=first.series_number,
        description=first.series_description,
        part=part,
        n_instances=len(instances),
        reason=reason,
    )


def _unwanted(image: Instance, settings: SeriesSettings) -> str | None:
    """Why the configuration does not want such a series, or None."""
    for pattern in settings.exclude:
        if matches(pattern, image.series_description):
            return f"its description matches {pattern!r}, which series.exclude names"
    if is_reformat(image) and not settings.reformats:
        return f"{plane_name(image)} reformat, computed from other slices; series.reformats would allow it"
    return None


def _candidate(instances: Sequence[Instance], settings: SeriesSettings, part: str) -> CandidateSeries:
    """Raises GeometryError with the reason where the slices make no volume."""
    first = instances[0]
    if first.pixel_spacing_mm is None:
        raise ValueError("instances must have passed image_problem")
    stack = stack_slices(
        [i.position_mm or () for i in instances],
        [i.orientation or () for i in instances],
        [i.instance_number for i in instances],
    )
    if len(instances) < settings.minimum_slices or stack.extent_mm < settings.minimum_extent_mm:
        raise GeometryError(
            f"only {len(instances)} slices over {stack.extent_mm:.0f} mm; organs are recognised from "
            f"{settings.minimum_slices} slices and {settings.minimum_extent_mm:.0f} mm on"
        )
    grid = SliceGrid.of(
        stack,
        (first.rows, first.columns),
        (first.pixel_spacing_mm[0], first.pixel_spacing_mm[1]),
        first.frame_of_reference_uid,
    )
    shape = grid.geometry.spatial_shape
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise GeometryError(f"{stack.oddities[0]}: a regular grid of it is larger than is read")
    identity = ",".join(sorted({i.sop_instance_uid for i in instances}))
    return CandidateSeries(
        series_instance_uid=first.series_instance_uid or derived_uid("series", identity),
        study_instance_uid=first.study_instance_uid or derived_uid("study", identity),
        number=first.series_number,
        description=first.series_description,
        part=part,
        instances=tuple(instances[index] for index in stack.order),
        grid=grid,
    )
