"""PNGs of the demo: the phantom's CT with what was planted and what came back drawn on it.

Not the node's key images (`dicom_node.results.key_images`), which know no truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core_model.abnormality import abnormality
from dicom_node.demo_truth import PlantedResult, Scene
from dicom_node.results import drawing

_SOFT, _LUNG = (40.0, 400.0), (-600.0, 1500.0)  # window centre and width, HU
_TRUTH = "#40ff40"


def write_pictures(scene: Scene, planted: Sequence[PlantedResult], folder: Path) -> list[Path]:
    """Write one axial picture per planted lesion that has a mask, and a coronal overview.

    Parameters
    ----------
    scene: image, truth and results on one grid.
    planted: the comparison, for the captions.
    folder: existing.

    Returns
    -------
    The paths, overview first.
    """
    paths = [folder / "demo_00_overview.png"]
    _overview(scene).savefig(paths[0], facecolor="black")
    for result in planted:
        if not result.planted.mask_value:
            continue
        name = abnormality(result.planted.abnormality).name  # from our own table, not from the truth file
        path = folder / f"demo_{len(paths):02d}_{name}.png"
        _axial(scene, result).savefig(path, facecolor="black")
        paths.append(path)
    return paths


def _plane(scene: Scene, k: int) -> drawing.Plane:
    _, row_mm, column_mm = scene.ct.spacing
    return drawing.Plane(scene.ct.array[k], scene.organs[k], scene.lesions[k], row_mm, column_mm)


def _axial(scene: Scene, result: PlantedResult) -> Figure:
    entry = result.planted
    truth = scene.truth == entry.mask_value
    k = int(truth.sum(axis=(1, 2)).argmax())
    window = _LUNG if entry.organ == "lung" else _SOFT
    title = f"planted: {entry.side} {abnormality(entry.abnormality).display} {entry.diameter_mm:.0f} mm"
    plane = _plane(scene, k)
    figure, axes = drawing.canvas(
        plane,
        window,
        title=title.replace(":  ", ": "),
        where=f"axial slice {k + 1} of {len(scene.ct.array)} from the feet",
        marks=("A", "P", "R", "L"),
    )
    legend = drawing.outline_organs(axes, plane)
    drawing.outline_lesions(axes, plane)
    _outline_truth(axes, plane, truth[k])
    text = ["green: planted", "red: found (SEG)" if result.segmented else "reported, not drawn"]
    text.append("found" if result.found else "not found")
    if result.dice is not None:
        text.append(f"Dice {result.dice:.2f}")
    if result.distance_mm is not None:
        text.append(f"{result.distance_mm:.1f} mm apart")
    drawing.side_text(figure, text, legend)
    rows, columns = np.nonzero(truth[k])
    drawing.inset(figure, axes, plane, window, (float(rows.mean()), float(columns.mean())))
    return figure


def _overview(scene: Scene) -> Figure:
    """The coronal plane through the largest planted lesion, or through the middle."""
    y = scene.ct.spatial_shape[1] // 2
    target = scene.largest()
    if target is not None and target.centroid_lps_mm is not None:
        index = scene.ct.map_reference_to_indices(np.array([target.centroid_lps_mm]))[0]
        y = int(np.clip(round(float(index[1])), 0, scene.ct.spatial_shape[1] - 1))
    slice_mm, _, column_mm = scene.ct.spacing
    plane = drawing.Plane(
        scene.ct.array[::-1, y], scene.organs[::-1, y], scene.lesions[::-1, y], slice_mm, column_mm
    )
    figure, axes = drawing.canvas(
        plane, _SOFT, title="Demo: a phantom, read", where="coronal", marks=("H", "F", "R", "L")
    )
    legend = drawing.outline_organs(axes, plane)
    drawing.outline_lesions(axes, plane)
    _outline_truth(axes, plane, scene.truth[::-1, y] > 0)
    drawing.side_text(figure, ["green: planted", "red: found (SEG)"], legend)
    return figure


def _outline_truth(axes: Axes, plane: drawing.Plane, inside: np.ndarray) -> None:
    if not inside.any():
        return
    rows, columns = inside.shape
    axes.contour(
        np.arange(columns) * plane.column_mm,
        np.arange(rows) * plane.row_mm,
        inside.astype(np.float32),
        levels=[0.5],
        colors=[_TRUTH],
        linewidths=[1.2],
        linestyles=["--"],
    )
