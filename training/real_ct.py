"""Organ Dice on real CT: a NIfTI file or a folder of them, with reference label maps.

It only measures; nothing is chosen or trained by it. References are TotalSegmentator v2 label
maps on the CT's own grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import highdicom as hd
import nibabel
import numpy as np

from core_model.anatomy import organs, v2_to_reading
from core_model.reader import Reader
from core_model.volume import canonical
from training.bootstrap import Estimate, Weights, bootstrap
from training.judging import organ_dice
from training.metrics import macro, mean

MIN_ORGAN_ML = 1.0
_ENDINGS = (".nii.gz", ".nii")
_CHANNEL = "_0000"  # nnU-Net's folders name the CT case_0000.nii.gz and its labels case.nii.gz


def pairs(images: Path, labels: Path) -> list[tuple[str, Path, Path]]:
    """(name, CT, labels) of one pair of files, or of two folders by file name.

    Raises
    ------
    FileNotFoundError: if a path is missing, a folder holds no NIfTI, or a CT has no labels.
    ValueError: if one is a folder and the other is not.
    """
    for path in (images, labels):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    if images.is_dir() != labels.is_dir():
        raise ValueError(f"{images} and {labels} must both be files or both be folders")
    if not images.is_dir():
        return [(_name(images), images, labels)]
    known = {_name(p): p for p in _niftis(labels)}
    found = [(_name(p), p) for p in _niftis(images)]
    if not found:
        raise FileNotFoundError(f"{images} holds no .nii or .nii.gz file")
    missing = [name for name, _ in found if name not in known]
    if missing:
        raise FileNotFoundError(f"{labels} holds no labels for {', '.join(missing)}; name them as the CT")
    return [(name, image, known[name]) for name, image in found]


def _niftis(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.endswith(_ENDINGS))


def _name(path: Path) -> str:
    name = path.name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name.removesuffix(_CHANNEL)


def real_ct_dice(reader: Reader, image_path: Path, labels_path: Path) -> dict[str, float]:
    """Dice per reading organ on a NIfTI CT with TotalSegmentator v2 labels on the same grid.

    Raises
    ------
    ValueError: if image and labels do not share their grid.
    """
    image, labels = (cast(nibabel.Nifti1Image, nibabel.load(p)) for p in (image_path, labels_path))
    if image.shape != labels.shape or not np.allclose(image.affine, labels.affine, atol=1e-2):
        raise ValueError(f"{labels_path.name} lies on another grid than {image_path.name}; resample it first")
    table = np.zeros(256, dtype=np.uint8)
    for value, label in v2_to_reading().items():
        table[value] = label
    truth = table[np.asanyarray(labels.dataobj).astype(np.uint8)]
    hu = np.asarray(image.dataobj, dtype=np.float32)
    volume, reference = (
        canonical(hd.Volume.from_nibabel(nibabel.Nifti1Image(a, image.affine)))  # type: ignore[no-untyped-call]
        for a in (hu, truth)
    )
    reading = reader.read(volume)
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    return organ_dice(
        reading.organ_mask.array, reference.array, min_voxels=max(1, round(MIN_ORGAN_ML / voxel_ml))
    )


def summarise(cases: dict[str, dict[str, float]], draws: int) -> dict[str, Any]:
    """Figures over real CTs, ready for JSON.

    Parameters
    ----------
    cases: name -> organ -> Dice.
    draws: of the bootstrap by scan; with one scan there is no interval.

    Returns
    -------
    "organ_dice": mean per organ; "mean_organ_dice": of one scan the mean over its organs, of
    several the mean over organs of their means; "interval" of it; "cases".
    """
    names = [o.name for o in organs() if any(o.name in case for case in cases.values())]
    table = {n: np.array([case.get(n, np.nan) for case in cases.values()]) for n in names}

    def figures(weights: Weights) -> dict[str, float | None]:
        each = {n: mean(v, weights) for n, v in table.items()}
        return {"mean_organ_dice": macro(each.values()), **each}

    found: dict[str, Estimate] = bootstrap(figures, len(cases), draws if len(cases) > 1 else 0)
    whole = found.pop("mean_organ_dice")
    return {
        "organ_dice": {n: e.value for n, e in found.items()},
        "mean_organ_dice": whole.value,
        "interval": None if whole.low is None else [whole.low, whole.high],
        "cases": cases,
    }
