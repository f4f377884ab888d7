"""CT-RATE in small: both splits, all tables, masks, two reconstructions of some scans; the legacy tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt

from training.datasets.ct_rate import vocabulary
from training.datasets.miniature_cases import CHEST, Case, cases, save_nifti, save_table

# Abnormalities of the dictionary that a label of the set names.
LABELS = {
    "aortic_calcification": ("Arterial wall calcification",),
    "pericardial_effusion": ("Pericardial effusion",),
    "coronary_calcification": ("Coronary artery wall calcification",),
    "hiatal_hernia": ("Hiatal hernia",),
    "emphysema": ("Emphysema",),
    "lung_nodule": ("Lung nodule",),
    "lung_consolidation": ("Lung opacity", "Consolidation"),
    "pleural_effusion": ("Pleural effusion",),
}
METADATA_HEADER = (
    "VolumeName,Manufacturer,SeriesDescription,ManufacturerModelName,PatientSex,PatientAge,"
    "ReconstructionDiameter,DistanceSourceToDetector,DistanceSourceToPatient,GantryDetectorTilt,TableHeight,"
    "RotationDirection,ExposureTime,XRayTubeCurrent,Exposure,FilterType,GeneratorPower,FocalSpots,"
    "ConvolutionKernel,PatientPosition,RevolutionTime,SingleCollimationWidth,TotalCollimationWidth,TableSpeed,"
    "TableFeedPerRotation,SpiralPitchFactor,DataCollectionCenterPatient,ReconstructionTargetCenterPatient,"
    "ExposureModulationType,CTDIvol,ImagePositionPatient,ImageOrientationPatient,SliceLocation,"
    "SamplesPerPixel,PhotometricInterpretation,Rows,Columns,XYSpacing,RescaleIntercept,RescaleSlope,"
    "RescaleType,NumberofSlices,ZSpacing,StudyDate"
)
INTERCEPTS = (-1024, -8192)  # both occur in the legacy metadata


@dataclass(frozen=True)
class Volume:
    """One volume to write: its name, its patient, and its voxels on their grid."""

    name: str
    case: Case
    hu: npt.NDArray[np.int16]
    structures: npt.NDArray[np.uint8]
    geometry: hd.VolumeGeometry


def write_ct_rate(folder: Path, patients: int = 6, seed: int = 0, *, legacy: bool = False) -> None:
    """Write a miniature of CT-RATE; the last third of the patients are its validation split.

    The first and the last patient of each split have a second reconstruction. The last volume of all shows
    the lowest slices of a scan alone, and is listed as no chest.

    Parameters
    ----------
    folder: receives ``dataset``.
    legacy: the tree with stored values and headers of 1 mm instead of the fixed one, without masks.
    """
    root = folder / "dataset"
    found = cases(patients, seed, CHEST, "chest")
    held_out = max(1, patients // 3)
    for part, tables, members in (
        ("train", "train", found[: patients - held_out]),
        ("valid", "validation", found[patients - held_out :]),
    ):
        volumes = _volumes(part, members, np.random.default_rng([seed, patients]))
        no_chest = [volumes.pop()] if part == "valid" else []
        if no_chest:
            volumes.append(_lowest(no_chest[0]))
        for number, volume in enumerate(volumes):
            (_write_legacy if legacy else _write_fixed)(root, part, volume, number)
        _write_tables(root, part, tables, volumes)
        names = "".join(f"{v.name}.nii.gz\n" for v in no_chest)
        (root / f"metadata/no_chest_{part}.txt").write_text(names, encoding="utf-8")


def write_legacy(folder: Path, patients: int = 6, seed: int = 0) -> None:
    """`write_ct_rate` with the legacy tree."""
    write_ct_rate(folder, patients, seed, legacy=True)


def _volumes(part: str, members: list[Case], rng: np.random.Generator) -> list[Volume]:
    """All volumes of a split: a second, noisier reconstruction of the first patient and the last."""
    found = []
    for number, case in enumerate(members, start=1):
        for reconstruction in (1, 2) if number in {1, len(members)} else (1,):
            noise = rng.normal(0, 15.0 * (reconstruction - 1), case.hu.shape)
            hu = np.clip(np.rint(case.hu + noise), -1024, 3071).astype(np.int16)
            name = f"{part}_{number}_a_{reconstruction}"
            found.append(Volume(name, case, hu, case.structures, case.geometry))
    return found


def _lowest(volume: Volume, share: float = 0.25) -> Volume:
    count = max(2, round(volume.hu.shape[0] * share))
    geometry = hd.VolumeGeometry(
        volume.geometry.affine, (count, *volume.hu.shape[1:]), coordinate_system="PATIENT"
    )
    return Volume(volume.name, volume.case, volume.hu[:count], volume.structures[:count], geometry)


def _path(tree: Path, name: str) -> Path:
    patient, scan, _ = name.rsplit("_", 2)
    return tree / patient / f"{patient}_{scan}" / f"{name}.nii.gz"


def _write_fixed(root: Path, part: str, volume: Volume, number: int) -> None:
    save_nifti(_path(root / f"{part}_fixed", volume.name), volume.hu, volume.geometry)
    masks = root / f"ts_seg/ts_total/{part}_fixed"
    save_nifti(_path(masks, volume.name), volume.structures, volume.geometry)


def _write_legacy(root: Path, part: str, volume: Volume, number: int) -> None:
    """Stored values with a header of 1 mm: as the legacy tree has them."""
    stored = (volume.hu.astype(np.int32) - INTERCEPTS[number % 2]).astype(np.int16)
    affine = volume.geometry.affine.copy()
    affine[:3, :3] /= np.linalg.norm(affine[:3, :3], axis=0)
    grid = hd.VolumeGeometry(affine, volume.hu.shape, coordinate_system="PATIENT")
    save_nifti(_path(root / part, volume.name), stored, grid)


def _write_tables(root: Path, part: str, tables: str, volumes: list[Volume]) -> None:
    reports, labels, metadata = [], [], []
    for number, volume in enumerate(volumes):
        name = {"VolumeName": f"{volume.name}.nii.gz"}
        case = volume.case
        present = {label for a in case.abnormalities for label in LABELS.get(a, ())}
        reports.append(
            {
                **name,
                "ClinicalInformation_EN": "Not given.",
                "Technique_EN": case.report.text.partition("\n")[0].removeprefix("TECHNIQUE: "),
                "Findings_EN": case.findings,
                "Impressions_EN": case.impression,
            }
        )
        labels.append({**name, **{label: int(label in present) for label in vocabulary()}})
        height, width, _ = volume.geometry.spacing
        metadata.append(
            {
                **name,
                "Rows": volume.hu.shape[1],
                "Columns": volume.hu.shape[2],
                "XYSpacing": f"[{width}, {width}]",
                "ZSpacing": height,
                "RescaleSlope": 1,
                "RescaleIntercept": INTERCEPTS[number % 2],
                "RescaleType": "HU",
                "NumberofSlices": volume.hu.shape[0],
            }
        )
    save_table(root / f"radiology_text_reports/{tables}_reports.csv", list(reports[0]), reports)
    save_table(root / f"multi_abnormality_labels/{part}_predicted_labels.csv", list(labels[0]), labels)
    save_table(root / f"metadata/{tables}_metadata.csv", METADATA_HEADER.split(","), metadata)


__all__ = ["INTERCEPTS", "LABELS", "Volume", "write_ct_rate", "write_legacy"]
