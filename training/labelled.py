"""Labelled tumour sets of real CT (Medical Segmentation Decathlon layout) as training samples.

Reads ``dataset.json``, ``imagesTr`` and ``labelsTr``, brings each case to the model's grid once,
and gives deformed crops of them. Nothing is downloaded, and no set comes with the project.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from core_model.abnormality import abnormalities
from core_model.volume import canonical, to_model_grid
from training.datasets.files import stem
from training.datasets.msd import INDEX, inside, read_index
from training.phantoms.dicom import nearest
from training.phantoms.fields import smooth_noise, uniform
from training.samples import MIN_LESION_VOXELS, Crop, deformed_grid, sampler

ON_LESIONS = 0.67  # share of the crops that are centred on a lesion, where the case has one; our choice


@dataclass(frozen=True)
class LabelledFiles:
    """One case of a set on disk."""

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class LabelledCase:
    """One case on the model's grid.

    Attributes
    ----------
    hu: (D, H, W) int16 Hounsfield units.
    organs: (D, H, W) uint8, the label of the organ that is searched, 0 elsewhere.
    lesions: (D, H, W) uint8, 1 + index of the abnormality in the dictionary, 0 where none.
    """

    hu: torch.Tensor
    organs: torch.Tensor
    lesions: torch.Tensor


def labelled_files(folder: Path) -> tuple[dict[str, Any], list[LabelledFiles]]:
    """The training cases of a set in the Decathlon's layout.

    Returns
    -------
    The content of ``dataset.json``, and the cases in its order.

    Raises
    ------
    ValueError: if ``dataset.json`` or a file that it names is missing or leaves the folder, or the
        set is not CT.
    """
    about, cases = read_index(folder), []
    for entry in about["training"]:
        image, label = (inside(folder, entry[kind]) for kind in ("image", "label"))
        if image is None or label is None:
            missing = Path(entry["image" if image is None else "label"]).name
            raise ValueError(
                f"{folder / INDEX} names {missing}, which is not in {folder}; download the set whole"
            )
        cases.append(LabelledFiles(stem(image.name), image, label))
    if not cases:
        raise ValueError(f"{folder / INDEX} lists no training case")
    return about, cases


def load_case(
    files: LabelledFiles, spacing_mm: float
) -> tuple[torch.Tensor, npt.NDArray[np.uint8], hd.VolumeGeometry]:
    """A case on the model's grid.

    Returns
    -------
    (1, 1, D, H, W) HU, (D, H, W) uint8 labels of the set, and their geometry.

    Raises
    ------
    ValueError: if the image is not 3D, or its labels lie on another grid.
    """
    image, labels = (cast(nib.Nifti1Image, nib.load(p)) for p in (files.image, files.labels))
    if len(image.shape) != 3 or image.shape != labels.shape:
        raise ValueError(
            f"{files.name}: image has shape {image.shape}, labels {labels.shape}; "
            "two equal 3D shapes are needed"
        )
    if not np.allclose(image.affine, labels.affine, atol=1e-2):
        raise ValueError(f"{files.name}: image and labels lie on different grids; resample one of them")
    hu_array = np.asarray(image.dataobj, dtype=np.float32)
    label_array = np.asarray(labels.dataobj).astype(np.uint8)
    volume, truth = (
        canonical(hd.Volume.from_nibabel(nib.Nifti1Image(a, image.affine)))  # type: ignore[no-untyped-call]
        for a in (hu_array, label_array)
    )
    hu, geometry = to_model_grid(volume, spacing_mm)
    values = torch.from_numpy(np.ascontiguousarray(truth.array))
    return hu, nearest(values, truth.get_geometry(), geometry), geometry


class LabelledCrops(IterableDataset[Crop]):
    """An endless stream of deformed crops; sample n is the same wherever the stream is entered.

    Every case comes once per round, in an order of the round's own.

    Parameters
    ----------
    cases: at least one.
    window, spacing_mm: the model's.
    abnormality: index in the dictionary; all others are unknown here.
    start: batches that were taken before.
    batch: crops per batch, as the loader takes them.
    """

    def __init__(
        self,
        cases: Sequence[LabelledCase],
        window: Sequence[int],
        spacing_mm: float,
        *,
        abnormality: int,
        seed: int,
        start: int = 0,
        batch: int = 1,
    ) -> None:
        self.cases, self.window, self.spacing_mm = list(cases), tuple(window), spacing_mm
        self.abnormality, self.seed, self.start, self.batch = abnormality, seed, start, batch

    def __iter__(self) -> Iterator[Crop]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        number = self.start + worker
        while True:
            for n in range(number * self.batch, (number + 1) * self.batch):
                yield self._sample(n)
            number += workers

    def _sample(self, n: int) -> Crop:
        count = len(self.cases)
        order = np.random.default_rng([self.seed, 0, n // count]).permutation(count)
        case = self.cases[int(order[n % count])]
        rng = np.random.default_rng([self.seed, 1, n])
        points = deformed_grid(rng, self.window, self.spacing_mm) + _centre(case, rng)  # (D, H, W, 3)
        pull = sampler(points, case.hu.shape)

        hu = pull(case.hu.float() + 1024, "bilinear") - 1024
        hu = hu * uniform(rng, 0.97, 1.03) + uniform(rng, -6, 6)
        hu = (hu + smooth_noise(rng, hu.shape, 1) * uniform(rng, 0, 12)).clamp(-1024, 3071)
        lesions = pull(case.lesions, "nearest").byte()
        findings = torch.full((len(abnormalities()),), -1.0)
        findings[self.abnormality] = float(int((lesions > 0).sum()) >= MIN_LESION_VOXELS)
        return Crop(
            hu=hu[None], organs=pull(case.organs, "nearest").byte(), lesions=lesions, findings=findings
        )


def _centre(case: LabelledCase, rng: np.random.Generator) -> torch.Tensor:
    """(3,) a voxel of a lesion or of the organ; the middle where there is neither."""
    lesion, organ = (v.nonzero() for v in (case.lesions, case.organs))
    pool = lesion if len(lesion) and (rng.random() < ON_LESIONS or not len(organ)) else organ
    if not len(pool):
        return torch.tensor([(n - 1) / 2 for n in case.hu.shape])
    return pool[int(rng.integers(len(pool)))].float()
