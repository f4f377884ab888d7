"""Rad-ChestCT: chest CTs as npz with 84 abnormalities at 52 places, mapped to CT-RATE's 18 labels.

Layout: Zenodo record 6406114. No report is published. How its abnormalities map to CT-RATE's labels is not
agreed upon: three mappings are in use, and figures of different ones cannot be compared. The mapping is
named, chosen, and noted in each record.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.datasets.ct_rate import vocabulary
from training.datasets.files import OTHER_LABELS, Tables, match, volume_of
from training.datasets.sample import Problem, Record, Sample, Split, UnusableSampleError

SPACING_MM = 0.8  # of all three axes
KEY, PATIENT = "NoteAcc_DEID", "MRN_DEID"
TABLES: tuple[tuple[Split, str], ...] = (
    ("train", "imgtrain_Abnormality_and_Location_Labels.csv"),
    ("validation", "imgvalid_Abnormality_and_Location_Labels.csv"),
    ("test", "imgtest_Abnormality_and_Location_Labels.csv"),
)
# Indices of the array run to feet, back and left: (I, P, L) in LPS mm is the rows of model axes (L, P, S).
_RAS = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)

_DEVICES = (
    "breast_implant",
    "catheter_or_port",
    "chest_tube",
    "clip",
    "gi_tube",
    "hardware",
    "pacemaker_or_defib",
    "staple",
    "stent",
    "suture",
    "tracheal_tube",
)
_SAME: Mapping[str, tuple[str, ...]] = {
    "Cardiomegaly": ("cardiomegaly",),
    "Pericardial effusion": ("pericardial_effusion",),
    "Hiatal hernia": ("hernia",),
    "Lymphadenopathy": ("lymphadenopathy",),
    "Emphysema": ("emphysema",),
    "Atelectasis": ("atelectasis",),
    "Pleural effusion": ("pleural_effusion",),
    "Peribronchial thickening": ("bronchial_wall_thickening",),
    "Consolidation": ("consolidation",),
    "Interlobular septal thickening": ("septal_thickening",),
}
# Name of a mapping -> CT-RATE's label -> abnormalities of the set, any of which makes it present. A label
# that a mapping leaves out is unknown under it.
MAPPINGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # CT-CLIP and HLIP: calcification counts for both walls. They give no list of devices; RadFinder's is
    # taken.
    "ct-clip": {
        **_SAME,
        "Medical material": _DEVICES,
        "Arterial wall calcification": ("calcification",),
        "Coronary artery wall calcification": ("calcification",),
        "Lung nodule": ("nodule",),
        "Lung opacity": ("opacity",),
        "Pulmonary fibrotic sequela": ("fibrosis",),
        "Bronchiectasis": ("bronchiectasis",),
    },
    # RadFinder, configs/tasks/binary_zs/radchestct_to_ctrate18_standard.json
    "radfinder-standard": {
        **_SAME,
        "Medical material": _DEVICES,
        "Arterial wall calcification": ("calcification",),
        "Coronary artery wall calcification": ("calcification",),
        "Lung nodule": ("nodule", "nodulegr1cm"),
        "Lung opacity": ("opacity",),
        "Pulmonary fibrotic sequela": ("scarring",),
        "Bronchiectasis": ("bronchiectasis",),
    },
    # RadFinder, configs/tasks/binary_zs/radchestct_to_ctrate18.json
    "radfinder-broad": {
        **_SAME,
        "Medical material": (*_DEVICES, "cabg", "heart_valve_replacement", "sternotomy"),
        "Arterial wall calcification": ("atherosclerosis",),
        "Coronary artery wall calcification": ("coronary_artery_disease",),
        "Lung nodule": ("nodule", "nodulegr1cm"),
        "Lung opacity": ("airspace_disease", "groundglass", "infiltrate", "opacity"),
        "Pulmonary fibrotic sequela": (
            "fibrosis",
            "honeycombing",
            "interstitial_lung_disease",
            "reticulation",
            "scarring",
        ),
        "Mosaic attenuation pattern": ("air_trapping",),
        "Bronchiectasis": ("bronchiectasis", "bronchiolectasis"),
    },
}
DEFAULT_MAPPING = "radfinder-standard"


class RadChestCt:
    """Rad-ChestCT on disk, whole or in part.

    Parameters
    ----------
    folder: of the label tables; npz files at any depth below.
    mapping: one of `MAPPINGS`; also the note ``"label_mapping"`` of each record. Name it with every figure.

    Raises
    ------
    ValueError: if `mapping` is unknown.
    """

    name = "Rad-ChestCT"

    def __init__(self, folder: Path, mapping: str = DEFAULT_MAPPING) -> None:
        if mapping not in MAPPINGS:
            raise ValueError(f"label mapping {mapping!r} is unknown; choose of {', '.join(MAPPINGS)}")
        self.mapping = mapping
        self.vocabulary = tuple(label for label in vocabulary() if label in MAPPINGS[mapping])
        self._problems: list[Problem] = []
        tables = Tables(self._problems)
        summary = folder / "Summary_3630.csv"
        patients = tables.read(summary, KEY, (PATIENT,)) if summary.exists() else {}
        found: dict[str, tuple[Split, dict[str, bool]]] = {}
        for split, file_name in TABLES:
            if (folder / file_name).exists():
                for name, row in tables.read(folder / file_name, KEY, reader=_abnormalities).items():
                    found[name] = (split, self._labels(row, file_name))
        if not found:
            self._problems.append(Problem("img*_Abnormality_and_Location_Labels.csv", "table is missing"))
        files = {p.stem: p for p in sorted(folder.rglob("*.npz"))}
        self._records = [
            Record(
                name,
                patients[name][PATIENT] if name in patients else name,
                found[name][0],
                image,
                labels=found[name][1],
                notes={"label_mapping": mapping},
            )
            for name, image in match(found, files, self._problems)
        ]

    @staticmethod
    def recognises(folder: Path) -> bool:
        """One of the label tables."""
        return any((folder / file_name).is_file() for _, file_name in TABLES)

    def records(self) -> Sequence[Record]:
        """All volumes with labels, in the tables' order."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Volumes without labels, labels without a volume, abnormalities that the tables lack."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One volume; HU were clipped to -1000..1000 by the authors.

        Raises
        ------
        UnusableSampleError: if the file is no npz with the array ``ct``.
        """
        try:
            with np.load(record.image, allow_pickle=False) as archive:
                array: npt.NDArray[Any] = archive["ct"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UnusableSampleError("image is unreadable", type(error).__name__) from error
        spacing = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
        return Sample(record, volume_of(array.astype(np.float32), _RAS @ spacing))

    def _labels(self, row: Mapping[str, str], table: str) -> dict[str, bool]:
        """CT-RATE's labels of one row; a label of which the table lacks every abnormality stays unknown."""
        known: dict[str, bool] = {}
        for label in self.vocabulary:
            there = [a for a in MAPPINGS[self.mapping][label] if a in row]
            if there:
                known[label] = any(row[a] == "1" for a in there)
            else:
                problem = Problem(table, OTHER_LABELS, f"has no abnormality of {label!r}")
                if problem not in self._problems:
                    self._problems.append(problem)
        return known


def _abnormalities(path: Path) -> Iterator[Mapping[str, str]]:
    """The rows of a label table, one column per abnormality instead of 52: "1" where any place has it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        columns: dict[str, list[int]] = {}
        for index, column in enumerate(header):
            columns.setdefault(column.partition("*")[0], []).append(index)
        for cells in reader:
            marked = {i for i, cell in enumerate(cells) if cell in {"1", "1.0"}}
            row = {name: "1" if marked.intersection(at) else "0" for name, at in columns.items()}
            yield {**row, **({KEY: cells[columns[KEY][0]]} if KEY in columns and cells else {})}


__all__ = ["DEFAULT_MAPPING", "MAPPINGS", "RadChestCt"]
