"""Crops of stored samples: the stream that a training run reads of a real data set.

Batch number n is the same crops whatever the number of processes and workers, so that a run may go on with
others. Not the shards (`training.volume_shards`), and no phantoms (`training.samples`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from training.own_words import OwnWords
from training.phantoms.fields import smooth_noise, uniform
from training.phantoms.tissues import IGNORE
from training.samples import MIN_LESION_VOXELS, MIN_ORGAN_VOXELS, Crop, deformed_grid, sampler
from training.snippets import CropSnippet
from training.volume_shards import Shards, StoredSample

IN_VIEW = 0.5  # of an organ's voxels: with less what is said of it may be of the rest; our choice
MOST_OF_SCAN = 0.8  # of a scan's height: from here on its whole report is said of the crop; our choice
ON_LESIONS = 0.5  # share of the crops that are centred on an outlined lesion, where there is one; our choice


class ShardCrops(IterableDataset[Crop]):
    """An endless stream of deformed crops; every sample comes once per round.

    Parameters
    ----------
    window: (D, H, W) voxels at `spacing_mm`.
    batch: crops of a step, all processes together.
    start: steps that were taken before.
    part: number of this process and their count: which rows of each batch are its own.

    Raises
    ------
    ValueError: if the shards have another spacing, or fewer samples than a batch.
    """

    def __init__(
        self,
        shards: Shards,
        window: Sequence[int],
        spacing_mm: float,
        *,
        seed: int,
        start: int = 0,
        batch: int = 1,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if shards.spacing_mm != spacing_mm:
            raise ValueError(
                f"shards in {shards.folder} have {shards.spacing_mm:g} mm, the config {spacing_mm:g} mm; "
                "make shards with its spacing"
            )
        if len(shards.places) < batch:
            raise ValueError(
                f"{shards.folder} holds {len(shards.places)} samples, a batch has {batch}; add some"
            )
        self.shards, self.window, self.spacing_mm = shards, tuple(window), spacing_mm
        self.seed, self.start, self.batch = seed, start, batch
        rank, size = part
        share = batch // size
        self._rows = range(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[Crop]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        number = self.start + worker  # the loader takes batches from its workers in turn
        order = lru_cache(maxsize=2)(lambda turn: tuple(self.shards.order(self.seed, turn)))
        count = len(self.shards.places)
        while True:
            for row in self._rows:
                n = number * self.batch + row
                sample = self.shards.load(order(n // count)[n % count])
                yield crop_of(sample, np.random.default_rng([self.seed, 1, n]), self.window, self.spacing_mm)
            number += workers


def crop_of(sample: StoredSample, rng: np.random.Generator, window: Sequence[int], spacing_mm: float) -> Crop:
    """A randomly deformed crop of a stored sample, with what is said of what it shows."""
    points = deformed_grid(rng, window, spacing_mm) + _centre(sample, rng, window)  # (D, H, W, 3)
    pull = sampler(points, sample.hu.shape)

    hu = pull(sample.hu.float() + 1024, "bilinear") - 1024
    hu = hu * uniform(rng, 0.97, 1.03) + uniform(rng, -6, 6)
    hu = (hu + smooth_noise(rng, hu.shape, 1) * uniform(rng, 0, 8)).clamp(-1024, 3071)
    labels = pull(sample.organs, "nearest").byte()
    lesions = pull(sample.lesions, "nearest").byte()
    heights = points[:, points.shape[1] // 2, points.shape[2] // 2, 0]  # (D,) in the sample's voxels
    shown = shown_organs(sample.organs, labels)
    return Crop(
        hu=hu[None],
        organs=labels,
        lesions=lesions,
        findings=_findings(sample, labels, lesions, shown),
        snippets=(_snippets(sample, heights),),
        words=(_words(sample, heights, shown),),
    )


def shown_organs(whole: torch.Tensor, labels: torch.Tensor) -> frozenset[str]:
    """Organs of which a crop shows at least `IN_VIEW`.

    Parameters
    ----------
    whole: (D, H, W) uint8 of the sample; labels: of the crop, at the same spacing.
    """
    n = 1 + len(organs())
    before, here = (torch.bincount(v.flatten().long(), minlength=IGNORE + 1)[:n] for v in (whole, labels))
    return frozenset(
        o.name
        for o in organs()
        if int(here[o.label]) >= max(MIN_ORGAN_VOXELS, IN_VIEW * int(before[o.label]))
    )


def _centre(sample: StoredSample, rng: np.random.Generator, window: Sequence[int]) -> torch.Tensor:
    """(3,) middle of the crop: a lesion's voxel, or anywhere that keeps the window within the scan."""
    lesion = sample.lesions.nonzero()
    if len(lesion) and rng.random() < ON_LESIONS:
        return lesion[int(rng.integers(len(lesion)))].float()
    middle = []
    for n, w in zip(sample.hu.shape, window, strict=True):
        half = min(w / 2, n / 2)
        middle.append(uniform(rng, half, n - half) - 0.5)
    return torch.tensor(middle)


def _findings(
    sample: StoredSample, labels: torch.Tensor, lesions: torch.Tensor, shown: frozenset[str]
) -> torch.Tensor:
    """(A,) of the crop: what is said of the sample, as far as the crop shows where it would be."""
    found = sample.findings.clone()
    values = torch.bincount(lesions.flatten().long(), minlength=1 + len(found))
    everywhere = torch.bincount(sample.lesions.flatten().long(), minlength=1 + len(found))
    for i, entry in enumerate(abnormalities()):
        if everywhere[i + 1]:  # outlined: seen or not seen in the crop
            here = int(values[i + 1])
            found[i] = 1.0 if here >= MIN_LESION_VOXELS else 0.0 if here == 0 else -1.0
            in_view = int((labels == organ(entry.organ).label).sum()) >= MIN_ORGAN_VOXELS
            if found[i] == 0 and not in_view:
                found[i] = -1.0
        elif entry.organ not in shown:
            found[i] = -1.0
    return found


def _snippets(sample: StoredSample, heights: torch.Tensor) -> tuple[CropSnippet, ...]:
    found = []
    for snippet in sample.snippets:
        gap = (heights - snippet.slice_index).abs()
        nearest = int(gap.argmin())
        if float(gap[nearest]) < 1:
            found.append(CropSnippet(snippet.text, nearest))
    return tuple(found)


def _words(sample: StoredSample, heights: torch.Tensor, shown: frozenset[str]) -> OwnWords:
    """What the report says of organs that are in view; all of it where the crop shows most of the scan."""
    about = tuple(w for w in sample.words.organs if w.organ in shown)
    covered = float(heights.max() - heights.min() + 1) / sample.hu.shape[0]
    report = sample.words.report if covered >= MOST_OF_SCAN else tuple(w.text for w in about)
    return OwnWords(about, report)


__all__ = ["ShardCrops", "crop_of", "shown_organs"]
