"""Whole lesion candidates: what is seen of each, and the network that judges it.

A voxel's mask knows a lesion by contrast; a vessel beside the liver, the rim of a cyst or an uneven
patch have contrast too. What tells them apart is seen on the whole piece: its size and shape, what
lies around it, how far it stands out of its organ. The judge corrects the score that the mask gave,
text by text, as the masks are made. It draws no mask. Our choice; neither paper judges candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from core_model.anatomy import organ
from core_model.grounding import LESION_TOP_VOXELS, PROBABILITY_LIMIT
from core_model.lesions import Component, components
from core_model.masks import Region
from core_model.volume import bounding_slices

SHAPE_CHANNELS = 16  # of `CandidateView.describe`: score, size, shape and grey values
MAX_CANDIDATES = 60  # of one kind in one study that are judged; those with the highest scores
MIN_VOXELS = 2
HIDDEN = 64
DROPOUT = 0.3
MARGIN = 4  # voxels of surroundings that are looked at
HU_STEP = 20.0  # differences in HU that become 1
HU_LEVEL = 50.0  # grey values that become 1
AROUND_HU = (-100.0, 250.0)  # surroundings count as no darker and no brighter than this

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def evidence(score: float) -> float:
    """Logit of a component's score, finite.

    >>> evidence(0.5), round(evidence(1.0), 2)
    (0.0, 9.21)
    """
    inside = min(max(score, PROBABILITY_LIMIT), 1 - PROBABILITY_LIMIT)
    return float(np.log(inside / (1 - inside)))


@dataclass(frozen=True)
class CandidateView:
    """What a scan or a window shows of its candidates; all on one grid of (D, H, W) voxels.

    Attributes
    ----------
    hu: (D, H, W) Hounsfield units.
    dense: (C, D, H, W) the point decoder's features.
    organ_probability: (1 + O, D, H, W).
    """

    hu: Floats
    dense: Floats
    organ_probability: Floats

    @classmethod
    def of(cls, hu: torch.Tensor, dense: torch.Tensor, organ_probability: torch.Tensor) -> CandidateView:
        """From tensors of the same shapes, on any device."""
        return cls(*(t.detach().float().cpu().numpy() for t in (hu, dense, organ_probability)))

    @cached_property
    def organ_label(self) -> npt.NDArray[np.int64]:
        """(D, H, W) the most probable organ; found once for all kinds of lesions."""
        label: npt.NDArray[np.int64] = self.organ_probability.argmax(0)
        return label

    def organ_hu(self, label: int) -> tuple[float, float]:
        """Median and spread of an organ's grey values; those of water where it is not seen."""
        own = self.hu[self.organ_label == label]
        return (float(np.median(own)), float(own.std())) if len(own) else (0.0, 1.0)

    def describe(
        self, component: Component, probability: Floats, core: Bools, organ_hu: tuple[float, float]
    ) -> Floats:
        """What the judge reads of a candidate.

        Parameters
        ----------
        probability: (D, H, W), the map that made it.
        core: (D, H, W) bool, its organ's (`core_model.masks.Region`).
        organ_hu: of its organ, of `organ_hu`.

        Returns
        -------
        (F,): dense features of the candidate, of its strongest voxels and of its surroundings; organ
        probabilities of the candidate and of its surroundings; `SHAPE_CHANNELS` numbers.
        """
        box = bounding_slices(component.mask, margin=(MARGIN,) * 3)
        inside = component.mask[box]
        cube = np.ones((3, 3, 3), dtype=bool)
        near = ndimage.binary_dilation(inside, cube)
        around = ndimage.binary_dilation(near, cube, iterations=2) & ~near
        if not around.any():
            around = inside
        strongest = np.argsort(probability[box][inside])[-LESION_TOP_VOXELS:]
        dense, organs, hu = self.dense[:, *box], self.organ_probability[:, *box], self.hu[box]
        own = dense[:, inside]
        parts = [own.mean(1), own[:, strongest].mean(1), dense[:, around].mean(1)]
        parts += [organs[:, inside].mean(1), organs[:, around].mean(1)]
        shape = _shape(component, inside, core[box])
        grey = _grey(hu[inside], np.clip(hu[around], *AROUND_HU), *organ_hu)
        return np.concatenate([*parts, shape, grey]).astype(np.float32)


def _shape(component: Component, inside: Bools, core: Bools) -> list[float]:
    """Evidence, size, share in the core, thickness, length, and how full its box and its ball are."""
    thickness = float(ndimage.distance_transform_edt(np.pad(inside, 1)).max())
    sides = np.ptp(np.argwhere(inside), 0) + 1
    size = float(inside.sum())
    return [
        evidence(component.score) / 4,
        component.score,
        float(np.log(size)) / 4,
        float((inside & core).sum()) / size,
        thickness / 4,
        float(np.log(sides.max())) / 2,
        size / float(sides.prod()),
        float(np.log(size / thickness**3)) / 2,
    ]


def _grey(own: Floats, around: Floats, median: float, spread: float) -> list[float]:
    """Contrast of the candidate, of its darkest quarter and of its surroundings to the organ."""
    darkest = np.sort(own)[: max(1, len(own) // 4)]
    return [
        (float(own.mean()) - median) / HU_STEP,
        (float(darkest.mean()) - median) / HU_STEP,
        float(own.std()) / HU_STEP,
        (float(around.mean()) - median) / HU_STEP,
        (float(np.percentile(around, 20)) - median) / HU_STEP,
        median / HU_LEVEL,
        spread / HU_LEVEL,
        float(own.mean()) / HU_LEVEL,
    ]


def candidates(
    mask: torch.Tensor, region: Region, threshold: float, most: int = MAX_CANDIDATES
) -> list[Component]:
    """The pieces of one abnormality's map that may be lesions, highest score first.

    Parameters
    ----------
    mask: (D, H, W) probability that a voxel shows the abnormality.
    region: of its organ.
    threshold: of a voxel's probability.
    most: how many are kept.
    """
    here = (mask * region.reach).cpu().numpy()
    return components(here, threshold, MIN_VOXELS, core=region.core.cpu().numpy())[:most]


def describe_all(
    view: CandidateView, found: Sequence[Component], organ_name: str, mask: torch.Tensor, region: Region
) -> torch.Tensor:
    """(N, F) of `CandidateView.describe` for candidates of one map; N at least 1."""
    organ_hu = view.organ_hu(organ(organ_name).label)
    probability, core = mask.float().cpu().numpy(), region.core.cpu().numpy()
    return torch.from_numpy(np.stack([view.describe(c, probability, core, organ_hu) for c in found]))


class CandidateJudge(nn.Module):
    """Two layers on what is seen of a candidate.

    Parameters
    ----------
    organs: organs that the encoder draws.
    width: channels of the dense features, and of what comes out.
    """

    def __init__(self, organs: int, width: int) -> None:
        super().__init__()
        self.split = (width, width, width, 2 * (1 + organs) + SHAPE_CHANNELS)
        self.first = nn.Linear(sum(self.split), HIDDEN)
        self.out = nn.Linear(HIDDEN, width)

    def forward(self, described: torch.Tensor) -> torch.Tensor:
        """(N, F) of `CandidateView.describe` -> (N, width), to be weighed by a text."""
        *dense, rest = torch.split(described, list(self.split), 1)
        # Dense features have any scale, as only their projections on texts are trained.
        even = [F.layer_norm(part, part.shape[1:]) for part in dense]
        read = torch.cat([*even, rest.clamp(-8, 8)], 1)
        hidden = F.dropout(F.gelu(self.first(read)), DROPOUT, self.training)
        judged: torch.Tensor = self.out(hidden)
        return judged
