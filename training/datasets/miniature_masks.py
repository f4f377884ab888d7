"""Sets with masks in small: TotalSegmentator (version 2), Decathlon, KiTS23 and LiTS, in their own layouts.

File names, folders, tables, values and the order of axes are those of the sets; patients are phantoms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core_model.anatomy import organ, structures
from training.datasets.miniature_cases import Case, cases, save_nifti, save_table
from training.phantoms.tissues import tissue

# One patient has them all, so that few patients serve every set; the next has none of them.
FINDINGS: tuple[tuple[tuple[str, float], ...], ...] = (
    (
        ("liver_tumour", 36.0),
        ("renal_tumour", 32.0),
        ("renal_cyst", 24.0),
        ("pancreatic_tumour", 28.0),
        ("colon_tumour", 32.0),
        ("lung_nodule", 24.0),
    ),
    (("hepatic_steatosis", 0.0),),
)
# Task -> name, pattern of its files, and the labels of its dataset.json in the order of their values; written
# down here once more, so that a slip in the adapter shows.
DECATHLON: Mapping[int, tuple[str, str, tuple[str, ...]]] = {
    3: ("Liver", "liver_{}", ("background", "liver", "cancer")),
    6: ("Lung", "lung_{:03d}", ("background", "cancer")),
    7: ("Pancreas", "pancreas_{:03d}", ("background", "pancreas", "cancer")),
    8: ("HepaticVessel", "hepaticvessel_{:03d}", ("background", "Vessel", "Tumour")),
    9: ("Spleen", "spleen_{}", ("background", "spleen")),
    10: ("Colon", "colon_{:03d}", ("background", "colon cancer primaries")),
}
TUMOURS: Mapping[int, str] = {
    3: "liver_tumour",
    6: "lung_nodule",
    7: "pancreatic_tumour",
    8: "liver_tumour",
    10: "colon_tumour",
}
META = (
    "image_id",
    "age",
    "gender",
    "institute",
    "study_type",
    "split",
    "manufacturer",
    "scanner_model",
    "kvp",
    "pathology",
    "pathology_location",
)


def patients(count: int, seed: int) -> list[Case]:
    """The patients of these miniatures, from the chest to the upper abdomen."""
    return cases(count, seed, FINDINGS, "chest and abdomen")


def write_totalsegmentator(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write a miniature of the TotalSegmentator set, version 2; the last patient is of its test split."""
    rows = []
    for number, case in enumerate(patients(count, seed)):
        name = f"s{number:04d}"
        save_nifti(folder / name / "ct.nii.gz", case.hu, case.geometry, "RAH")
        for structure in structures():
            if structure.v2_id is not None:
                mask = (case.structures == structure.v2_id).astype(np.uint8)
                save_nifti(
                    folder / name / f"segmentations/{structure.name}.nii.gz", mask, case.geometry, "RAH"
                )
        split = "test" if number == count - 1 else "val" if 0 < number == count - 2 else "train"
        pathology = "tumor" if case.abnormalities & {"liver_tumour"} else "no_pathology"
        rows.append({"image_id": name, "study_type": "ct abdomen", "split": split, "pathology": pathology})
    save_table(folder / "meta.csv", META, rows, delimiter=";")


def write_msd(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write miniatures of the six CT tasks of the Decathlon; the last patient of each has no labels."""
    found = patients(count, seed)
    for number, (task, pattern, words) in DECATHLON.items():
        root = folder / f"Task{number:02d}_{task}"
        training, tests = [], []
        for k, case in enumerate(found):
            name = pattern.format(k)
            last = k == count - 1
            save_nifti(root / f"images{'Ts' if last else 'Tr'}/{name}.nii.gz", case.hu, case.geometry, "LAH")
            if last:
                tests.append(f"./imagesTs/{name}.nii.gz")
                continue
            save_nifti(root / f"labelsTr/{name}.nii.gz", msd_labels(number, case), case.geometry, "LAH")
            training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
        about = {
            "name": task,
            "modality": {"0": "CT"},
            "labels": {str(value): word for value, word in enumerate(words)},
            "numTraining": len(training),
            "numTest": len(tests),
            "training": training,
            "test": tests,
        }
        (root / "dataset.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def msd_labels(number: int, case: Case) -> npt.NDArray[np.uint8]:
    """The label map of one task: its organ, and the tumours in it."""
    labels = np.zeros(case.hu.shape, dtype=np.uint8)
    for value, word in enumerate(DECATHLON[number][2]):
        if word in ("liver", "pancreas", "spleen"):
            labels[of_organ(case, word)] = value
        elif word == "Vessel":
            labels[case.structures == tissue("portal_vein_and_splenic_vein")] = value
        elif value > 0:
            labels[outlined(case, (TUMOURS[number],))] = value
    return labels


def write_kits(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write a miniature of KiTS23, whose files have slices first, from the head down."""
    for number, case in enumerate(patients(count, seed)):
        root = folder / f"dataset/case_{number:05d}"
        labels = of_organ(case, "kidneys").astype(np.uint8)
        labels[outlined(case, ("renal_tumour",))] = 2
        labels[outlined(case, ("renal_cyst",))] = 3
        save_nifti(root / "imaging.nii.gz", case.hu, case.geometry, "FPR")
        save_nifti(root / "segmentation.nii.gz", labels, case.geometry, "FPR")


def write_lits(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write a miniature of LiTS in its two batches; the last patient is of its test."""
    for number, case in enumerate(patients(count, seed)):
        if number == count - 1:
            save_nifti(folder / "test-volume-0.nii", case.hu, case.geometry, "LAH")
            continue
        root = folder / f"Training Batch {1 + number % 2}"
        labels = of_organ(case, "liver").astype(np.uint8)
        labels[outlined(case, ("liver_tumour",))] = 2
        save_nifti(root / f"volume-{number}.nii", case.hu, case.geometry, "LAH")
        save_nifti(root / f"segmentation-{number}.nii", labels, case.geometry, "LAH")


def of_organ(case: Case, name: str) -> npt.NDArray[np.bool_]:
    """(slices, rows, columns): a reading organ with all that was planted in it."""
    found: npt.NDArray[np.bool_] = case.phantom.organs.numpy() == organ(name).label
    return found


def outlined(case: Case, abnormalities: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(slices, rows, columns): what was planted under these names."""
    values = [p.mask_value for p in case.phantom.planted if p.abnormality in abnormalities and p.mask_value]
    found: npt.NDArray[np.bool_] = np.isin(case.phantom.lesions.numpy(), values)
    return found


__all__ = [
    "msd_labels",
    "of_organ",
    "outlined",
    "write_kits",
    "write_lits",
    "write_msd",
    "write_totalsegmentator",
]
