"""Anatomy from label maps of real patients (TotalSegmentator class ids), dressed with a body.

Not a segmentation and not an image: a label map names organs only, so what a CT shows
between them (muscle, fat, skin, the table, forearms) is grown here round the labels. The
scanner paints the result; `training.samples` deforms it. As SynthSeg does with label maps.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from core_model.anatomy import structures
from core_model.volume import canonical
from training.phantoms.fields import smooth_noise, uniform
from training.phantoms.tissues import (
    DISC,
    FAT,
    MUSCLE,
    N_TISSUES,
    OTHER_BONE,
    OTHER_VESSEL,
    SKIN,
    TABLE,
    UNCERTAIN_BOWEL,
    Anatomy,
)

MARGIN_MM = 60.0  # air round the labels: room for fat, arms and the table


def find_label_maps(folder: Path) -> list[Path]:
    """The NIfTI label maps directly in `folder`, sorted by name.

    Raises
    ------
    FileNotFoundError: if there is none; the message says what is expected.
    """
    found = sorted(p for p in folder.glob("*.nii*") if p.is_file())
    if not found:
        raise FileNotFoundError(
            f"folder {folder} holds no *.nii or *.nii.gz label map; give a folder of TotalSegmentator "
            "v2 'total' label maps (uint8), with labels.tsv beside where the ids are others"
        )
    return found


def _table_of(path: Path) -> npt.NDArray[np.uint8] | None:
    """Other ids -> tissue values by the `labels.tsv` beside the map; None where ids are v2 already."""
    table_path = path.parent / "labels.tsv"
    if not table_path.exists():
        return None
    known = {s.name: s.v2_id for s in structures() if s.v2_id is not None}
    table = np.zeros(1024, np.uint8)
    for row in csv.DictReader(table_path.read_text(encoding="utf-8").splitlines(), delimiter="\t"):
        table[int(row["label"])] = _tissue_of(row["name"].lower(), row["totalsegmentator_name"], known)
    return table


def _tissue_of(name: str, v2_name: str, known: dict[str, int]) -> int:
    first = v2_name.partition("(")[0].strip().partition("/")[0]
    first = first + name.removeprefix("rib") if first.endswith("_") else first
    if "/" in v2_name and not first.startswith(("hip", "rib")):
        return UNCERTAIN_BOWEL
    if first in known:
        return known[first]
    for word, value in (
        ("muscle", MUSCLE),
        ("disc", DISC),
        ("artery", OTHER_VESSEL),
        ("trunk", OTHER_VESSEL),
        ("vein", OTHER_VESSEL),
    ):
        if word in name:
            return value
    return FAT


def _load(path: Path, spacing_mm: float) -> npt.NDArray[np.uint8]:
    """(D, H, W) tissue values of one label map, axes "HPL", nearest-neighbour at `spacing_mm`."""
    import nibabel  # noqa: PLC0415 - the GPU box that only trains from a cache has none

    image = cast(nibabel.Nifti1Image, nibabel.load(path))
    ids = np.asanyarray(image.dataobj).astype(np.int16)
    table = _table_of(path)
    known = N_TISSUES if table is None else len(table)
    if ids.min() < 0 or ids.max() >= known:
        raise ValueError(
            f"label map {path.name} holds ids {ids.min()} to {ids.max()}; expected TotalSegmentator v2 "
            f"class ids, or 0 to {known - 1} with a labels.tsv beside it"
        )
    values = ids.astype(np.uint8) if table is None else table[ids]
    relabelled = nibabel.Nifti1Image(values, image.affine)  # type: ignore[no-untyped-call]
    volume = canonical(hd.Volume.from_nibabel(relabelled))
    zoom = [s / spacing_mm for s in volume.spacing]
    index = np.ix_(
        *[
            np.minimum((np.arange(round(n * z)) / z).astype(int), n - 1)
            for n, z in zip(volume.spatial_shape, zoom, strict=True)
        ]
    )
    return np.ascontiguousarray(volume.array[index])


@dataclass(frozen=True)
class LabelMapAnatomy:
    """One patient's label map with the distances that dressing needs.

    Attributes
    ----------
    labels: (D, H, W) uint8 tissue values, axes "HPL".
    outside_mm: (D, H, W) float16, distance to the body's inner envelope, 0 inside it.
    inside_mm: (D, H, W) float16, depth inside that envelope, 0 outside.
    ribs_mm: (D, H, W) float16, distance to ribs and sternum.
    spacing_mm: isotropic voxel size.
    """

    labels: torch.Tensor
    outside_mm: torch.Tensor
    inside_mm: torch.Tensor
    ribs_mm: torch.Tensor
    spacing_mm: float

    @classmethod
    def from_file(cls, path: Path, spacing_mm: float = 2.0) -> LabelMapAnatomy:
        """Read one NIfTI label map and measure it (some seconds).

        Raises
        ------
        ValueError: if the map holds no label at all, or ids that mean nothing.
        """
        labels = _load(path, spacing_mm)
        if not labels.any():
            raise ValueError(f"label map {path.name} is empty; expected TotalSegmentator v2 class ids")
        pad = round(MARGIN_MM / spacing_mm)
        labels = np.pad(labels, ((0, 0), (pad, pad), (pad, pad)))
        envelope = _envelope(labels > 0, spacing_mm)
        rib_values = [s.v2_id for s in structures() if s.name.startswith(("rib_", "sternum", "costal"))]
        ribs = np.isin(labels, [v for v in rib_values if v])

        def distance(mask: npt.NDArray[np.bool_]) -> torch.Tensor:
            if mask.all():  # no target voxel: everything is far
                return torch.full(mask.shape, 1e3, dtype=torch.float16)
            return torch.from_numpy(_coarse_distance(mask, spacing_mm)).half()

        return cls(
            labels=torch.from_numpy(labels),
            outside_mm=distance(~envelope),
            inside_mm=distance(envelope),
            ribs_mm=distance(~ribs),
            spacing_mm=spacing_mm,
        )

    def sample(self, rng: np.random.Generator, height_mm: float | None = None) -> Anatomy:
        """Dress the patient anew: thickness and pattern of fat and muscle, skin, arms, table.

        Parameters
        ----------
        height_mm: cut a slab of this height at a random level; None keeps the whole patient.

        Returns
        -------
        Anatomy on this patient's grid; the same `rng` state gives the same anatomy.
        """
        slices = slice(None)
        if height_mm is not None:
            n = min(self.labels.shape[0], round(height_mm / self.spacing_mm))
            start = int(rng.integers(self.labels.shape[0] - n + 1))
            slices = slice(start, start + n)
        tissues = self.labels[slices].clone()
        outside_mm, inside_mm, ribs_mm = self.outside_mm[slices], self.inside_mm[slices], self.ribs_mm[slices]
        shape = tuple(tissues.shape)
        empty = tissues == 0
        fat_mm = uniform(rng, 4, 35) * (1 + 0.35 * smooth_noise(rng, shape, 90 / self.spacing_mm))
        body = outside_mm < fat_mm
        tissues[empty & body] = FAT
        inner = empty & (inside_mm > 0)
        patches = smooth_noise(rng, shape, uniform(rng, 12, 30) / self.spacing_mm)
        tissues[inner & (patches > uniform(rng, 0.2, 1.6))] = MUSCLE
        wall = (inside_mm < uniform(rng, 6, 16)) | (ribs_mm < uniform(rng, 4, 9))
        tissues[inner & wall & (patches > uniform(rng, -2.0, -0.6))] = MUSCLE
        skin = body & (outside_mm > fat_mm - self.spacing_mm * 1.01) & (tissues == FAT)
        tissues[skin] = SKIN
        if rng.random() < 0.3:
            _add_arms(tissues, rng, self.spacing_mm)
        if rng.random() < 0.7:
            _add_table(tissues, rng, self.spacing_mm)
        return Anatomy(tissues=tissues, spacing_mm=self.spacing_mm)


def _coarse_distance(mask: npt.NDArray[np.bool_], spacing_mm: float) -> npt.NDArray[np.float32]:
    """Euclidean distance (mm) to the outside of `mask`, computed at half resolution for speed."""
    small = ndimage.distance_transform_edt(mask[::2, ::2, ::2]) * 2 * spacing_mm
    tensor = torch.from_numpy(small.astype(np.float32))[None, None]
    full = torch.nn.functional.interpolate(tensor, size=mask.shape, mode="trilinear", align_corners=False)
    return np.asarray(full[0, 0].numpy() * mask, dtype=np.float32)


def _envelope(labelled: npt.NDArray[np.bool_], spacing_mm: float) -> npt.NDArray[np.bool_]:
    """The body's inner envelope: each axial slice of the labels closed by 50 mm and filled."""
    envelope = np.zeros_like(labelled)
    radius = 50.0 / (2 * spacing_mm)
    pad = round(radius) + 2
    for k in range(labelled.shape[0]):
        plane = labelled[k, ::2, ::2]
        if plane.sum() < 20:
            continue
        padded = np.pad(plane, pad)
        grown = ndimage.distance_transform_edt(~padded) <= radius
        closed = ndimage.distance_transform_edt(grown) > radius
        closed = ndimage.binary_fill_holes(closed | padded)[pad:-pad, pad:-pad]
        big = np.repeat(np.repeat(closed, 2, 0), 2, 1)
        envelope[k] = big[: labelled.shape[1], : labelled.shape[2]]
    smooth = ndimage.gaussian_filter1d(envelope.astype(np.float32), 6 / spacing_mm, axis=0)
    return np.asarray((smooth > 0.5) | labelled)


def _add_arms(tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> None:
    """Arms down: a cylinder of muscle and fat with two bones on one or both sides, in place."""
    depth, height, width = tissues.shape
    columns = (tissues > 0).any(0).any(0).nonzero().flatten()
    rows = (tissues > 0).any(0).any(1).nonzero().flatten()
    middle = float(rows.float().mean()) + uniform(rng, -10, 25) / spacing_mm
    y = torch.arange(height)[:, None].float()
    x = torch.arange(width)[None].float()
    for side in (-1, 1):
        if rng.random() < 0.25:
            continue
        radius = uniform(rng, 28, 42) / spacing_mm
        edge = float(columns[0]) - radius * 0.8 if side < 0 else float(columns[-1]) + radius * 0.8
        distance = torch.sqrt((y - middle) ** 2 + (x - edge) ** 2)
        free = tissues == 0
        limit = int(uniform(rng, 0.5, 1.0) * depth)
        free[:limit] &= bool(rng.random() < 0.5)
        for value, r in ((SKIN, 1.0), (FAT, 0.95), (MUSCLE, 0.8), (OTHER_BONE, 0.28)):
            tissues[free & (distance < radius * r)[None]] = value


def _add_table(tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> None:
    """The couch: a shallow, curved shell below the back, in place."""
    _, height, width = tissues.shape
    rows = (tissues > 0).any(0).any(1).nonzero().flatten()
    y = torch.arange(height)[:, None].float()
    x = torch.arange(width)[None].float()
    curve = uniform(rng, 0.0, 30.0) / spacing_mm
    across = ((x - width / 2) / (width / 2)) ** 2
    top = float(rows[-1]) + uniform(rng, 1, 12) / spacing_mm - curve * across
    thickness = uniform(rng, 2, 5) / spacing_mm
    gap = uniform(rng, 12, 40) / spacing_mm
    shell = ((y - top).abs() < thickness) | ((y - top - gap).abs() < thickness)
    tissues[(tissues == 0) & shell[None]] = TABLE


def load_folder(folders: Sequence[Path], spacing_mm: float = 2.0) -> list[LabelMapAnatomy]:
    """All label maps of several folders (`find_label_maps`)."""
    return [
        LabelMapAnatomy.from_file(path, spacing_mm) for folder in folders for path in find_label_maps(folder)
    ]
