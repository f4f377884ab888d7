"""Merlin, AbdomenAtlas 3.0 and a table of one's own in small, on abdomens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.datasets.abdomen_atlas import COUNTS, REPORTS, TABLE
from training.datasets.miniature_cases import ABDOMEN, Case, cases, save_nifti, save_table
from training.phantoms.tissues import tissue

# The findings of Merlin's zero-shot table that phantoms can have, and two that they cannot.
_MERLIN = (
    "renal_cyst",
    "hepatic_steatosis",
    "hydronephrosis",
    "gallstones",
    "splenomegaly",
    "pleural_effusion",
    "appendicitis",
    "fracture",
)
_NEVER = ("appendicitis", "fracture")  # no report of a phantom speaks of them: -1
# Masks of AbdomenAtlas and the TotalSegmentator structure that each is.
_ORGANS = {
    "aorta": "aorta",
    "gall_bladder": "gallbladder",
    "kidney_left": "kidney_left",
    "kidney_right": "kidney_right",
    "liver": "liver",
    "pancreas": "pancreas",
    "postcava": "inferior_vena_cava",
    "prostate": "prostate",
    "spleen": "spleen",
    "stomach": "stomach",
}
_LESIONS = {
    "liver_lesion": ("liver_tumour", "liver_cyst"),
    "kidney_lesion": ("renal_tumour", "renal_cyst"),
    "pancreatic_lesion": ("pancreatic_tumour", "pancreatic_cyst"),
    "liver_cyst": ("liver_cyst",),
    "kidney_cyst": ("renal_cyst",),
}


def merlin_text(case: Case, *, heading: bool) -> str:
    """A report as Merlin has it: findings with references, then the impression with or without its heading."""
    findings, _, impression = case.report.text.partition("FINDINGS\n")[2].partition("IMPRESSION\n")
    listed = impression.strip() if impression.startswith("1.") else f"1. {impression.strip()}"
    return f"FINDINGS: {findings.strip()}\n{'IMPRESSION:' if heading else ''}\n{listed}"


def write_merlin(folder: Path, patients: int = 6, seed: int = 0) -> None:
    """Merlin; its reports as CSV, which needs no Excel, with the columns of the published sheet."""
    root = folder / "merlinabdominalctdataset"
    reports, labels = [], []
    for number, case in enumerate(cases(patients, seed, ABDOMEN, "abdomen")):
        name = {"study id": f"AC42{number:05x}"}
        save_nifti(root / "merlin_data" / f"{name['study id']}.nii.gz", case.hu, case.geometry)
        reports.append(
            {
                **name,
                "Findings": merlin_text(case, heading=number % 3 != 2),
                "Split": ("test", "val")[(patients - number) % 2] if number >= patients - 2 else "train",
            }
        )
        known = {finding: int(finding in case.abnormalities) for finding in _MERLIN}
        labels.append({**name, **known, **dict.fromkeys(_NEVER, -1)})
    save_table(root / "reports_final.csv", list(reports[0]), reports)
    save_table(root / "zero_shot_findings_disease_cls.csv", list(labels[0]), labels)


def write_abdomen_atlas(folder: Path, patients: int = 6, seed: int = 0) -> None:
    """AbdomenAtlas 3.0 Mini."""
    rows = []
    found = cases(patients, seed, ABDOMEN, "abdomen")
    for number, case in enumerate(found, start=1):
        name = f"BDMAP_{number:08d}"
        save_nifti(folder / "image_only" / name / "ct.nii.gz", case.hu, case.geometry)
        masks = {
            mask: case.structures == tissue(structure)
            for mask, structure in _ORGANS.items()
            if (case.structures == tissue(structure)).any()
        }
        for mask, kinds in _LESIONS.items():
            values = [p.mask_value for p in case.phantom.planted if p.abnormality in kinds and p.mask_value]
            masks[mask] = np.isin(case.phantom.lesions.numpy(), values)
        for mask, voxels in masks.items():
            path = folder / "mask_only" / name / "segmentations" / f"{mask}.nii.gz"
            save_nifti(path, voxels.astype(np.uint8), case.geometry)
        counted = {
            "liver lesion": ("liver_tumour", "liver_cyst"),
            "pancreatic lesion": ("pancreatic_tumour", "pancreatic_cyst"),
            "kidney lesion": ("renal_tumour", "renal_cyst"),
        }
        height, width, _ = case.geometry.spacing
        rows.append(
            {
                "BDMAP ID": name,
                "spacing": f"({width}, {width}, {height})",
                "shape": str(case.hu.shape[::-1]),
                "contrast": case.phantom.phase,
                **{
                    COUNTS[label]: sum(p.abnormality in kinds for p in case.phantom.planted)
                    for label, kinds in counted.items()
                },
                "narrative report": f"{case.findings} {case.impression}",
                "structured report": f"FINDINGS:\n{case.findings}\nIMPRESSION:\n{case.impression}",
            }
        )
    columns = ["BDMAP ID", "spacing", "shape", "sex", "age", "scanner", "contrast", *COUNTS.values()]
    save_table(folder / TABLE, [*columns, *sorted(REPORTS)], rows)
    names = [row["BDMAP ID"] for row in rows]
    last = max(1, patients // 3)
    for split, members in (("train", names[:-last]), ("test", names[-last:])):
        save_table(folder / f"TrainTestIDS/IID_{split}.csv", ["BDMAP ID"], [{"BDMAP ID": m} for m in members])


def write_table(folder: Path, patients: int = 6, seed: int = 0) -> None:
    """A table of one's own: ``table.csv``, images, and organ masks beside them."""
    rows = []
    for number, case in enumerate(cases(patients, seed, ABDOMEN, "abdomen"), start=1):
        save_nifti(folder / f"images/{number}.nii.gz", case.hu, case.geometry)
        save_nifti(folder / f"masks/{number}.nii.gz", case.structures, case.geometry)
        rows.append(
            {
                "image": f"images/{number}.nii.gz",
                "report": case.report.text,
                "patient": f"MRN{9000 + number}",
                "split": "test" if number == patients else "train",
                "series": case.report.series_number,
                "first_slice": "head",
                "organ_mask": f"masks/{number}.nii.gz",
                "liver tumour": int("liver_tumour" in case.abnormalities),
                "renal cyst": int("renal_cyst" in case.abnormalities),
            }
        )
    save_table(folder / "table.csv", list(rows[0]), rows)


__all__ = ["merlin_text", "write_abdomen_atlas", "write_merlin", "write_table"]
