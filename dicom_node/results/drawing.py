"""The drawing of one slice with its outlines, marks and texts, for the key images.

Knows slices and millimetres, not readings: `key_images` chooses what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from core_model.anatomy import organs
from dicom_node.results.colours import LESION, RGB, organ_colour
from dicom_node.results.equipment import NOT_FOR_DIAGNOSIS

Image = npt.NDArray[np.floating | np.integer]
Labels = npt.NDArray[np.uint8]
Window = tuple[float, float]  # centre and width, HU

_INSET_MM = 90.0
_MARGIN_MM = 12.0


@dataclass(frozen=True)
class Plane:
    """One slice as it is shown: image and masks of the same shape, and their pixel spacing, mm."""

    hu: Image
    organ_labels: Labels
    lesion_labels: Labels
    row_mm: float
    column_mm: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top in mm, with the first pixel's centre at 0."""
        rows, columns = self.hu.shape
        return (
            -self.column_mm / 2,
            (columns - 0.5) * self.column_mm,
            (rows - 0.5) * self.row_mm,
            -self.row_mm / 2,
        )


def canvas(
    plane: Plane, window: Window, *, title: str, where: str, marks: tuple[str, str, str, str]
) -> tuple[Figure, Axes]:
    """A figure with the image in millimetres, cut to the body, with a scale.

    `marks` are the orientation letters at the top, bottom, left and right.
    """
    figure = Figure(figsize=(10.4, 7.6), dpi=100)
    axes = figure.add_axes((0.01, 0.05, 0.69, 0.88))
    _show(axes, plane, window)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.autoscale(False)
    left, right, bottom, top = _body_box(plane)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    places = ((0.5, 0.97), (0.5, 0.03), (0.025, 0.5), (0.975, 0.5))
    for letter, (x, y) in zip(marks, places, strict=True):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=13,
            fontweight="bold",
            ha="center",
            va="center",
            path_effects=_rim(),
        )
    _scale_bar(axes, left, bottom, 50.0 if right - left > 150 else 10.0)
    figure.text(0.01, 0.95, title[:1].upper() + title[1:], color="white", fontsize=15, fontweight="bold")
    caption = f"{where}   |   window {window[0]:.0f}/{window[1]:.0f} HU   |   {NOT_FOR_DIAGNOSIS}"
    figure.text(0.01, 0.015, caption, color="0.75", fontsize=9)
    return figure, axes


def _show(axes: Axes, plane: Plane, window: Window) -> None:
    """The image in grey on a millimetre scale."""
    centre, width = window
    axes.imshow(
        plane.hu,
        cmap="gray",
        vmin=centre - width / 2,
        vmax=centre + width / 2,
        extent=plane.extent,
        interpolation="bilinear",
    )


def _scale_bar(axes: Axes, left: float, bottom: float, length: float) -> None:
    """A bar of `length` mm near the corner (left, bottom)."""
    x, y = left + 8, bottom - 8
    axes.plot([x, x + length], [y, y], color="white", linewidth=2, path_effects=_rim())
    axes.text(
        x + length / 2,
        y - 3,
        f"{length / 10:.0f} cm",
        color="white",
        fontsize=9,
        ha="center",
        path_effects=_rim(),
    )


def _rim() -> list[patheffects.AbstractPathEffect]:
    """Black rims, so that letters are read on bright tissue too."""
    return [patheffects.withStroke(linewidth=2.5, foreground="black")]


def _body_box(plane: Plane) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in mm of the largest thing that is not air, with a margin.

    The table is narrow and falls to the opening, or is apart from the body.
    """
    solid = ndimage.binary_opening(plane.hu > -300, iterations=2)
    labels, count = ndimage.label(solid)
    left, right, bottom, top = plane.extent
    if count == 0:
        return left, right, bottom, top
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    rows, columns = ndimage.find_objects(labels)[largest - 1]
    return (
        max(left, columns.start * plane.column_mm - _MARGIN_MM),
        min(right, columns.stop * plane.column_mm + _MARGIN_MM),
        min(bottom, rows.stop * plane.row_mm + _MARGIN_MM),
        max(top, rows.start * plane.row_mm - _MARGIN_MM),
    )


def outline_organs(axes: Axes, plane: Plane) -> list[tuple[str, RGB]]:
    """Draw the outline of every organ in a slice; returns name and colour of each, largest first."""
    counts = np.bincount(plane.organ_labels.ravel(), minlength=len(organs()) + 1)
    drawn = sorted((entry for entry in organs() if counts[entry.label]), key=lambda e: -counts[e.label])
    for entry in drawn:
        _outline(axes, plane, plane.organ_labels == entry.label, organ_colour(entry.name), 0.9)
    return [(entry.display, organ_colour(entry.name)) for entry in drawn]


def outline_lesions(axes: Axes, plane: Plane) -> None:
    """Draw the outline of every lesion in a slice, with its number beside it."""
    for label in np.unique(plane.lesion_labels[plane.lesion_labels > 0]):
        inside = plane.lesion_labels == label
        _outline(axes, plane, inside, LESION, 1.8)
        rows, columns = np.nonzero(inside)
        axes.text(
            (columns.max() + 1) * plane.column_mm + 2,
            rows.min() * plane.row_mm - 2,
            str(label),
            color=unit(LESION),
            fontsize=11,
            fontweight="bold",
            path_effects=_rim(),
        )


def _outline(axes: Axes, plane: Plane, inside: npt.NDArray[np.bool_], colour: RGB, width: float) -> None:
    """The contour of a mask; one ring of background is added so that it closes at the border."""
    padded = np.pad(inside, 1).astype(np.float32)
    x = (np.arange(padded.shape[1]) - 1) * plane.column_mm
    y = (np.arange(padded.shape[0]) - 1) * plane.row_mm
    axes.contour(x, y, padded, levels=[0.5], colors=[unit(colour)], linewidths=[width])


def side_text(figure: Figure, text: list[str], legend: list[tuple[str, RGB]]) -> None:
    """Numbers at the top of the right column, the organ legend at its bottom."""
    for line, content in enumerate(text):
        figure.text(0.72, 0.90 - 0.035 * line, content, color="white", fontsize=11)
    rows = legend[:12]
    for line, (name, colour) in enumerate(rows):
        y = 0.07 + 0.026 * (len(rows) - 1 - line)
        figure.text(0.72, y, "■", color=unit(colour), fontsize=10)
        figure.text(0.74, y, name, color="0.85", fontsize=9)


def inset(figure: Figure, axes: Axes, plane: Plane, window: Window, centre: tuple[float, float]) -> None:
    """`_INSET_MM` round (row, column) enlarged without overlay, and its frame in the main picture."""
    y, x = centre[0] * plane.row_mm, centre[1] * plane.column_mm
    half = _INSET_MM / 2
    box = figure.add_axes((0.72, 0.42, 0.265, 0.265 * 10.4 / 7.6))
    _show(box, plane, window)
    box.set_xlim(x - half, x + half)
    box.set_ylim(y + half, y - half)
    box.set_facecolor("black")
    box.set_xticks([])
    box.set_yticks([])
    for side in box.spines.values():
        side.set_color("0.6")
    figure.text(0.72, 0.40, f"enlarged, {_INSET_MM:.0f} mm, no overlay", color="0.75", fontsize=9)
    box_x = [x - half, x + half, x + half, x - half, x - half]
    box_y = [y - half, y - half, y + half, y + half, y - half]
    axes.plot(box_x, box_y, color="0.6", linewidth=0.7, linestyle="--")


def unit(colour: RGB) -> tuple[float, float, float]:
    """The colour with components 0..1, as matplotlib wants it."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255
