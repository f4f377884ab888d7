"""A PNG contact sheet of phantoms: axial, coronal and sagittal cuts with lesions outlined.

For looking at, not for measuring.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from training.phantoms.tissues import Phantom

Picture = npt.NDArray[np.uint8]
LESION_COLOUR = (255, 210, 0)
WINDOW = (40.0, 400.0)  # centre and width, HU
LUNG_WINDOW = (-600.0, 1500.0)


def grey(hu: npt.NDArray[np.float32], window: tuple[float, float] = WINDOW) -> Picture:
    """(H, W) HU -> (H, W, 3) uint8 through a window (centre, width)."""
    centre, width = window
    share = np.clip((hu - centre) / width + 0.5, 0, 1)
    return np.repeat((share * 255).astype(np.uint8)[..., None], 3, axis=2)  # (H, W, 3)


def cut(
    phantom: Phantom, axis: int, index: int, window: tuple[float, float] = WINDOW, zoom: int = 2
) -> Picture:
    """One cut with the outlines of the lesions, head up, the patient's right on the left."""
    hu = np.take(phantom.hu.numpy(), index, axis)
    lesions = np.take(phantom.lesions.numpy(), index, axis) > 0
    if axis > 0:
        hu, lesions = hu[::-1], lesions[::-1]
    hu = np.asarray(ndimage.zoom(hu, zoom, order=1), dtype=np.float32)
    mask = lesions.repeat(zoom, 0).repeat(zoom, 1)
    picture = grey(hu, window)
    outline = ndimage.binary_dilation(mask, iterations=1) & ~mask
    picture[outline] = LESION_COLOUR
    return picture


def row(phantom: Phantom, caption: str, zoom: int = 2) -> Picture:
    """One phantom: four axial cuts (the first in the lung window), two coronal, one sagittal; a caption."""
    depth, height, width = phantom.hu.shape
    levels = [int(depth * share) for share in (0.76, 0.57, 0.44, 0.14)]
    masked = [p for p in phantom.planted if p.mask_value]
    if masked:  # show the largest lesion
        biggest = max(masked, key=lambda p: p.diameter_mm)
        levels[1] = int(np.clip(round(biggest.centre[0]), 0, depth - 1))
    axial = [cut(phantom, 0, level, WINDOW if k else LUNG_WINDOW, zoom) for k, level in enumerate(levels)]
    pictures = [np.concatenate(axial[:2]), np.concatenate(axial[2:])]
    pictures += [cut(phantom, 1, int(height * share), zoom=zoom) for share in (0.42, 0.56)]
    pictures.append(cut(phantom, 2, width // 2, zoom=zoom))
    tall = max(p.shape[0] for p in pictures) + 16
    padded = [np.pad(p, ((0, tall - p.shape[0]), (0, 4), (0, 0))) for p in pictures]
    strip = Image.fromarray(np.concatenate(padded, axis=1))
    ImageDraw.Draw(strip).text((4, tall - 14), caption, fill=(255, 255, 255))
    return np.asarray(strip, dtype=np.uint8)


def write_sheet(phantoms: list[tuple[str, Phantom]], path: Path, zoom: int = 2) -> None:
    """Write the rows of several captioned phantoms below each other.

    Raises
    ------
    ValueError: if there is no phantom.
    """
    if not phantoms:
        raise ValueError("a contact sheet needs at least one phantom")
    rows = [row(phantom, caption, zoom) for caption, phantom in phantoms]
    wide = max(r.shape[1] for r in rows)
    sheet = np.concatenate([np.pad(r, ((0, 6), (0, wide - r.shape[1]), (0, 0))) for r in rows])
    Image.fromarray(sheet).save(path)
