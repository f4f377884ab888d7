"""A sample of a data set as a picture: three cuts with organs and findings over them, and its words below.

For looking at whether a set is read rightly. Not for reading a scan: contrast and sizes suit a glance.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core_model.anatomy import organs
from training.datasets.sample import Sample, SliceSnippet

WINDOW_HU = (-400.0, 500.0)  # lung and soft tissue at a glance
FINDING_COLOUR, LINE_COLOUR = "#ffd200", "#4cc9f0"
OVERLAY = 0.35
WIDTH, WORDS = 150, 1500  # characters of a line, and of the words in all


def write_picture(sample: Sample, path: Path) -> None:
    """Draw a sample into a PNG file, its folder made if it is missing."""
    volume = sample.volume
    snippet = _shown_snippet(sample)
    finding = _finding_mask(sample, snippet)
    at = _cut(sample, snippet, finding)
    lines = _words(sample, snippet)
    figure = Figure(figsize=(13, 5.2 + 0.17 * len(lines)), facecolor="white", layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[5.0, 0.3 + 0.17 * len(lines)])
    palette = _palette()
    for axis, title in enumerate(("axial", "coronal", "sagittal")):
        axes = figure.add_subplot(grid[0, axis])
        _draw(axes, sample, finding, palette, axis=axis, index=at[axis])
        axes.set_title(f"{title} {at[axis] + 1} of {volume.spatial_shape[axis]}", fontsize=9)
        if snippet is not None and axis > 0:
            height = (snippet.slice_index + 0.5) * volume.spacing[0]
            axes.axhline(height, color=LINE_COLOUR, lw=1)
            axes.text(0, height, f" slice {snippet.slice_index}", color=LINE_COLOUR, fontsize=7, va="bottom")
    below = figure.add_subplot(grid[1, :])
    below.axis("off")
    below.text(0, 1, "\n".join(lines), va="top", fontsize=8, family="DejaVu Sans", transform=below.transAxes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def _palette() -> npt.NDArray[np.float64]:
    """(256, 4) colour of each label; what is no reading organ is transparent."""
    colours = np.zeros((256, 4))
    wheel = mpl.colormaps["gist_ncar"](np.linspace(0.05, 0.95, len(organs())))
    order = np.random.default_rng(3).permutation(len(organs()))  # neighbours differ in colour
    for organ, colour in zip(organs(), wheel[order], strict=True):
        colours[organ.label] = (*colour[:3], OVERLAY)
    return colours


def _draw(
    axes: Axes,
    sample: Sample,
    finding: npt.NDArray[np.bool_] | None,
    palette: npt.NDArray[np.float64],
    *,
    axis: int,
    index: int,
) -> None:
    """One cut; the patient's right, or front, on the left of the picture, the head up."""
    volume = sample.volume
    others = [a for a in range(3) if a != axis]
    high, wide = (volume.spatial_shape[a] * volume.spacing[a] for a in others)
    origin = "upper" if axis == 0 else "lower"
    extent = (0, wide, high, 0) if axis == 0 else (0, wide, 0, high)
    hu = np.take(volume.array, index, axis)
    axes.imshow(hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], extent=extent, origin=origin)
    if sample.organs is not None:
        axes.imshow(palette[np.take(sample.organs, index, axis)], extent=extent, origin=origin)
    if finding is not None and (shown := np.take(finding, index, axis)).any():
        rows, columns = shown.shape
        x = (np.arange(columns) + 0.5) * wide / columns
        y = (np.arange(rows) + 0.5) * high / rows
        axes.contour(x, y, shown.astype(float), levels=[0.5], colors=FINDING_COLOUR, linewidths=1)
    left, right = ("front", "back") if axis == 2 else ("R", "L")
    for place, text, align in ((0.01, left, "left"), (0.99, right, "right")):
        axes.text(place, 0.02, text, color="w", fontsize=8, ha=align, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _shown_snippet(sample: Sample) -> SliceSnippet | None:
    return sample.snippets[0] if sample.snippets else None


def _finding_mask(sample: Sample, snippet: SliceSnippet | None) -> npt.NDArray[np.bool_] | None:
    """The mask of the snippet's finding, or all tumours of the set; (slices, rows, columns)."""
    if snippet is not None and snippet.finding is not None and sample.finding_masks is not None:
        mask: npt.NDArray[np.bool_] = sample.finding_masks[snippet.finding]
        return mask
    return None if sample.tumours is None else sample.tumours > 0


def _cut(
    sample: Sample, snippet: SliceSnippet | None, finding: npt.NDArray[np.bool_] | None
) -> tuple[int, int, int]:
    """Indices of the three cuts: through the snippet's slice and the finding's middle, else the scan's middle."""
    depth, height, width = sample.volume.spatial_shape
    at = [depth // 2, height // 2, width // 2]
    if finding is not None and finding.any():
        at[0] = int(finding.sum(axis=(1, 2)).argmax())
        plane = np.argwhere(finding[at[0]]).mean(axis=0)
        at[1:] = [round(float(v)) for v in plane]
    if snippet is not None:
        at[0] = snippet.slice_index
    return at[0], at[1], at[2]


def _words(sample: Sample, snippet: SliceSnippet | None) -> list[str]:
    record, volume = sample.record, sample.volume
    size = " x ".join(str(n) for n in volume.spatial_shape)
    spacing = " x ".join(f"{s:.2f}" for s in volume.spacing)
    present = [name for name, there in record.labels.items() if there]
    facts = [f"{record.name}   {record.split or 'no split'}   {size} voxels of {spacing} mm"]
    if record.labels:
        facts.append(f"present: {', '.join(present) or 'nothing'} (of {len(record.labels)} labels known)")
    if snippet is not None:
        facts.append(f"slice {snippet.slice_index}: {snippet.text}")
    text = " ".join(record.report.split())
    text = text if len(text) <= WORDS else f"{text[:WORDS]} ..."
    return [line for fact in (*facts, text) for line in textwrap.wrap(fact, WIDTH)]


__all__ = ["write_picture"]
