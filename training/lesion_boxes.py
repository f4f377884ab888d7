"""The lesion stage's objective: text-conditioned masks in small boxes round lesions and organs.

A frozen encoder reads the whole window once; only boxes of it go through the lesion decoder.
Tumours of 15 mm are some thirty voxels: whole windows would spend nearly all work on voxels that
teach nothing. Our choice; the language heads are trained by `training.objective`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.grounding import text_masks
from core_model.image_encoder import ImageFeatures
from core_model.model import SightlineModel
from core_model.volume import window
from training.losses import lesion_box_loss
from training.objective import mask_targets, organ_shares
from training.samples import Sample
from training.text_bank import TextBank, draw

STEP = 4  # voxels: corners lie on the coarsest grid that the decoder reads
ON_LESIONS = 0.6  # share of the boxes that are put on a lesion, where the window has one; our choice
TUMOUR_WEIGHT = 2.0  # of a tumour against another abnormality when a box is put on a lesion; our choice


@dataclass(frozen=True)
class Box:
    """A cube of a window.

    Attributes
    ----------
    sample: index in the batch.
    corner: (z, y, x) first voxel, multiples of `STEP`.
    """

    sample: int
    corner: tuple[int, int, int]


def choose_boxes(batch: Sample, rng: np.random.Generator, n: int, side: int) -> list[Box]:
    """`n` boxes of `side` voxels per sample: on lesions, and on organs that are searched.

    Raises
    ------
    ValueError: if `side` is no multiple of 4, below 16, or larger than the window.
    """
    shape = batch.organs.shape[1:]
    if side % STEP or not 4 * STEP <= side <= min(shape):
        raise ValueError(f"side is {side}; a multiple of {STEP} from {4 * STEP} to {min(shape)} is needed")
    boxes = []
    for b in range(len(batch.organs)):
        lesions = _voxels(batch.lesions[b], {i + 1: _weight(a.tumour) for i, a in enumerate(abnormalities())})
        searched = _voxels(batch.organs[b], {organ(a.organ).label: 1.0 for a in abnormalities()})
        for _ in range(n):
            pool = lesions if lesions and rng.random() < ON_LESIONS else searched
            boxes.append(Box(b, _corner(pool, rng, shape, side)))
    return boxes


def _weight(tumour: bool) -> float:
    return TUMOUR_WEIGHT if tumour else 1.0


def _voxels(labels: torch.Tensor, weights: dict[int, float]) -> list[tuple[torch.Tensor, float]]:
    """(voxel indices, weight) of each value of `weights` that is in `labels`."""
    found = [((labels == value).nonzero(), weight) for value, weight in weights.items()]
    return [(where, weight) for where, weight in found if len(where)]


def _corner(
    pool: list[tuple[torch.Tensor, float]], rng: np.random.Generator, shape: torch.Size, side: int
) -> tuple[int, int, int]:
    if pool:
        weights = np.array([w for _, w in pool])
        where, _ = pool[int(rng.choice(len(pool), p=weights / weights.sum()))]
        centre = where[int(rng.integers(len(where)))].cpu().numpy()
    else:
        centre = rng.integers(0, shape)
    shift = rng.integers(-side // 4, side // 4 + 1, 3)
    low = np.clip(centre + shift - side // 2, 0, np.array(shape) - side) // STEP * STEP
    return int(low[0]), int(low[1]), int(low[2])


def cut(tensor: torch.Tensor, boxes: list[Box], side: int, scale: int = 1) -> torch.Tensor:
    """The boxes of a tensor whose voxels are `scale` window voxels wide.

    Parameters
    ----------
    tensor: (B, ..., D / scale, H / scale, W / scale).

    Returns
    -------
    (N, ..., side / scale, side / scale, side / scale).
    """
    n = side // scale
    parts = []
    for box in boxes:
        z, y, x = (c // scale for c in box.corner)
        parts.append(tensor[box.sample, ..., z : z + n, y : y + n, x : x + n])
    return torch.stack(parts)


@dataclass(frozen=True)
class EncodedBoxes:
    """Boxes with all that the lesion decoder reads and is judged by; the first axis counts boxes.

    Attributes
    ----------
    seen: (N, 2 or 6, s, s, s), of `LesionDecoder.seen`.
    fine, half, quarter: encoder features, (N, C, s, s, s) and halves and quarters of s.
    organs, lesions, findings: as in `Sample`.
    """

    seen: torch.Tensor
    fine: torch.Tensor
    half: torch.Tensor
    quarter: torch.Tensor
    organs: torch.Tensor
    lesions: torch.Tensor
    findings: torch.Tensor

    def __len__(self) -> int:
        return len(self.seen)

    def features(self) -> ImageFeatures:
        """What the lesion decoder takes beside `seen`."""
        return ImageFeatures(self.fine, self.half, self.quarter, organ_logits=self.fine[:, :0])

    def truth(self) -> Sample:
        """Organs, lesions and findings as `training.objective.mask_targets` takes them."""
        return Sample(hu=self.seen, organs=self.organs, lesions=self.lesions, findings=self.findings)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> EncodedBoxes:
        """The same boxes with every tensor changed."""
        return EncodedBoxes(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


@torch.no_grad()
def encode_boxes(
    model: SightlineModel, batch: Sample, rng: np.random.Generator, n: int, side: int
) -> EncodedBoxes:
    """`n` boxes of `side` voxels of each window, read by the frozen encoder; see `choose_boxes`."""
    boxes = choose_boxes(batch, rng, n, side)
    x = window(batch.hu).contiguous(memory_format=torch.channels_last_3d)
    whole = model.image(x)
    seen = model.lesion_decoder.seen(x, model.half_organ_head(whole.half))
    return EncodedBoxes(
        seen=cut(seen, boxes, side),
        fine=cut(whole.fine, boxes, side),
        half=cut(whole.half, boxes, side, 2),
        quarter=cut(whole.quarter, boxes, side, 4),
        organs=cut(batch.organs, boxes, side),
        lesions=cut(batch.lesions, boxes, side),
        findings=batch.findings[[box.sample for box in boxes]],
    )


class BoxMemory:
    """The last boxes read, to train on boxes of many patients at once.

    Boxes of one window show one patient: trained on them alone, every text follows what the last
    patient had. And reading a window costs as much as training on its boxes.

    Parameters
    ----------
    size: boxes held; the oldest go first. Features are held in half precision.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._boxes: EncodedBoxes | None = None

    def add(self, boxes: EncodedBoxes) -> None:
        """Take boxes in."""
        new = boxes.map(lambda t: t.half() if t.is_floating_point() else t)
        if self._boxes is not None:
            held = [getattr(self._boxes, f.name) for f in fields(new)]
            joined = [torch.cat([h, getattr(new, f.name)]) for h, f in zip(held, fields(new), strict=True)]
            new = EncodedBoxes(*joined)
        self._boxes = new.map(lambda t: t[-self.size :])

    def draw(self, rng: np.random.Generator, n: int) -> EncodedBoxes:
        """`n` different boxes, or all where fewer are held.

        Raises
        ------
        ValueError: if nothing is held yet.
        """
        if self._boxes is None:
            raise ValueError("the memory holds no boxes; add some first")
        index = torch.from_numpy(rng.permutation(len(self._boxes))[:n])
        return self._boxes.map(
            lambda t: _channels_last(t[index].float()) if t.is_floating_point() else t[index]
        )


def lesion_objective(
    model: SightlineModel, bank: TextBank, boxes: EncodedBoxes, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """The lesion stage's loss of some boxes: ``{"masks": ...}``."""
    dense = model.lesion_decoder(boxes.seen, boxes.features())  # (N, C, s, s, s)
    text = model.project_text(draw(bank.present, rng))
    logits = text_masks(dense, text.mask_weight, text.mask_bias)  # (N, A, s, s, s)
    every = torch.arange(len(abnormalities()))
    target, region = mask_targets(boxes.truth(), organ_shares(boxes.organs), every)
    return {"masks": lesion_box_loss(logits, target, region)}


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d) if x.ndim == 5 else x


__all__ = ["Box", "BoxMemory", "EncodedBoxes", "choose_boxes", "cut", "encode_boxes", "lesion_objective"]
