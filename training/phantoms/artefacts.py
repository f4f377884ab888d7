"""What goes wrong in a scan: metal with its streaks, and breathing.

Not a simulation: streaks are noise along rays from the metal, breathing is a ghost of the slices
above. Strengths are our choice.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from core_model.anatomy import structures
from training.phantoms.fields import smooth_noise, uniform
from training.phantoms.tissues import AIR, tissue

METAL_HU = 4000.0  # before the scale's end at 3071 clips it
RAYS = 180  # per half turn


def add_metal(hu: torch.Tensor, tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> bool:
    """Put a hip prosthesis, spinal screws or clips into the body, with streaks, in place.

    Parameters
    ----------
    hu, tissues: (D, H, W).

    Returns
    -------
    False where what was drawn has no bone or organ to sit in.
    """
    kinds = (_hip, _screws, _clips)
    metal = kinds[int(rng.integers(len(kinds)))](tissues, rng, spacing_mm)
    if not bool(metal.any()):
        return False
    hu += _streaks(metal, rng, spacing_mm) * (tissues != AIR)
    hu[metal] = METAL_HU
    return True


def _hip(tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> torch.Tensor:
    """The middle of one femur: head, neck and a stem."""
    side = "left" if rng.random() < 0.5 else "right"
    bone = (tissues == tissue(f"femur_{side}")).numpy()
    depth = ndimage.distance_transform_edt(bone) if bone.any() else np.zeros(bone.shape)
    return torch.from_numpy(depth * spacing_mm > uniform(rng, 7, 10))


def _screws(tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> torch.Tensor:
    """Two screws in each of two or three neighbouring vertebrae, and rods behind them."""
    metal = torch.zeros_like(tissues, dtype=torch.bool)
    names = [s.name for s in structures() if s.name.startswith(("vertebrae_L", "vertebrae_T"))]
    first = int(rng.integers(len(names) - 2))
    ends = []
    for name in names[first : first + int(rng.integers(2, 4))]:
        where = (tissues == tissue(name)).nonzero().float()
        if len(where) < 50:
            continue
        z, y, x = where.mean(0).tolist()
        for side in (-1, 1):
            head = np.array([z, y + 22 / spacing_mm, x + side * 17 / spacing_mm])
            tip = np.array([z, y - 20 / spacing_mm, x + side * 9 / spacing_mm])
            _line(metal, head, tip, 2.8 / spacing_mm)
            ends.append((side, head))
    for side in (-1, 1):
        own = [head for s, head in ends if s == side]
        if len(own) > 1:
            _line(metal, own[0], own[-1], 3.0 / spacing_mm)
    return metal


def _clips(tissues: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> torch.Tensor:
    """A few clips where liver and gallbladder meet."""
    metal = torch.zeros_like(tissues, dtype=torch.bool)
    where = (tissues == tissue("gallbladder")).nonzero()
    if len(where) == 0:
        return metal
    for _ in range(int(rng.integers(2, 6))):
        start = where[int(rng.integers(len(where)))].numpy().astype(float)
        _line(metal, start, start + rng.uniform(-4, 4, 3) / spacing_mm, 1.0 / spacing_mm)
    return metal


def _line(mask: torch.Tensor, a: np.ndarray, b: np.ndarray, radius: float) -> None:
    """Set the voxels within `radius` (voxels) of a line between two points, in place."""
    for point in np.linspace(a, b, max(2, int(np.linalg.norm(b - a)) * 2)):
        low = np.maximum(np.floor(point - radius), 0).astype(int)
        box = tuple(slice(int(p), int(np.ceil(q + radius)) + 1) for p, q in zip(low, point, strict=True))
        if any(s.start >= n for s, n in zip(box, mask.shape, strict=True)):
            continue
        part = mask[box]
        axes = torch.meshgrid(
            *[torch.arange(n) + s.start for n, s in zip(part.shape, box, strict=True)], indexing="ij"
        )
        squared = sum((axis - float(p)) ** 2 for axis, p in zip(axes, point, strict=True))
        part |= torch.as_tensor(squared) <= max(radius, 0.7) ** 2


def _streaks(metal: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> torch.Tensor:
    """(D, H, W) HU to add: rays of light and dark from each piece of metal, fading with distance."""
    out = torch.zeros(metal.shape)
    strength = uniform(rng, 120, 450)
    fade_mm = uniform(rng, 35, 90)
    fans = smooth_noise(rng, (metal.shape[0], RAYS, 2), 4).clamp(-2, 2)  # alike in neighbouring slices
    y = torch.arange(metal.shape[1])[:, None].float()
    x = torch.arange(metal.shape[2])[None].float()
    for k in metal.flatten(1).any(1).nonzero().flatten().tolist():
        pieces, n = ndimage.label(metal[k].numpy())
        for piece in range(1, min(n, 4) + 1):
            where = np.argwhere(pieces == piece)
            cy, cx = where.mean(0)
            area = len(where) * spacing_mm**2
            angle = torch.atan2(y - cy, x - cx) % torch.pi / torch.pi * RAYS
            fan = fans[k, :, piece % 2].roll(13 * piece)
            rays = fan[angle.long().clamp(0, RAYS - 1)]
            distance = torch.sqrt((y - cy) ** 2 + (x - cx) ** 2) * spacing_mm
            out[k] += rays * strength * min(1.0, area / 150) ** 0.5 * torch.exp(-distance / fade_mm)
    return out


def breathing(hu: torch.Tensor, rng: np.random.Generator, spacing_mm: float) -> torch.Tensor:
    """Double contours where the patient breathed: slices mixed with those some mm away.

    Parameters
    ----------
    hu: (D, H, W).

    Returns
    -------
    (D, H, W); the truth stays where the stronger image is.
    """
    shift = max(1, round(uniform(rng, 4, 12) / spacing_mm)) * (1 if rng.random() < 0.5 else -1)
    index = (torch.arange(hu.shape[0]) + shift).clamp(0, hu.shape[0] - 1)
    when = smooth_noise(rng, (hu.shape[0], 2, 2), uniform(rng, 15, 40) / spacing_mm)[:, 0, 0]
    share = (0.45 * torch.sigmoid(3 * when))[:, None, None]
    return torch.lerp(hu, hu[index], share)
