"""The second look: a small 3D U-Net that reads the first masks together with the image, and draws them again.

The point decoder judges each voxel by itself (`core_model.point_decoder`). What it cannot know is seen here:
that a dark spot is a vein because it goes on above, or the gallbladder because of where it lies. The U-Net
reads the CT, the organs that were drawn and the first mask of every abnormality, and says of each voxel
which one of them it shows, or none; lesions are pieces of the first masks or of its own, scored and outlined
by it (`core_model.detection.seconded`). It was trained for the abnormalities of `ModelConfig.second_look`;
any other text has its first mask. Where `ModelConfig.organs_again` says so, it draws the organs again as
well: the encoder decides on them at half resolution, which is coarse for vessels, adrenals and bowel. One
that was trained on mirrored patients sees each scan mirrored as well, and draws the mean. Our choice; neither
paper draws twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from core_model.pooling import box_max

WIDTHS = (32, 64, 96)  # of cells of 2x2x2 voxels, of twice that side, and so on
FOLD = 2  # a cell's voxels become channels: convolutions over voxels would cost several times as much
STRIDE = FOLD * 2 ** (len(WIDTHS) - 1)
# Level, width and limits of what is read, in HU: liver and bowel, soft tissue, lung, bone.
WINDOWS = (
    (60.0, 50.0, -2.0, 2.0),
    (50.0, 200.0, -1.0, 1.5),
    (-400.0, 600.0, -1.0, 1.0),
    (400.0, 600.0, -1.0, 1.5),
)
CONTRAST_HU, CONTRAST_MOST = 30.0, 3.0  # of a voxel to the median of its organ
IMAGE_CHANNELS = len(WINDOWS) + 1
LEAST_LOGIT, MOST_LOGIT, LOGIT_SCALE = -8.0, 6.0, 4.0  # of first masks
FEW = 20  # voxels of an organ that have no median yet
NEAR = 5  # first masks are read in cubes of so many voxels round what is drawn as an organ
ORGAN_WIDTH = 128  # channels between the U-Net's cells and the organs of their voxels
ORGAN_START = 4.0  # logit that an organ begins with where it was drawn before
MOVED = 1  # voxels by which the mirrored scan is moved, so that its cells are other ones; our choice
START = 2.0  # how much more than its first mask an abnormality begins with, against `START_NONE`
START_NONE = 4.0


def channels_of(kinds: int, organs: int) -> int:
    """How many channels `look_channels` makes of so many abnormalities and organs."""
    return FOLD**3 * (IMAGE_CHANNELS + kinds) + organs


def organ_medians(hu: torch.Tensor, label: torch.Tensor, organs: int) -> torch.Tensor:
    """The median grey value of each organ of a scan.

    Parameters
    ----------
    hu, label: (D, H, W) Hounsfield units, and the most probable organ of each voxel (0: none).

    Returns
    -------
    (1 + organs,) HU; 0 for "none" and for organs of `FEW` voxels or less.
    """
    medians = torch.zeros(1 + organs)
    for organ in range(1, 1 + organs):
        own = hu[label == organ]
        if own.numel() > FEW:
            medians[organ] = own.float().median()
    return medians


def near_organs(label: torch.Tensor) -> torch.Tensor:
    """(D, H, W) bool, where first masks are read: about everything that is drawn as an organ."""
    return box_max((label > 0)[None, None].float(), NEAR)[0, 0] > 0


def limited(first: torch.Tensor) -> torch.Tensor:
    """Logits of first masks as the second look reads them."""
    return first.clamp(LEAST_LOGIT, MOST_LOGIT)


def look_channels(
    hu: torch.Tensor, label: torch.Tensor, first: torch.Tensor, medians: torch.Tensor
) -> torch.Tensor:
    """What the second look reads.

    Parameters
    ----------
    hu: (B, D, H, W) Hounsfield units.
    label: (B, D, H, W) the most probable organ, 0 where none.
    first: (B, K, D, H, W) `limited` logits of the first masks, low where they are not to be read.
    medians: (B, 1 + O) of `organ_medians`, of the whole scan.

    Returns
    -------
    (B, `channels_of`, D/2, H/2, W/2) float32, channels last: of each cell the image and the first masks of
    its eight voxels, and the share of each organ.
    """
    index = label.long()
    of_organ = medians.gather(1, index.flatten(1)).view_as(hu)
    contrast = ((hu - of_organ) / CONTRAST_HU).clamp(-CONTRAST_MOST, CONTRAST_MOST)
    image = [((hu - level) / width).clamp(low, high) for level, width, low, high in WINDOWS]
    image.append(contrast * (label > 0))
    voxels = torch.cat([torch.stack(image, -1), first.movedim(1, -1) / LOGIT_SCALE], -1)  # (B, D, H, W, C)
    of_cell = folded(index[..., None])  # (B, d, h, w, 8)
    eighth = torch.full(of_cell.shape, FOLD**-3, device=hu.device)
    shares = eighth.new_zeros(*of_cell.shape[:-1], medians.shape[1]).scatter_add(-1, of_cell, eighth)
    return torch.cat([folded(voxels), shares[..., 1:]], -1).movedim(-1, 1)


def folded(voxels: torch.Tensor) -> torch.Tensor:
    """(B, D, H, W, C) of voxels -> (B, D/2, H/2, W/2, 8 C) of cells."""
    b, d, h, w, c = voxels.shape
    cells = voxels.reshape(b, d // FOLD, FOLD, h // FOLD, FOLD, w // FOLD, FOLD, c)
    return cells.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, d // FOLD, h // FOLD, w // FOLD, FOLD**3 * c)


def unfolded(cells: torch.Tensor) -> torch.Tensor:
    """What `folded` folds."""
    b, d, h, w, c = cells.shape
    voxels = cells.reshape(b, d, h, w, FOLD, FOLD, FOLD, c // FOLD**3).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return voxels.reshape(b, FOLD * d, FOLD * h, FOLD * w, c // FOLD**3)


def corner_of(voxels: torch.Tensor, corner: int) -> torch.Tensor:
    """(B, D, H, W) -> (B, D/2, H/2, W/2): the `corner`-th of the eight voxels that `folded` lists."""
    z, y, x = corner // FOLD**2, corner // FOLD % FOLD, corner % FOLD
    return voxels[:, z::FOLD, y::FOLD, x::FOLD]


def _convolutions(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two normalised 3x3x3 convolutions."""
    layers: list[nn.Module] = []
    for inner in (channels_in, channels_out):
        layers += [
            nn.Conv3d(inner, channels_out, 3, padding=1, bias=False),
            nn.GroupNorm(min(8, channels_out // 4), channels_out),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class DrawnAgain:
    """What the second look draws of a scan; float32, on the CPU.

    Attributes
    ----------
    masks: (K, D, H, W) the probability that a voxel shows each abnormality.
    organs: (1 + O, D, H, W) that of each organ, channel 0 "none"; None where organs are not drawn again.
    """

    masks: torch.Tensor
    organs: torch.Tensor | None


class SecondLook(nn.Module):
    """The U-Net.

    Parameters
    ----------
    kinds: abnormalities, at least one.
    organs: organs that the encoder draws.
    organs_again: whether they are drawn again.
    mirrored: whether `look` sees each scan a second time, with right and left exchanged.
    """

    def __init__(
        self, kinds: int, organs: int, *, organs_again: bool = False, mirrored: bool = False
    ) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.n_organs = organs
        self.stem = nn.Conv3d(channels_of(kinds, organs), WIDTHS[0], 1)
        self.read = nn.ModuleList(_convolutions(w, w) for w in WIDTHS)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairwise(WIDTHS))
        self.rise = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in reversed(list(pairwise(WIDTHS))))
        self.draw = nn.ModuleList(_convolutions(2 * w, w) for w in reversed(WIDTHS[:-1]))
        self.out = nn.Conv3d(WIDTHS[0], FOLD**3 * (1 + kinds), 1)
        self.first = nn.Conv3d(kinds, 1 + kinds, 1, bias=False)  # first masks, as they are at the start
        with torch.no_grad():
            self.out.weight.mul_(0.3)
            start = torch.full((FOLD**3, 1 + kinds), START)
            start[:, 0] = START_NONE
            self.out.bias = nn.Parameter(start.flatten())
            self.first.weight.zero_()
            self.first.weight[1:].copy_(torch.eye(kinds).view(kinds, kinds, 1, 1, 1))
        self.organ_hidden: nn.Conv3d | None = None
        if organs_again:
            self.organ_hidden = nn.Conv3d(WIDTHS[0] + channels_of(kinds, organs), ORGAN_WIDTH, 1)
            self.organ_out = nn.Conv3d(ORGAN_WIDTH, FOLD**3 * (1 + organs), 1)
            nn.init.zeros_(self.organ_out.weight)  # an untrained one leaves organs as they were drawn
            if self.organ_out.bias is not None:
                nn.init.zeros_(self.organ_out.bias)
            self.organ_first = nn.Parameter(ORGAN_START * torch.eye(1 + organs))

    def forward(self, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Look.

        Parameters
        ----------
        x: (B, `channels_of`, d, h, w) of `look_channels`.
        first: (B, K, D, H, W) `limited` logits of the first masks; D, H and W multiples of `STRIDE`.

        Returns
        -------
        (B, 1 + K, D, H, W) logits of a softmax, channels last; channel 0 is "none of them".

        Raises
        ------
        ValueError: if a side is not a multiple of `STRIDE`.
        """
        if any(n % STRIDE for n in first.shape[2:]):
            raise ValueError(
                f"first has spatial shape {tuple(first.shape[2:])}; pad every side to a multiple of {STRIDE}"
            )
        return self.masks(self.cells(x), first)

    def cells(self, x: torch.Tensor) -> torch.Tensor:
        """(B, `channels_of`, d, h, w) of `look_channels` -> (B, `WIDTHS`[0], d, h, w), what is seen there."""
        y: torch.Tensor = self.stem(x)
        skips = []
        for read, down in zip(self.read[:-1], self.down, strict=True):
            skips.append(read(y))
            y = down(skips[-1])
        y = self.read[-1](y)
        for rise, draw in zip(self.rise, self.draw, strict=True):
            y = F.interpolate(rise(y), scale_factor=2.0, mode="nearest")
            y = draw(torch.cat([y, skips.pop()], 1))
        return y

    def masks(self, cells: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """What `forward` returns, of `cells` and the first masks."""
        drawn = unfolded(self.out(cells).movedim(1, -1)).movedim(-1, 1)
        logits: torch.Tensor = drawn + self.first(first)
        return logits  # (B, 1 + K, D, H, W)

    def organs(
        self, cells: torch.Tensor, x: torch.Tensor, label: torch.Tensor, corner: int | None = None
    ) -> torch.Tensor:
        """The organs, drawn again.

        Parameters
        ----------
        cells: of `x`, which `look_channels` made.
        label: (B, D, H, W) the most probable organ, as it was drawn before.
        corner: one of the eight voxels of every cell (`corner_of`), which is enough to learn from; None: all.

        Returns
        -------
        (B, 1 + O, D, H, W) logits of a softmax; with a corner (B, 1 + O, D/2, H/2, W/2).

        Raises
        ------
        ValueError: if this network draws no organs.
        """
        if self.organ_hidden is None:
            raise ValueError("this second look draws no organs; make it with organs_again=True")
        hidden = F.gelu(self.organ_hidden(torch.cat([cells, x.to(cells)], 1)))
        weight, bias = self.organ_out.weight, self.organ_out.bias
        if corner is None:
            drawn = unfolded(F.conv3d(hidden, weight, bias).movedim(1, -1))  # (B, D, H, W, 1 + O)
        else:
            own = slice(corner * (1 + self.n_organs), (corner + 1) * (1 + self.n_organs))
            drawn = F.conv3d(hidden, weight[own], None if bias is None else bias[own]).movedim(1, -1)
            label = corner_of(label, corner)
        logits: torch.Tensor = drawn + self.organ_first[label.long()]
        return logits.movedim(-1, 1)

    @torch.inference_mode()
    def look(
        self, hu: torch.Tensor, label: torch.Tensor, first: torch.Tensor, *, bf16: bool = False
    ) -> DrawnAgain:
        """Draw a whole scan again.

        Parameters
        ----------
        hu: (D, H, W) Hounsfield units.
        label: (D, H, W) the most probable organ.
        first: (K, D, H, W) logits of the first masks.
        bf16: whether convolutions run in bfloat16.
        """
        medians = organ_medians(hu, label, self.n_organs)
        first = limited(first.masked_fill(~near_organs(label), LEAST_LOGIT))
        drawn = self._drawn(hu, label, first, medians, moved=0, bf16=bf16)
        if not self.mirrored:
            return drawn
        turned = (hu.flip(-1), label.flip(-1), first.flip(-1))
        other = self._drawn(*turned, medians, moved=MOVED, bf16=bf16)
        masks = drawn.masks.add_(other.masks.flip(-1)).mul_(0.5)
        if drawn.organs is None or other.organs is None:
            return DrawnAgain(masks, None)
        return DrawnAgain(masks, drawn.organs.add_(other.organs.flip(-1)).mul_(0.5))

    def _drawn(
        self,
        hu: torch.Tensor,
        label: torch.Tensor,
        first: torch.Tensor,
        medians: torch.Tensor,
        *,
        moved: int,
        bf16: bool,
    ) -> DrawnAgain:
        """One drawing of a scan that begins `moved` voxels inside its first cell."""
        device = self.stem.weight.device
        z, y, x = (slice(moved, moved + n) for n in hu.shape)
        ends: list[int] = []
        for n in reversed(hu.shape):
            ends += [moved, -(moved + n) % STRIDE]
        first = F.pad(first, ends, value=LEAST_LOGIT)[None].to(device)
        label = F.pad(label, ends)[None].to(device)
        hu = F.pad(hu, ends, value=-1000.0)[None].to(device)
        read = look_channels(hu, label, first, medians[None].to(device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            cells = self.cells(read)
            masks = self.masks(cells, first)
            organs = None if self.organ_hidden is None else self.organs(cells, read, label)
        return DrawnAgain(
            masks=masks.float().softmax(1)[0, 1:, z, y, x].cpu(),
            organs=None if organs is None else organs.float().softmax(1)[0, :, z, y, x].cpu(),
        )
