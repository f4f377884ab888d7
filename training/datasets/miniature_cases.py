"""Small patients for miniatures of public sets: a coarse phantom, its TotalSegmentator labels, its report.

Not a training source: a miniature shows that a set's layout is read rightly, and that each stage runs from
end to end. What a report says is true of its phantom.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import numpy.typing as npt

from training.phantoms.dicom import phantom_geometry
from training.phantoms.lesions import plant
from training.phantoms.procedural import procedural_anatomy
from training.phantoms.reports import Report, write_report
from training.phantoms.scanner import scan
from training.phantoms.tissues import PULMONARY_ARTERY, Phantom

SPACING_MM = 5.0  # of rows and columns: coarse, so that a patient takes less than a second
EVERY = 2  # slices are twice as far apart, so that a spacing on the wrong axis shows
# Findings of one patient after the other, (abnormality, diameter in mm); again from the first when spent.
CHEST: tuple[tuple[tuple[str, float], ...], ...] = (
    (("lung_nodule", 24.0),),
    (("pleural_effusion", 0.0),),
    (),
    (("lung_consolidation", 0.0), ("coronary_calcification", 10.0)),
    (("emphysema", 0.0), ("lung_nodule", 18.0)),
    (("pericardial_effusion", 0.0),),
)
ABDOMEN: tuple[tuple[tuple[str, float], ...], ...] = (
    (("liver_tumour", 40.0),),
    (("renal_tumour", 40.0), ("renal_cyst", 24.0)),
    (),
    (("pancreatic_tumour", 32.0),),
    (("liver_tumour", 30.0), ("liver_cyst", 24.0)),
    (("hepatic_steatosis", 0.0), ("renal_cyst", 30.0)),
)


@dataclass(frozen=True)
class Case:
    """One patient.

    Attributes
    ----------
    phantom: image and truth; slices are `EVERY` times as thick as rows and columns are wide.
    structures: (slices, rows, columns) uint8, TotalSegmentator v2 ``total`` class ids.
    report: names images of its series, counted from the head.
    """

    phantom: Phantom
    structures: npt.NDArray[np.uint8]
    report: Report

    @property
    def geometry(self) -> hd.VolumeGeometry:
        """The grid, canonical."""
        return phantom_geometry(self.phantom)

    @property
    def hu(self) -> npt.NDArray[np.int16]:
        """(slices, rows, columns) whole Hounsfield units, as a scanner stores them."""
        hu: npt.NDArray[np.int16] = np.rint(self.phantom.hu.numpy()).astype(np.int16)
        return hu

    @property
    def sentences(self) -> tuple[tuple[str, str], ...]:
        """(reading organ, sentence) of the findings, without references to images."""
        bare = iter(self.report.snippets)
        return tuple(
            (s.organ, s.text if s.image_number is None else next(bare).text) for s in self.report.sentences
        )

    @property
    def findings(self) -> str:
        """The findings as one paragraph, without references to images."""
        return " ".join(text for _, text in self.sentences)

    @property
    def impression(self) -> str:
        """What the report says under its last heading."""
        return " ".join(self.report.text.partition("IMPRESSION\n")[2].split())

    @property
    def abnormalities(self) -> frozenset[str]:
        """What was planted, in names of the abnormality dictionary."""
        return frozenset(lesion.abnormality for lesion in self.phantom.planted)


def cases(
    count: int, seed: int, findings: Sequence[Sequence[tuple[str, float]]], coverage: str
) -> list[Case]:
    """Patients, one after the other.

    Parameters
    ----------
    seed: not negative; the same arguments give the same patients.
    findings: `CHEST` or `ABDOMEN`.
    coverage: of `training.phantoms.procedural.COVERAGE`.

    Raises
    ------
    ValueError: if `count` is below 2: a set needs both splits.
    """
    if count < 2:
        raise ValueError(f"count of patients is {count}; a miniature needs at least 2, one of each split")
    return [_case(seed, k, tuple(findings[k % len(findings)]), coverage) for k in range(count)]


@lru_cache(maxsize=12)  # several sets show the same patients
def _case(seed: int, number: int, findings: tuple[tuple[str, float], ...], coverage: str) -> Case:
    body, lesions, scanner, writer = (np.random.default_rng([seed, number, k]) for k in range(4))
    planting = plant(procedural_anatomy(body, SPACING_MM, None, coverage), lesions, findings)
    full = scan(planting, SPACING_MM, scanner)
    planted = tuple(replace(p, centre=(p.centre[0] / EVERY, *p.centre[1:])) for p in full.planted)
    phantom = replace(
        full,
        hu=full.hu[::EVERY],
        organs=full.organs[::EVERY],
        lesions=full.lesions[::EVERY],
        planted=planted,
        spacing_mm=(EVERY * SPACING_MM, SPACING_MM, SPACING_MM),
    )
    structures = planting.tissues[::EVERY].numpy()
    structures = np.where(structures < PULMONARY_ARTERY, structures, 0).astype(np.uint8)
    return Case(phantom, structures, write_report(phantom, writer))


def save_nifti(
    path: Path, array: npt.NDArray[np.generic], geometry: hd.VolumeGeometry, axes: str = "LPH"
) -> None:
    """Write canonical voxels as NIfTI.

    Parameters
    ----------
    axes: where the file's three axes run to, in highdicom's letters (H for superior).
    """
    volume = hd.Volume(array, geometry.affine, coordinate_system="PATIENT").to_patient_orientation(axes)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine  # LPS -> RAS
    image = nibabel.Nifti1Image(volume.array, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def save_table(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]], delimiter: str = ","
) -> None:
    """Write a CSV; what a row lacks is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


__all__ = ["ABDOMEN", "CHEST", "EVERY", "SPACING_MM", "Case", "cases", "save_nifti", "save_table"]
