"""A phantom study on disk: DICOM series, truth and report from one seed.

Not a training source (`training.samples`): this is what the demo, the benchmark and the tests
send to the node, with the truth that results are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import numpy.typing as npt

from training.phantoms.dicom import (
    KERNELS,
    ExportedSeries,
    SeriesSettings,
    nearest,
    phantom_geometry,
    write_series,
)
from training.phantoms.lesions import plant
from training.phantoms.procedural import procedural_anatomy
from training.phantoms.reports import Report, image_number, largest_slice, write_report
from training.phantoms.scanner import scan
from training.phantoms.tissues import AnatomySource, Phantom, PlantedLesion


@dataclass(frozen=True)
class Study:
    """A phantom study that was written.

    Attributes
    ----------
    phantom: with its truth on its own grid.
    series: the DICOM series.
    report: its report.
    truth: what `truth.json` holds.
    folder: where it lies.
    """

    phantom: Phantom
    series: ExportedSeries
    report: Report
    truth: dict[str, Any]
    folder: Path


def make_phantom(
    seed: int,
    *,
    lesions: Sequence[tuple[str, float]] | None = None,
    chances: Mapping[str, float] | None = None,
    phase: str | None = None,
    spacing_mm: float = 2.0,
    height_mm: float | None = None,
    coverage: str | None = None,
    source: AnatomySource | None = None,
) -> Phantom:
    """The phantom of a seed: anatomy, lesions, scan.

    Parameters
    ----------
    seed: not negative; the same seed and arguments give the same phantom.
    lesions: (abnormality, diameter in mm) to plant; None draws them.
    chances: of `training.phantoms.lesions.plant`, where they are drawn.
    phase: contrast phase; None draws it.
    spacing_mm: isotropic voxel size.
    height_mm: length of the scan, None for neck to thigh.
    coverage: part of the body (`procedural.COVERAGE`), None for all of it.
    source: of another anatomy than the procedural one, at `spacing_mm`; it decides on height and coverage.

    Raises
    ------
    ValueError: if the seed is negative or a lesion cannot be planted.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    body, findings, scanner = (np.random.default_rng([seed, k]) for k in range(3))
    anatomy = procedural_anatomy(body, spacing_mm, height_mm, coverage) if source is None else source(body)
    return scan(plant(anatomy, findings, lesions, chances), spacing_mm, scanner, phase)


def write_study(
    seed: int,
    folder: Path,
    *,
    lesions: Sequence[tuple[str, float]] | None = None,
    slices: int | None = None,
    matrix: int | None = None,
    phase: str | None = None,
    spacing_mm: float = 2.0,
    height_mm: float | None = None,
    coverage: str | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Study:
    """Make the phantom of a seed and write its series, truth and report.

    Parameters
    ----------
    seed, lesions, phase, spacing_mm, height_mm, coverage: of `make_phantom`.
    folder: receives dicom/, truth.json, truth_lesions.nii.gz, truth_organs.nii.gz, report.txt.
    slices, matrix: number of images and their rows and columns; None keeps the phantom's grid.
    progress: called with a stage's name and its share done, 0..1.

    Raises
    ------
    FileExistsError: if `folder` already holds a study.
    ValueError: if an argument makes no sense (`make_phantom`, `SeriesSettings`).
    """
    dicom_folder = folder / "dicom"
    if dicom_folder.exists() and any(dicom_folder.iterdir()):
        raise FileExistsError(f"folder {folder} already holds a study; give an empty one")
    tell = progress or (lambda stage, share: None)
    kernel = sorted(KERNELS)[int(np.random.default_rng([seed, 3]).integers(3))]  # soft to standard
    settings = SeriesSettings(seed=seed, slices=slices, matrix=matrix, kernel=kernel)
    tell("phantom", 0.0)
    phantom = make_phantom(
        seed, lesions=lesions, phase=phase, spacing_mm=spacing_mm, height_mm=height_mm, coverage=coverage
    )
    tell("phantom", 1.0)
    series = write_series(phantom, dicom_folder, settings, lambda n, of: tell("images", n / of))
    tell("truth", 0.0)
    count = series.geometry.spatial_shape[0]
    report = write_report(phantom, np.random.default_rng([seed, 4]), settings.series_number, n_images=count)
    truth = truth_of(phantom, series, settings)
    source = phantom_geometry(phantom)
    for name, labels in (("lesions", phantom.lesions), ("organs", phantom.organs)):
        on_images = nearest(labels, source, series.geometry)
        write_nifti(on_images, series.geometry, folder / f"truth_{name}.nii.gz")
    (folder / "report.txt").write_text(report.text, encoding="utf-8")
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    tell("truth", 1.0)
    return Study(phantom, series, report, truth, folder)


def truth_of(phantom: Phantom, series: ExportedSeries, settings: SeriesSettings) -> dict[str, Any]:
    """What was planted, in patient coordinates and images of the series, ready for JSON."""
    return {
        "seed": settings.seed,
        "phase": phantom.phase,
        "kernel": settings.kernel,
        "study_instance_uid": series.study_instance_uid,
        "series_instance_uid": series.series_instance_uid,
        "series_number": settings.series_number,
        "images": len(series.files),
        "planted": [_planted(phantom, series, lesion) for lesion in phantom.planted],
    }


def _planted(phantom: Phantom, series: ExportedSeries, lesion: PlantedLesion) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "abnormality": lesion.abnormality,
        "organ": lesion.organ,
        "side": lesion.side,
        "diameter_mm": round(lesion.diameter_mm, 2),
        "mask_value": lesion.mask_value,
    }
    z = largest_slice(phantom, lesion)
    if z is None:
        return entry
    count = len(series.files)
    voxels = (phantom.lesions == lesion.mask_value).nonzero().double().numpy()  # (N, 3)
    geometry = phantom_geometry(phantom)
    centroid = geometry.map_indices_to_reference(voxels.mean(0, keepdims=True))[0]
    number = image_number(z, int(phantom.hu.shape[0]), count)
    entry["centroid_lps_mm"] = [round(float(v), 2) for v in centroid]
    entry["volume_ml"] = round(len(voxels) * float(np.prod(phantom.spacing_mm)) / 1000, 3)
    entry["image_number"] = number
    entry["sop_instance_uid"] = series.sop_instance_uids[count - number]
    return entry


def write_nifti(labels: npt.NDArray[np.uint8], geometry: hd.VolumeGeometry, path: Path) -> None:
    """Write a label map as NIfTI: (columns, rows, slices) in RAS, as converters write a CT."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine  # LPS -> RAS
    image = nib.Nifti1Image(  # type: ignore[no-untyped-call]
        labels.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]
    )
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    nib.save(image, path)
