"""Training samples: crops of phantoms, deformed, resampled to the model's grid, with truth.

Not a phantom generator (`training.phantoms`) and not a batch loop. One painted phantom gives
several crops, because painting costs more than deforming. Which crop comes when, and what is in
it, follows from the seed and its number alone, so that an interrupted run goes on with the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import IterableDataset, get_worker_info

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.image_encoder import ImageFeatures
from training.own_words import OwnWords
from training.phantoms.fields import gaussian_blur, smooth_noise, uniform
from training.phantoms.lesions import plant
from training.phantoms.reports import Snippet, write_report
from training.phantoms.scanner import scan
from training.phantoms.tissues import IGNORE, AnatomySource, Phantom
from training.snippets import CropSnippet, snippets_in

MIN_ORGAN_VOXELS = 30  # fewer than this in a crop and the organ counts as not in view
MIN_LESION_VOXELS = 3
NOISE_HU = (22.0, 12.0)  # up to so much of fine and of coarse noise; real CT has some 6 at 4 mm


@dataclass(frozen=True)
class Crop:
    """One crop.

    Attributes
    ----------
    hu: (1, D, H, W) float32.
    organs: (D, H, W) uint8 reading organ labels, `IGNORE` where unknown.
    lesions: (D, H, W) uint8, 1 + index of the abnormality in the dictionary, 0 where none.
    findings: (A,) float32: 1 present, 0 absent, -1 unknown (organ not in view, or a mere rim).
    snippets: report sentences with their slice, of each scan of a batch (a single crop is a
        batch of one here); empty where there is no report.
    words: what the scan's own report says, of each scan of a batch; empty where all are described by the
        dictionary's wordings.
    features: what a frozen encoder gave for `hu` (`training.stored_windows`), with a batch axis even
        for a single crop; None where the encoder has yet to read it.
    shares: (O, D/2, H/2, W/2) float32, share of each half-resolution cell that the frozen encoder
        takes for each organ; None where `features` is.
    evidence: (A,) float32 `core_model.grounding.top_logit` of the frozen masks, NaN for what they have
        not learnt; None where they are not frozen.
    """

    hu: torch.Tensor
    organs: torch.Tensor
    lesions: torch.Tensor
    findings: torch.Tensor
    snippets: tuple[tuple[CropSnippet, ...], ...] = ()
    words: tuple[OwnWords, ...] = ()
    features: ImageFeatures | None = None
    shares: torch.Tensor | None = None
    evidence: torch.Tensor | None = None

    def to(self, device: torch.device) -> Crop:
        """The same on another device."""
        return replace(
            self,
            hu=self.hu.to(device),
            organs=self.organs.to(device),
            lesions=self.lesions.to(device),
            findings=self.findings.to(device),
            features=self.features and _each([self.features], lambda t: t[0].to(device)),
            shares=None if self.shares is None else self.shares.to(device),
            evidence=None if self.evidence is None else self.evidence.to(device),
        )


def _each(
    features: Sequence[ImageFeatures], change: Callable[[list[torch.Tensor]], torch.Tensor]
) -> ImageFeatures:
    """Each tensor of several at a time."""
    names = [f.name for f in fields(ImageFeatures)]
    return ImageFeatures(**{name: change([getattr(f, name) for f in features]) for name in names})


def make_phantom(source: AnatomySource, rng: np.random.Generator) -> Phantom:
    """Anatomy, lesions and scan in one call."""
    anatomy = source(rng)
    return scan(plant(anatomy, rng), anatomy.spacing_mm, rng)


def crop(
    phantom: Phantom,
    rng: np.random.Generator,
    window: Sequence[int],
    spacing_mm: float,
    snippets: Sequence[Snippet] = (),
    *,
    noise_hu: tuple[float, float] = NOISE_HU,
) -> Crop:
    """A randomly deformed crop of a phantom on the model's grid.

    Parameters
    ----------
    window: (D, H, W) voxels at `spacing_mm`.
    snippets: of the phantom's report.
    noise_hu: highest standard deviation of fine (one voxel) and coarse (2.5 voxels) noise.
    """
    shape = tuple(phantom.hu.shape)
    ratio = spacing_mm / phantom.spacing_mm[0]
    centre = _centre(phantom, rng, [n * ratio for n in window])
    points = deformed_grid(rng, window, spacing_mm) * ratio + torch.tensor(centre)  # (D, H, W, 3)
    pull = sampler(points, shape)

    hu = pull(phantom.hu + 1024, "bilinear") - 1024
    organ_labels = pull(phantom.organs, "nearest").byte()
    hu = _acquire(hu, rng, spacing_mm, noise_hu)
    values = pull(phantom.lesions, "nearest").long()
    names = [a.name for a in abnormalities()]
    index = torch.zeros(256, dtype=torch.uint8)
    for lesion in phantom.planted:
        index[lesion.mask_value] = 1 + names.index(lesion.abnormality)
    index[0] = 0
    lesions = index[values]
    return Crop(
        hu=hu[None],
        organs=organ_labels,
        lesions=lesions,
        findings=_findings(phantom, organ_labels, lesions),
        snippets=(snippets_in(snippets, values, MIN_LESION_VOXELS),),
    )


def _centre(phantom: Phantom, rng: np.random.Generator, extent: Sequence[float]) -> list[float]:
    """Middle of the crop in phantom voxels: in half of the crops near a lesion."""
    shape = phantom.hu.shape
    z_half = min(extent[0] / 2, shape[0] / 2)
    z = uniform(rng, z_half, shape[0] - z_half)
    targets = [p for p in phantom.planted if p.mask_value]
    if targets and rng.random() < 0.5:
        z = targets[int(rng.integers(len(targets)))].centre[0] + uniform(rng, -0.4, 0.4) * extent[0]
    z = float(np.clip(z, z_half, shape[0] - z_half))
    if rng.random() < 0.15:  # a crop that hangs over the end of the scan
        z += uniform(rng, -0.4, 0.4) * extent[0]
    body = (phantom.hu[shape[0] // 2] > -300).nonzero().float()
    if len(body) == 0:
        return [z, shape[1] / 2, shape[2] / 2]
    y, x = body.mean(0).tolist()
    return [z, y + uniform(rng, -0.2, 0.2) * extent[1], x + uniform(rng, -0.12, 0.12) * extent[2]]


def sampler(points: torch.Tensor, shape: Sequence[int]) -> Callable[[torch.Tensor, str], torch.Tensor]:
    """What takes a volume's values at some points; 0 outside.

    Parameters
    ----------
    points: (D, H, W, 3) in voxels of the volumes.
    shape: of the volumes.

    Returns
    -------
    A function of a volume and "bilinear" or "nearest", which gives (D, H, W) float32.
    """
    size = torch.tensor(shape, dtype=torch.float32)
    normalised = ((points + 0.5) / size * 2 - 1).flip(-1)[None]

    def pull(volume: torch.Tensor, mode: str) -> torch.Tensor:
        return F.grid_sample(
            volume[None, None].float(), normalised, mode=mode, padding_mode="zeros", align_corners=False
        )[0, 0]

    return pull


def deformed_grid(rng: np.random.Generator, window: Sequence[int], spacing_mm: float) -> torch.Tensor:
    """(D, H, W, 3) offsets from the crop's middle, in model voxels: affine and elastic."""
    angles = rng.uniform(-0.17, 0.17, 3) * np.array([1.2, 1.0, 1.0])
    scale = rng.uniform(0.85, 1.2, 3) * uniform(rng, 0.88, 1.15)
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    matrix = torch.from_numpy((rotation / scale).astype(np.float32))
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in window]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ matrix.T
    strength = uniform(rng, 0.3, 1.0)
    for wavelength_mm, amplitude_mm in ((140, 14), (70, 7), (30, 2.5)):
        amplitude = strength * uniform(rng, 0.2, 1.0) * amplitude_mm / spacing_mm
        field = [smooth_noise(rng, window, wavelength_mm / spacing_mm) for _ in range(3)]
        grid = grid + torch.stack(field, -1) * amplitude
    return grid


def _acquire(
    hu: torch.Tensor, rng: np.random.Generator, spacing_mm: float, noise_hu: tuple[float, float]
) -> torch.Tensor:
    """Slice thickness (0.6 to 8 mm), kernel, noise, field of view and calibration of one scanner."""
    thickness_mm = math.exp(uniform(rng, math.log(0.6), math.log(8)))
    if thickness_mm > spacing_mm:  # average over neighbours, then interpolate back
        n = max(4, round(hu.shape[0] * spacing_mm / thickness_mm))
        thick = F.adaptive_avg_pool3d(hu[None, None], (n, *hu.shape[1:]))
        hu = F.interpolate(thick, size=hu.shape, mode="trilinear", align_corners=False)[0, 0]
    if rng.random() < 0.4:
        s = uniform(rng, 0.2, 0.8)
        hu = gaussian_blur(hu, (uniform(rng, 0, 0.5), s, s))
    elif rng.random() < 0.3:  # a sharp kernel overshoots at edges
        sharp = hu - gaussian_blur(hu, (0.0, 0.8, 0.8))
        hu = hu + sharp * uniform(rng, 0.3, 1.2)
    quiet = math.sqrt(min(1.0, spacing_mm / thickness_mm))  # thick slices average their noise
    fine, coarse = noise_hu
    hu = hu + smooth_noise(rng, hu.shape, 1) * uniform(rng, 1, fine) * quiet
    hu = hu + smooth_noise(rng, hu.shape, 2.5) * uniform(rng, 0, coarse)
    hu = hu * uniform(rng, 0.97, 1.03) + uniform(rng, -6, 6)
    if rng.random() < 0.25:  # circular field of view, padded outside
        y = torch.arange(hu.shape[1])[:, None] - hu.shape[1] / 2
        x = torch.arange(hu.shape[2])[None] - hu.shape[2] / 2
        radius = uniform(rng, 0.38, 0.55) * hu.shape[2]
        hu = torch.where((y**2 + x**2 > radius**2)[None], torch.tensor(-1024.0), hu)
    return hu.clamp(-1024, 3071)


def _findings(phantom: Phantom, organ_labels: torch.Tensor, lesions: torch.Tensor) -> torch.Tensor:
    """(A,) truth per abnormality of the dictionary; see `Crop.findings`."""
    label = {o.name: o.label for o in organs()}
    diffuse = {p.abnormality for p in phantom.planted if p.mask_value == 0}
    truth = []
    for i, entry in enumerate(abnormalities()):
        in_view = int((organ_labels == label[entry.organ]).sum()) >= MIN_ORGAN_VOXELS
        voxels = int((lesions == i + 1).sum())
        if entry.name in diffuse or voxels >= MIN_LESION_VOXELS:
            truth.append(1.0 if in_view else -1.0)
        else:
            truth.append(0.0 if in_view and voxels == 0 else -1.0)
    return torch.tensor(truth)


@dataclass(frozen=True)
class Ticket:
    """One crop to make: crop number `crop` of phantom number `phantom`."""

    phantom: int
    crop: int


def schedule(seed: int, stream: int, streams: int, crops: int, pool: int) -> Iterator[Ticket]:
    """The endless order of crops of one stream, without making any.

    Consecutive crops come from different phantoms: at most `pool` are open at a time, each gives
    `crops` crops.

    Parameters
    ----------
    stream, streams: phantoms `stream`, `stream` + `streams`, ... belong to this one.
    """
    order = np.random.default_rng([seed, 7, stream])
    fresh = stream
    open_phantoms: list[Ticket] = []
    while True:
        while len(open_phantoms) < pool:
            open_phantoms.append(Ticket(fresh, 0))
            fresh += streams
            if len(open_phantoms) > 1:
                break  # one new phantom for one crop: painting is spread over time
        i = int(order.integers(len(open_phantoms)))
        ticket = open_phantoms.pop(i)
        if ticket.crop + 1 < crops:
            open_phantoms.insert(i, Ticket(ticket.phantom, ticket.crop + 1))
        yield ticket


class PhantomCrops(IterableDataset[Crop]):
    """An endless stream of crops, in which nothing depends on where it was entered.

    A phantom follows from (seed, its number), a crop from (seed, phantom, its number), their
    order from `schedule`: to go on after an interruption only the phantoms that were open then
    are painted again.

    Parameters
    ----------
    sources: anatomy sources with their share of the phantoms.
    window, spacing_mm: the model's.
    seed: of the stream; the reader's benchmark seeds are others (`training.evaluate`).
    start: batches that were taken before, to go on where a run was interrupted.
    batch: crops per batch, as the loader takes them.
    crops: crops per phantom.
    pool: phantoms held at a time; consecutive crops come from different ones.
    noise_hu: as in `crop`.
    part: number of this process and their count: each paints phantoms of its own.
    """

    def __init__(
        self,
        sources: Sequence[tuple[AnatomySource, float]],
        window: Sequence[int],
        spacing_mm: float,
        *,
        seed: int,
        start: int = 0,
        batch: int = 1,
        crops: int = 8,
        pool: int = 5,
        noise_hu: tuple[float, float] = NOISE_HU,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.sources = [s for s, _ in sources]
        weights = np.array([w for _, w in sources], dtype=np.float64)
        self.weights = weights / weights.sum()
        self.window, self.spacing_mm = tuple(window), spacing_mm
        self.seed, self.start, self.batch, self.crops, self.pool = seed, start, batch, crops, pool
        self.noise_hu, self.part = noise_hu, part

    def __iter__(self) -> Iterator[Crop]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        # The loader takes batches from its workers in turn, and always begins with the first.
        stream = (self.start + worker) % workers
        taken = (self.start + worker) // workers * self.batch
        rank, size = self.part
        tickets = schedule(self.seed, rank * workers + stream, size * workers, self.crops, self.pool)
        painted: dict[int, tuple[Phantom, tuple[Snippet, ...]]] = {}
        for ticket in islice(tickets, taken, None):
            if ticket.phantom not in painted:
                painted[ticket.phantom] = self._paint(ticket.phantom)
            phantom, snippets = painted[ticket.phantom]
            if ticket.crop + 1 == self.crops:
                del painted[ticket.phantom]
            rng = np.random.default_rng([self.seed, ticket.phantom, 1 + ticket.crop])
            yield crop(phantom, rng, self.window, self.spacing_mm, snippets, noise_hu=self.noise_hu)

    def _paint(self, index: int) -> tuple[Phantom, tuple[Snippet, ...]]:
        rng = np.random.default_rng([self.seed, index])
        source = self.sources[int(rng.choice(len(self.sources), p=self.weights))]
        phantom = make_phantom(source, rng)
        return phantom, write_report(phantom, rng).snippets


def collate(samples: Sequence[Crop]) -> Crop:
    """Stack samples: every field gets a leading batch axis. What one has of a frozen encoder, all have."""
    features = [s.features for s in samples if s.features is not None]
    shares = [s.shares for s in samples if s.shares is not None]
    evidence = [s.evidence for s in samples if s.evidence is not None]
    spoken = any(s.words for s in samples)
    return Crop(
        hu=torch.stack([s.hu for s in samples]),
        organs=torch.stack([s.organs for s in samples]),
        lesions=torch.stack([s.lesions for s in samples]),
        findings=torch.stack([s.findings for s in samples]),
        snippets=tuple(one for s in samples for one in s.snippets),
        words=tuple(one for s in samples for one in s.words or (OwnWords(),)) if spoken else (),
        features=_each(features, torch.cat) if features else None,
        shares=torch.stack(shares) if shares else None,
        evidence=torch.stack(evidence) if evidence else None,
    )


def rows_of(batch: Crop, first: int, count: int) -> Crop:
    """Some crops of a batch."""
    rows = slice(first, first + count)
    return replace(
        batch,
        hu=batch.hu[rows],
        organs=batch.organs[rows],
        lesions=batch.lesions[rows],
        findings=batch.findings[rows],
        snippets=batch.snippets[rows],
        words=batch.words[rows],
        features=batch.features and _each([batch.features], lambda t: t[0][rows]),
        shares=None if batch.shares is None else batch.shares[rows],
        evidence=None if batch.evidence is None else batch.evidence[rows],
    )


__all__ = [
    "IGNORE",
    "Crop",
    "PhantomCrops",
    "Ticket",
    "collate",
    "crop",
    "deformed_grid",
    "make_phantom",
    "rows_of",
    "sampler",
    "schedule",
]
