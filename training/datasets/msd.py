"""Medical Segmentation Decathlon: tasks 03, 06, 07, 08, 09 and 10, those that are CT.

Layout: medicaldecathlon.com; Antonelli et al., Nature Communications 2022, doi 10.1038/s41467-022-30695-9.
A folder is one task (``dataset.json``, ``imagesTr``, ``labelsTr``, ``imagesTs``) or holds several. Task 03
has the patients of LiTS under the same numbers: both sets call them ``liver_N``, so that splits by patient
hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from training.datasets.files import NOT_ON_DISK, OTHER_LABELS, niftis, read_ct, read_mask, stem
from training.datasets.label_values import LabelValues
from training.datasets.sample import Problem, Record, Sample, Split

INDEX = "dataset.json"
IN_NO_INDEX = "file in no dataset.json"


@dataclass(frozen=True)
class DecathlonTask:
    """One task.

    Attributes
    ----------
    name: in ``dataset.json``.
    labels: what ``dataset.json`` calls the values, in lower case.
    values: what they mean here.
    """

    name: str
    labels: tuple[str, ...]
    values: LabelValues


# Our reading of what each task outlines. Task 07: a mass is a tumour or a cyst, so of cysts nothing is said.
# Task 08: vessels of the liver are hepatic and portal veins in one. Tasks 06, 08 and 10: no organ.
TASKS: Mapping[int, DecathlonTask] = MappingProxyType(
    {
        3: DecathlonTask(
            "Liver",
            ("background", "liver", "cancer"),
            LabelValues("liver", (1, 2), {2: "liver_tumour"}, frozenset({"liver_tumour"})),
        ),
        6: DecathlonTask(
            "Lung",
            ("background", "cancer"),
            LabelValues(abnormalities={1: "lung_nodule"}, exhaustive=frozenset({"lung_nodule"})),
        ),
        7: DecathlonTask(
            "Pancreas",
            ("background", "pancreas", "cancer"),
            LabelValues("pancreas", (1, 2), {2: "pancreatic_tumour"}, frozenset({"pancreatic_tumour"})),
        ),
        8: DecathlonTask(
            "HepaticVessel",
            ("background", "vessel", "tumour"),
            LabelValues(
                abnormalities={2: "liver_tumour"}, exhaustive=frozenset({"liver_tumour"}), other_values=(1,)
            ),
        ),
        9: DecathlonTask("Spleen", ("background", "spleen"), LabelValues("spleen", (1,))),
        10: DecathlonTask(
            "Colon",
            ("background", "colon cancer primaries"),
            LabelValues(abnormalities={1: "colon_tumour"}, exhaustive=frozenset({"colon_tumour"})),
        ),
    }
)


def read_index(folder: Path) -> dict[str, Any]:
    """The content of a Decathlon set's ``dataset.json``.

    Raises
    ------
    ValueError: if it is missing or no such index, or the set is not CT.
    """
    index = folder / INDEX
    try:
        about: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        entries = [(str(e["image"]), str(e["label"])) for e in about["training"]]
        modality = set(map(str, about.get("modality", {"0": "CT"}).values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} is no index of a labelled set ({error}); it needs a list 'training' of image and label"
        ) from error
    if modality != {"CT"}:
        raise ValueError(f"{index} says modality {sorted(modality)}; only CT can be read")
    return {**about, "training": [{"image": image, "label": label} for image, label in entries]}


def inside(folder: Path, name: str) -> Path | None:
    """The file that an index names; None where it is not there or leaves the folder."""
    root = folder.resolve()
    path = (root / name).resolve()
    return path if path.is_relative_to(root) and path.is_file() else None


class Decathlon:
    """One task or several.

    Parameters
    ----------
    folder: of a task, or of folders of tasks.
    """

    name = "MSD"
    vocabulary: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._records: list[Record] = []
        self._problems: list[Problem] = []
        self._labels: dict[str, tuple[Path | None, LabelValues]] = {}
        for task in _task_folders(folder):
            self._read(task)

    @staticmethod
    def recognises(folder: Path) -> bool:
        """``dataset.json`` beside ``imagesTr`` and ``labelsTr``, here or in folders called ``TaskNN_...``."""
        return bool(_task_folders(folder))

    def records(self) -> Sequence[Record]:
        """Labelled cases as ``train``, the others as ``test``; task by task."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Tasks that are not read, cases without a file, files that no index names."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One case; those of the test split have no masks.

        Raises
        ------
        UnusableSampleError: if a file is corrupt, the grids differ, or the labels are those of another task.
        """
        volume = read_ct(record.image)
        path, values = self._labels[record.name]
        return (
            Sample(record, volume) if path is None else values.sample(record, volume, read_mask(path, volume))
        )

    def _read(self, folder: Path) -> None:
        try:
            about = read_index(folder)
        except ValueError:
            self._problems.append(Problem(folder.name, "index is unreadable, or not of CT", INDEX))
            return
        number, task = _task_of(folder, about)
        if task is None:
            self._problems.append(Problem(folder.name, "task is none that is read", str(sorted(TASKS))))
            return
        said = tuple(str(v).lower() for _, v in sorted(about.get("labels", {}).items()))
        if said != task.labels:
            self._problems.append(Problem(folder.name, OTHER_LABELS, f"{said} and not {task.labels}"))
            return
        notes = MappingProxyType({"task": f"Task{number:02d}_{task.name}"})
        tests = [{"image": str(e["image"] if isinstance(e, dict) else e)} for e in about.get("test", [])]
        splits: tuple[tuple[Split, list[dict[str, str]]], ...] = (
            ("train", about["training"]),
            ("test", tests),
        )
        listed = set()
        for split, entries in splits:
            for entry in entries:
                paths = {kind: inside(folder, name) for kind, name in entry.items()}
                name = stem(Path(entry["image"]).name)
                listed |= {path for path in paths.values() if path is not None}
                if (image := paths["image"]) is None or None in paths.values():
                    missing = [kind for kind, path in paths.items() if path is None]
                    self._problems.append(Problem(name, NOT_ON_DISK, " and ".join(missing)))
                    continue
                self._labels[name] = (paths.get("label"), task.values)
                self._records.append(Record(name, name, split, image, notes=notes))
        for path in niftis(folder):
            if path.resolve() not in listed:
                self._problems.append(Problem(stem(path.name), IN_NO_INDEX, path.parent.name))


def _is_task(folder: Path) -> bool:
    return (folder / INDEX).is_file() and all((folder / n).is_dir() for n in ("imagesTr", "labelsTr"))


def _task_folders(folder: Path) -> list[Path]:
    if _is_task(folder):
        return [folder]
    if not folder.is_dir():
        return []
    return [f for f in sorted(folder.glob("Task[0-9][0-9]_*")) if _is_task(f)]


def _task_of(folder: Path, about: Mapping[str, Any]) -> tuple[int, DecathlonTask | None]:
    """By the folder's name; by that in the index where the folder was renamed."""
    found = re.match(r"Task(\d\d)_", folder.name)
    if found is not None:
        return int(found[1]), TASKS.get(int(found[1]))
    name = str(about.get("name", "")).lower()
    return next(((n, task) for n, task in TASKS.items() if task.name.lower() == name), (0, None))


__all__ = ["TASKS", "Decathlon", "DecathlonTask", "inside", "read_index"]
