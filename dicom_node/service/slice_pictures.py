"""The pictures of one slice as PNG: the CT in a window, outlines over it, a heat map over it.

Made here and not in the browser (cornerstone3D was the alternative): a slice takes milliseconds from
file to PNG, the page needs no decoder of DICOM, nothing has to be vendored, and a
workstation behind a thin line gets 8 bits per pixel instead of 16. Three layers, so that the page
can lay them over each other and switch each on and off.

Knows grids and arrays, no archive and no HTTP. Radiological convention: the patient's right is on
the left of the picture, anterior (or the head, where the slices are not axial) is up.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import contourpy
import highdicom as hd
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dicom_node.results.colours import RGB

# Centre and width, HU: the usual settings.
WINDOWS: Mapping[str, tuple[float, float]] = {
    "soft": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
}
MAX_SIDE = 2048  # of a picture; strange pixel spacings ask for more
OUTLINE_SIDE = 1200  # least length of the longer side of outlines: lines stay thin on small matrices
_HEAT_SIDE = 160  # the cells of an encoding are 8 mm wide; the browser smooths the rest
_HEAT_FROM = 0.35  # agreement below is not coloured
_HEAT_COLOURS = np.array([[90, 20, 160], [220, 60, 60], [255, 160, 30], [255, 245, 140]], dtype=np.float64)
_SECOND_LETTER = 0.35  # a direction that leans so far gets a second letter

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """How the slices of a grid lie on the screen, all alike.

    Attributes
    ----------
    transposed: rows of the slice run down the screen's columns.
    flip_down, flip_right: after that, whether the axis is turned round.
    height, width: of a picture; its pixels are square.
    pixel_mm: their side.
    letters: patient directions at the left, right, top and bottom edge, for example R, L, A, P.
    to_lps: (4, 4), (slice, y, x) of a picture -> LPS mm; whole numbers are centres of pixels.
    head_up: +1 where the next slice lies nearer to the head (of slices that are not axial: to the
        patient's left or back), else -1.
    """

    transposed: bool
    flip_down: bool
    flip_right: bool
    height: int
    width: int
    pixel_mm: float
    letters: tuple[str, str, str, str]
    to_lps: npt.NDArray[np.float64]
    head_up: int

    @classmethod
    def of(cls, geometry: hd.VolumeGeometry) -> Layout:
        """The layout of a grid with axes (slice, row, column)."""
        directions = np.asarray(geometry.direction, dtype=np.float64)  # columns: slice, row, column
        across = int(np.abs(directions[:, 0]).argmax())
        right_axis, down_axis = (axis for axis in range(3) if axis != across)
        right, down = np.eye(3)[right_axis], np.eye(3)[down_axis] * (-1 if down_axis == 2 else 1)
        transposed = bool(abs(directions[:, 1] @ right) > abs(directions[:, 2] @ right))
        vertical, horizontal = (2, 1) if transposed else (1, 2)
        flip_down = bool(directions[:, vertical] @ down < 0)
        flip_right = bool(directions[:, horizontal] @ right < 0)
        counts, spacing = geometry.spatial_shape, geometry.spacing
        size_mm = counts[vertical] * spacing[vertical], counts[horizontal] * spacing[horizontal]
        pixel_mm = max(min(spacing[1], spacing[2]), max(size_mm) / MAX_SIDE)
        height, width = (max(1, round(side / pixel_mm)) for side in size_mm)
        to_grid = np.zeros((4, 4))
        to_grid[0, 0] = to_grid[3, 3] = 1
        for axis, screen, pixels, flip in (
            (vertical, 1, height, flip_down),
            (horizontal, 2, width, flip_right),
        ):
            step = counts[axis] / pixels
            to_grid[axis, screen] = -step if flip else step
            to_grid[axis, 3] = (counts[axis] - 1 - (step - 1) / 2) if flip else (step - 1) / 2
        to_lps = np.asarray(geometry.affine) @ to_grid
        shown_right, shown_down = to_lps[:3, 2], to_lps[:3, 1]
        letters = (_letters(-shown_right), _letters(shown_right), _letters(-shown_down), _letters(shown_down))
        head_up = 1 if directions[across, 0] > 0 else -1
        return cls(transposed, flip_down, flip_right, height, width, pixel_mm, letters, to_lps, head_up)

    def arranged(self, plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """A plane (row, column) of the grid as it lies on the screen, in its own pixels."""
        plane = plane.T if self.transposed else plane
        plane = plane[::-1] if self.flip_down else plane
        return plane[:, ::-1] if self.flip_right else plane


def _letters(direction: npt.NDArray[np.float64]) -> str:
    """The patient directions that a vector points to, the strongest first.

    >>> _letters(np.array([2.0, 0.1, 0.0])), _letters(np.array([0.0, -0.9, 0.5]))
    ('L', 'AH')
    """
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit), kind="stable")[:2]
    named = ["RL"[int(unit[axis] > 0)] if axis == 0 else "AP"[int(unit[axis] > 0)] if axis == 1 else
             "FH"[int(unit[axis] > 0)] for axis in order]  # fmt: skip
    return named[0] + (named[1] if abs(unit[order[1]]) > _SECOND_LETTER else "")


def slice_png(hu: npt.NDArray[np.floating], layout: Layout, window: tuple[float, float]) -> bytes:
    """One slice in grey, square pixels.

    Parameters
    ----------
    hu: (rows, columns) of the grid.
    window: centre and width, HU.
    """
    centre, width = window
    grey = np.clip((hu - (centre - width / 2)) * (255 / width), 0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(layout.arranged(grey)))
    size = layout.width, layout.height
    return _png(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR))


def outlines_png(
    layout: Layout,
    organs: Labels | None,
    lesions: Labels | None,
    colours: Mapping[int, RGB],
    lesion_colour: RGB,
) -> bytes:
    """The outlines of all labels of a slice on a transparent ground; lesions thick and with their number.

    Parameters
    ----------
    organs, lesions: (rows, columns) labels; None where they are not wanted.
    colours: of the organs, by label (1 to 249).
    """
    scale = max(1.0, OUTLINE_SIDE / max(layout.width, layout.height))
    size = round(layout.width * scale), round(layout.height * scale)
    image = Image.new("P", size, 0)
    palette = [0] * 768
    for label, colour in {**colours, 250: lesion_colour, 251: (0, 0, 0)}.items():
        palette[3 * label : 3 * label + 3] = colour
    image.putpalette(palette)
    draw = ImageDraw.Draw(image)
    if organs is not None:
        for label in np.unique(organs[organs > 0]):
            for line in _contours(layout, organs == label, size):
                draw.line(line, fill=int(label), width=2, joint="curve")
    if lesions is not None:
        font = ImageFont.load_default(size=28)
        for label in np.unique(lesions[lesions > 0]):
            lines = _contours(layout, lesions == label, size)
            for line in lines:
                draw.line(line, fill=250, width=4, joint="curve")
            corner = max((point for line in lines for point in line), key=lambda p: p[0] - p[1])
            at = corner[0] + 8, corner[1] - 34
            draw.text(at, str(label), fill=250, font=font, stroke_width=2, stroke_fill=251)
    return _png(image, transparency=0)


def _contours(
    layout: Layout, inside: npt.NDArray[np.bool_], size: tuple[int, int]
) -> list[list[tuple[float, float]]]:
    """Closed lines round a mask, in pixels of a picture of `size` (width, height)."""
    shown = np.asarray(layout.arranged(inside))
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    box = np.pad(shown[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float32)
    lines = cast(list[npt.NDArray[np.float64]], contourpy.contour_generator(z=box).lines(0.5))
    scale = np.array([size[0] / shown.shape[1], size[1] / shown.shape[0]])
    offset = np.array([left - 0.5, top - 0.5])  # the ring of background, and centres to edges
    return [[(float(x), float(y)) for x, y in (line + offset) * scale] for line in lines]


def heat_png(
    share: npt.NDArray[np.floating], grid: hd.VolumeGeometry, layout: Layout, slice_index: int
) -> bytes:
    """How well the places of a slice agree with a text, from violet to yellow, on a transparent ground.

    Parameters
    ----------
    share: (d, h, w) 0..1 on `grid`, whose positions are LPS mm as the layout's.

    Returns
    -------
    A small picture of the slice's shape, to be stretched over it.
    """
    step = max(layout.height, layout.width) / _HEAT_SIDE
    height, width = (max(1, math.ceil(side / step)) for side in (layout.height, layout.width))
    y = (np.arange(height) + 0.5) * layout.height / height - 0.5
    x = (np.arange(width) + 0.5) * layout.width / width - 0.5
    points = np.ones((4, height, width))
    points[0], points[1], points[2] = slice_index, y[:, None], x[None, :]
    to_grid = np.asarray(grid.inverse_affine) @ layout.to_lps
    cells = np.tensordot(to_grid, points, axes=1)[:3]
    found = ndimage.map_coordinates(share.astype(np.float32), cells, order=1, mode="constant", cval=0.0)
    strength = np.clip((found - _HEAT_FROM) / (1 - _HEAT_FROM), 0, 1)
    picture = np.empty((height, width, 4), dtype=np.uint8)
    stops = np.linspace(0, 1, len(_HEAT_COLOURS))
    for channel in range(3):
        picture[..., channel] = np.interp(strength, stops, _HEAT_COLOURS[:, channel])
    picture[..., 3] = 150 * np.sqrt(strength)
    return _png(Image.fromarray(picture))


def _png(image: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, **options)  # time counts more than bytes
    return buffer.getvalue()
