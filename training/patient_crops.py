"""Crops of stored patients for the second look: where they are cut, and how much each voxel counts.

Crop number n of a seed is always the same, whoever asks for it and when: so a run that was interrupted goes
on with the crops that it would have had. No network here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from core_model.second_look import limited
from training.stored_patients import PatientFile, Spot, from_bytes

AIR_HU = -1000
COUNTED_VOXELS = 64  # a lesion of so many voxels counts `LESION_WEIGHT` in each, smaller ones more
LESION_WEIGHT = 3.0
LESS, MORE = 0.3, 4.0  # limits of what size does to it


@dataclass(frozen=True)
class CropPlan:
    """Where crops are cut.

    Attributes
    ----------
    size: (D, H, W) voxels, multiples of `core_model.second_look.STRIDE`.
    lesions: share of the crops that are cut round a lesion; the others round a voxel of an organ that has
        tumours.
    balance: abnormality k with n lesions is drawn like n ** balance.
    tumours: how many times as often tumours are drawn as other abnormalities.
    shift: voxels that a crop is moved at most, along each axis.
    gain, offset_hu, noise_hu: how far grey values are changed: relative, in HU, by white noise up to so much.
    mirrored: share of the crops in which right and left are exchanged.
    turned: share of the crops that are turned about the long axis, by `angle` degrees at most, and stretched
        by up to `stretch`, each axis by itself.

    Raises
    ------
    ValueError: if a share is not from 0 to 1, or `stretch` not from 0 to 0.5; the message names it.
    """

    size: tuple[int, int, int] = (32, 48, 48)
    lesions: float = 0.6
    balance: float = 0.8
    tumours: float = 2.0
    shift: int = 10
    gain: float = 0.05
    offset_hu: float = 6.0
    noise_hu: float = 7.0
    mirrored: float = 0.0
    turned: float = 0.0
    angle: float = 15.0
    stretch: float = 0.2

    def __post_init__(self) -> None:
        for name in ("lesions", "mirrored", "turned"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"crops {name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if not 0 <= self.stretch <= 0.5:
            raise ValueError(f"crops stretch is {self.stretch}; choose from 0 to 0.5")


class PatientCrops(Dataset[dict[str, torch.Tensor]]):
    """Crops by number.

    Parameters
    ----------
    files: of `training.stored_patients.patient_files`.
    kinds: of the abnormalities that first masks are of, the indices of those that are drawn again.
    tumours: those of `kinds` that are tumours.
    organs: labels of the organs round which crops without a lesion are cut.
    seed: of the run.

    Raises
    ------
    ValueError: if no patient has a lesion, or a file is damaged.
    """

    def __init__(
        self,
        files: Sequence[Path],
        plan: CropPlan,
        *,
        kinds: Sequence[int],
        tumours: set[int],
        organs: Sequence[int],
        seed: int,
    ) -> None:
        self._patients = [PatientFile(f) for f in files]
        self._plan = plan
        self._kinds = list(kinds)
        self._class = {kind: n for n, kind in enumerate(kinds, start=1)}
        self._organs = tuple(organs)
        self._seed = seed
        spots: dict[int, list[tuple[int, Spot]]] = {}
        for number, patient in enumerate(self._patients):
            for spot in (s for s in patient.spots if s.kind in self._class):
                spots.setdefault(spot.kind, []).append((number, spot))
        if not spots:
            raise ValueError(f"none of {len(files)} patients has such a lesion; store more of them")
        self._spots = [spots[k] for k in sorted(spots)]
        chance = [
            len(spots[k]) ** plan.balance * (plan.tumours if k in tumours else 1) for k in sorted(spots)
        ]
        self._chance = np.array(chance) / sum(chance)

    @property
    def lesions(self) -> int:
        """How many lesions there are."""
        return sum(len(own) for own in self._spots)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """One crop.

        Returns
        -------
        "hu" (float), "label", "organs", "first" (bytes, K of them), "kind" (0 none, 1 + k), "weight",
        and the patient's "medians". Voxels of other abnormalities count as none.
        """
        rng = np.random.default_rng([self._seed, number])
        if rng.random() < self._plan.lesions:
            own = self._spots[rng.choice(len(self._spots), p=self._chance)]
            index, spot = own[rng.integers(len(own))]
            patient, centre = self._patients[index], np.array(spot.centre)
        else:
            patient = self._patients[rng.integers(len(self._patients))]
            centre = self._of_an_organ(patient, rng)
        centre = centre + rng.integers(-self._plan.shift, self._plan.shift + 1, 3)
        # What is not wanted is not drawn: plans without it keep the crops that they have.
        mirrored = self._plan.mirrored > 0 and rng.random() < self._plan.mirrored
        if self._plan.turned > 0 and rng.random() < self._plan.turned:
            crop = self._turned(patient, centre, rng)
        else:
            crop = self._cut(patient, centre, self._plan.size)
        if mirrored:
            crop = {name: value.flip(-1) for name, value in crop.items()}
        hu = crop["hu"].float()
        hu = hu * float(1 + self._plan.gain * rng.uniform(-1, 1)) + float(rng.normal(0, self._plan.offset_hu))
        noise = rng.standard_normal(hu.shape, dtype=np.float32) * rng.uniform(0, self._plan.noise_hu)
        classes = [self._class.get(s.kind, 0) for s in patient.spots]
        counts = [_weight(s.voxels) if c else 1.0 for s, c in zip(patient.spots, classes, strict=True)]
        lesions = crop["lesions"].long()
        return {
            "hu": hu + torch.from_numpy(noise.astype(np.float32)),
            "label": crop["label"],
            "organs": crop["organs"],
            "first": crop["first"],
            "kind": torch.tensor([0, *classes], dtype=torch.uint8)[lesions],
            "weight": torch.tensor([1.0, *counts])[lesions],
            "medians": patient.medians,
        }

    def _of_an_organ(self, patient: PatientFile, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        label = patient.whole("label").numpy()
        for organ in rng.permutation(self._organs):
            own = np.flatnonzero(label == organ)
            if len(own):
                return np.array(np.unravel_index(own[rng.integers(len(own))], label.shape))
        return np.array([rng.integers(n) for n in label.shape])

    def _turned(
        self, patient: PatientFile, centre: np.ndarray[Any, Any], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """A box round a voxel, turned and stretched: grey values and first masks between voxels, the rest by
        the nearest."""
        angle = np.deg2rad(rng.uniform(-self._plan.angle, self._plan.angle))
        z, y, x = 1 + rng.uniform(-self._plan.stretch, self._plan.stretch, 3)
        c, s = np.cos(angle), np.sin(angle)
        to_source = np.array([[z, 0, 0], [0, c * y, -s * x], [0, s * y, c * x]])
        half = np.array(self._plan.size) / 2
        wide = 2 * np.ceil(np.abs(to_source) @ half).astype(int) + 2
        source = self._cut(patient, centre, (int(wide[0]), int(wide[1]), int(wide[2])))
        steps = [torch.arange(n) - (n - 1) / 2 for n in self._plan.size]
        grid = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1)  # (D, H, W, 3), from the middle
        places = grid @ torch.from_numpy(to_source).float().T * 2 / torch.from_numpy(wide).float()
        where = places.flip(-1)[None]  # (1, D, H, W, 3), as `grid_sample` wants them: x, y, z from -1 to 1

        def sampled(values: torch.Tensor, mode: str) -> torch.Tensor:
            """(C, d, h, w) -> (C, D, H, W)."""
            moved: torch.Tensor = F.grid_sample(
                values[None].float(), where, mode, "border", align_corners=False
            )
            return moved[0]

        between = sampled(torch.cat([source["hu"][None].float(), source["first"].float()]), "bilinear")
        names = ("label", "lesions", "organs")
        nearest = sampled(torch.stack([source[name] for name in names]), "nearest").to(torch.uint8)
        first = between[1:].round().to(torch.uint8)
        return {"hu": between[0], "first": first, **dict(zip(names, nearest, strict=True))}

    def _cut(
        self, patient: PatientFile, centre: np.ndarray[Any, Any], size: tuple[int, int, int]
    ) -> dict[str, torch.Tensor]:
        """A box round a voxel, with the first masks that are wanted; beyond the scan there is air."""
        low = [int(c) - n // 2 for c, n in zip(centre, size, strict=True)]
        low = [min(max(a, 1 - n), m - 1) for a, n, m in zip(low, size, patient.shape, strict=True)]
        box: list[slice] = []
        ends: list[int] = []
        for a, n, m in zip(low, size, patient.shape, strict=True):
            box.append(slice(max(a, 0), min(a + n, m)))
            ends = [max(-a, 0), max(a + n - m, 0), *ends]
        inside = patient.box((box[0], box[1], box[2]))
        inside["first"] = inside["first"][self._kinds]
        return {k: F.pad(v, ends, value=AIR_HU if k == "hu" else 0) for k, v in inside.items()}


def _weight(voxels: int) -> float:
    """How much each voxel of a lesion counts."""
    return LESION_WEIGHT * min(max(math.sqrt(COUNTED_VOXELS / voxels), LESS), MORE)


def first_logits(crop: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, K, D, H, W) logits of the first masks of collated crops."""
    return limited(from_bytes(crop["first"]))
