"""RadGenome-ChestCT, ReXGroundingCT, Rad-ChestCT, INSPECT in small, on the chests of CT-RATE's miniature."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from training.datasets.miniature_cases import CHEST, Case, cases, save_nifti, save_table
from training.datasets.miniature_ct_rate import LABELS
from training.datasets.rad_chestct import KEY, MAPPINGS, PATIENT, TABLES
from training.datasets.radgenome import REGIONS

# Reading organ -> region of RadGenome that speaks of it, of those that two regions hold.
_REGION = {"esophagus": "esophagus", "heart": "heart", "trachea": "trachea and bronchie", "lung": "lung"}
_CATEGORY = {"lung_nodule": "2d", "lung_consolidation": "2b", "pleural_effusion": "2e", "emphysema": "1c"}
# What each label's abnormality is called in Rad-ChestCT, and a place of it.
_RAD = {
    "Arterial wall calcification": ("calcification", "aorta"),
    "Pericardial effusion": ("pericardial_effusion", "heart"),
    "Coronary artery wall calcification": ("calcification", "heart"),
    "Hiatal hernia": ("hernia", "esophagus"),
    "Emphysema": ("emphysema", "left_lung"),
    "Lung nodule": ("nodule", "right_lung"),
    "Lung opacity": ("opacity", "left_lower"),
    "Consolidation": ("consolidation", "left_lower"),
    "Pleural effusion": ("pleural_effusion", "left_lung"),
}
_PLACES = ("aorta", "esophagus", "heart", "left_lower", "left_lung", "right_lung")


def _halves(patients: int, seed: int) -> tuple[list[Case], list[Case]]:
    """Patients of the train split, and of the other: the last third, as in CT-RATE's miniature."""
    found = cases(patients, seed, CHEST, "chest")
    held_out = max(1, patients // 3)
    return found[: patients - held_out], found[patients - held_out :]


def _labels(case: Case) -> set[str]:
    return {label for a in case.abnormalities for label in LABELS.get(a, ())}


def write_radgenome(folder: Path, patients: int = 6, seed: int = 0) -> None:
    """RadGenome-ChestCT with volumes of its own; beside a CT-RATE miniature of the same seed it joins that."""
    root = folder / "dataset"
    for part, tables, members in zip(
        ("train", "valid"), ("train", "validation"), _halves(patients, seed), strict=True
    ):
        rows: list[dict[str, str]] = []
        for number, case in enumerate(members, start=1):
            patient = f"{part}_{number}"
            name = f"{patient}_a_1.nii.gz"
            save_nifti(
                root / f"{part}_preprocessed" / patient / f"{patient}_a" / name, case.hu, case.geometry
            )
            rows.append({"Volumename": name, "Anatomy": "", "Sentence": case.findings})
            for organ, text in case.sentences:
                rows.append({"Volumename": name, "Anatomy": region_of(organ), "Sentence": text})
        save_table(
            root / f"radgenome_files/{tables}_region_report.csv", ["Volumename", "Anatomy", "Sentence"], rows
        )


def region_of(organ: str) -> str:
    """The region of RadGenome that a reading organ belongs to.

    >>> region_of("heart"), region_of("aorta"), region_of("liver"), region_of("ribs")
    ('heart', 'mediastinum', 'abdomen', 'bone')
    """
    wide = ("mediastinum", "abdomen", "bone")
    return _REGION.get(organ) or next((r for r in wide if organ in REGIONS[r]), "abdomen")


def write_rexgrounding(folder: Path, patients: int = 6, seed: int = 0) -> None:
    """ReXGroundingCT with the volumes of CT-RATE that it needs; its masks run the other way than they do."""
    document: dict[str, list[dict[str, object]]] = {"train": [], "val": [], "test": []}
    for part, key, members in zip(("train", "valid"), ("train", "val"), _halves(patients, seed), strict=True):
        for number, case in enumerate(members, start=1):
            name = f"{part}_{number}_a_1.nii.gz"
            texts, masks = _outlined(case)
            if not texts:
                continue
            patient = f"{part}_{number}"
            volume = folder / f"dataset/{part}_fixed" / patient / f"{patient}_a" / name
            save_nifti(volume, case.hu, case.geometry)
            save_stack(folder / "segmentations" / name, masks, volume)
            keys = [str(k) for k in range(len(texts))]
            kinds = [_CATEGORY.get(s.abnormality, "2h") for s in case.report.snippets]
            document[key].append(
                {
                    "name": name,
                    "findings": dict(zip(keys, texts, strict=True)),
                    "categories": dict(zip(keys, kinds, strict=True)),
                    "pixels": {k: int(m.sum()) for k, m in zip(keys, masks, strict=True)},
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def _outlined(case: Case) -> tuple[list[str], list[npt.NDArray[np.bool_]]]:
    """Sentences of findings that have a mask, and the masks, (slices, rows, columns)."""
    lesions = case.phantom.lesions.numpy()
    snippets = case.report.snippets
    return [s.text for s in snippets], [lesions == s.mask_value for s in snippets]


def save_stack(path: Path, masks: list[npt.NDArray[np.bool_]], volume: Path) -> None:
    """Canonical masks as one file: first axis the masks, the others R, A, S, where those of the CT are L, P, S."""
    image = nibabel.load(volume)
    canonical = [mask.transpose(2, 1, 0) for mask in masks]  # (L, P, H), as the CT's file
    stack = np.stack([mask[::-1, ::-1] for mask in canonical]).astype(np.uint8)  # (findings, R, A, H)
    shape = np.array(canonical[0].shape)
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:2, 3] = shape[:2] - 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(stack, image.affine @ turn), path)  # type: ignore[no-untyped-call]


def write_rad_chestct(folder: Path, patients: int = 6, seed: int = 0) -> None:
    """Rad-ChestCT; its spacing of 0.8 mm is fixed by the format, so that these bodies are a few cm wide."""
    train, others = _halves(patients, seed)
    held_out = (len(others) + 1) // 2
    abnormalities = sorted({a for m in MAPPINGS.values() for names in m.values() for a in names})
    columns = [KEY, *(f"{a}*{place}" for a in abnormalities for place in _PLACES)]
    summary = []
    number = 0
    for (_, table), members in zip(TABLES, (train, others[:held_out], others[held_out:]), strict=True):
        rows = []
        for case in members:
            number += 1
            name = f"trn{number:05d}" if members is train else f"val{number:05d}"
            hu = np.clip(case.hu[::-1], -1000, 1000)  # (I, P, L)
            (folder / "npz").mkdir(parents=True, exist_ok=True)
            np.savez_compressed(folder / "npz" / f"{name}.npz", ct=hu)
            marks = {f"{a}*{place}" for a, place in (_RAD[label] for label in _labels(case) if label in _RAD)}
            rows.append({KEY: name, **{c: "1" if c in marks else "0" for c in columns[1:]}})
            part = table.partition("_")[0]
            summary.append(
                {PATIENT: f"m{number:05d}", KEY: name, "Set_Assigned": part, "Subset_Assigned": part}
            )
        save_table(folder / table, columns, rows)
    save_table(folder / "Summary_3630.csv", [PATIENT, KEY, "Set_Assigned", "Subset_Assigned"], summary)


def write_inspect(folder: Path, patients: int = 6, seed: int = 0, date: str = "20250611") -> None:
    """INSPECT; its tables in the version of `date`."""
    root = folder / "full"
    mapping, impressions, splits, labels = [], [], [], []
    train, others = _halves(patients, seed)
    held_out = (len(others) + 1) // 2
    number = 0
    for split, members in (("train", train), ("valid", others[:held_out]), ("test", others[held_out:])):
        for case in members:
            number += 1
            key = {"impression_id": 1000 + number}
            image = f"PE{number:06x}"
            save_nifti(root / "CTPA" / f"{image}.nii.gz", case.hu, case.geometry)
            mapping.append({"person_id": 500 + number, **key, "procedure_DATETIME": "", "image_id": image})
            impressions.append({**key, "impressions": f"IMPRESSION: {case.impression}"})
            splits.append({**key, "split": split})
            labels.append({**key, "pe_positive_nlp": False, "pe_acute": False, "12_month_mortality": False})
    for name, rows in (
        ("study_mapping", mapping),
        ("impressions", impressions),
        ("splits", splits),
        ("labels", labels),
    ):
        save_table(root / f"{name}_{date}.tsv", list(rows[0]), rows, delimiter="\t")


__all__ = [
    "region_of",
    "save_stack",
    "write_inspect",
    "write_rad_chestct",
    "write_radgenome",
    "write_rexgrounding",
]
