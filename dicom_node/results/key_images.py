"""Key images: PNG pictures of what was found, for people whose PACS shows neither SEG nor SR.

Not a viewer and not DICOM. Radiological convention (the patient's right is on the left), soft
tissue or lung window, organ outlines in the colours of the SEG, lesions in red. No patient
identity is in the picture, its name or its metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core_model.abnormality import abnormality
from core_model.anatomy import organ, organs
from core_model.reading import Finding, Lesion, PointLPS, Reading
from core_model.volume import canonical
from dicom_node.results import drawing
from dicom_node.results.colours import organ_colour
from dicom_node.results.equipment import NOT_FOR_DIAGNOSIS
from dicom_node.results.segmentation import lesion_name

# Window centre and width, HU: the usual abdomen and lung settings.
_SOFT, _LUNG = (40.0, 400.0), (-600.0, 1500.0)
# Abnormalities that are seen among air; all others are read in the soft-tissue window.
_IN_AIR = {"lung_nodule"}


@dataclass(frozen=True)
class _Scene:
    """Image and masks in canonical order: slices towards the head, rows posterior, columns left."""

    hu: drawing.Image
    organ_labels: drawing.Labels
    lesion_labels: drawing.Labels
    geometry: hd.VolumeGeometry

    def index(self, point: PointLPS) -> tuple[int, int, int]:
        """Nearest voxel inside the volume."""
        position = self.geometry.map_reference_to_indices(np.array([point], dtype=np.float64))[0]
        z, y, x = (
            int(np.clip(round(float(p)), 0, n - 1))
            for p, n in zip(position, self.geometry.spatial_shape, strict=True)
        )
        return z, y, x

    def axial(self, k: int) -> drawing.Plane:
        """Slice `k` from the feet."""
        _, row_mm, column_mm = self.geometry.spacing
        return drawing.Plane(self.hu[k], self.organ_labels[k], self.lesion_labels[k], row_mm, column_mm)

    def coronal(self, y: int) -> drawing.Plane:
        """Plane `y` from the front, turned head up."""
        slice_mm, _, column_mm = self.geometry.spacing
        return drawing.Plane(
            self.hu[::-1, y], self.organ_labels[::-1, y], self.lesion_labels[::-1, y], slice_mm, column_mm
        )


def write_key_images(
    reading: Reading, volume: hd.Volume, out_dir: Path, *, max_lesions: int = 8
) -> list[Path]:
    """Write ``key_00_overview.png`` and one ``key_NN_<abnormality>.png`` per lesion and finding.

    Parameters
    ----------
    reading: what the model said.
    volume: the CT that was read, HU; its geometry is that of the masks.
    out_dir: an existing folder.
    max_lesions: lesions that get a picture, most probable first.

    Returns
    -------
    The paths, overview first, then lesions, then findings that are present without a lesion.

    Raises
    ------
    ValueError: if `volume` and masks differ in shape, or if the volume is not a 3D CT.
    OSError: if a file cannot be written.
    """
    if volume.spatial_shape != reading.organ_mask.spatial_shape:
        raise ValueError(
            f"volume has shape {volume.spatial_shape}, the masks {reading.organ_mask.spatial_shape}; "
            "give the volume that was read"
        )
    image = canonical(volume)
    scene = _Scene(
        hu=image.array,
        organ_labels=canonical(reading.organ_mask).array,
        lesion_labels=canonical(reading.lesion_mask).array,
        geometry=image.get_geometry(),
    )
    paths = [_save(_overview(scene, reading), out_dir / "key_00_overview.png")]
    shown = reading.lesions[:max_lesions]
    for lesion in shown:
        name = f"key_{len(paths):02d}_{abnormality(lesion.type).name}.png"
        paths.append(_save(_lesion_figure(scene, lesion), out_dir / name))
    with_lesion = {lesion.type for lesion in reading.lesions}
    for finding in reading.findings:
        if finding.status == "present" and finding.abnormality not in with_lesion:
            if finding.position_lps_mm is None:
                continue  # present, but nothing says where: there is no slice to show
            name = f"key_{len(paths):02d}_{abnormality(finding.abnormality).name}.png"
            paths.append(_save(_finding_figure(scene, finding, finding.position_lps_mm), out_dir / name))
    return paths


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, facecolor="black", metadata={"Software": "Sightline", "Comment": NOT_FOR_DIAGNOSIS})
    return path


def _lesion_figure(scene: _Scene, lesion: Lesion) -> Figure:
    """The axial slice where the lesion is largest, and the lesion enlarged without any overlay."""
    inside = scene.lesion_labels == lesion.label
    k = int(np.argmax(inside.sum(axis=(1, 2))))
    window = _LUNG if lesion.type in _IN_AIR else _SOFT
    text = [
        f"probability {100 * lesion.probability:.0f} %",
        f"{lesion.long_axis_mm:.0f} x {lesion.short_axis_mm:.0f} mm, {lesion.volume_ml:.1f} ml",
        f"mean {lesion.mean_hu:.0f} HU",
        f"in: {organ(lesion.organ).display}",
    ]
    figure, axes = _axial(scene, k, window, lesion_name(lesion), text)
    rows, columns = np.nonzero(inside[k])
    if rows.size:
        centre = (float(rows.mean()), float(columns.mean()))
        drawing.inset(figure, axes, scene.axial(k), window, centre)
    return figure


def _finding_figure(scene: _Scene, finding: Finding, position: PointLPS) -> Figure:
    """The axial slice at the finding's position, with the position marked."""
    k, row, column = scene.index(position)
    window = _LUNG if finding.abnormality in _IN_AIR else _SOFT
    text = [f"in: {organ(finding.organ).display}", "circle: strongest evidence"]
    if finding.probability is not None:
        text.insert(0, f"probability {100 * finding.probability:.0f} %")
    figure, axes = _axial(scene, k, window, abnormality(finding.abnormality).display, text)
    plane = scene.axial(k)
    axes.plot(
        [column * plane.column_mm],
        [row * plane.row_mm],
        "o",
        markersize=22,
        markerfacecolor="none",
        markeredgecolor="yellow",
        markeredgewidth=1.2,
    )
    drawing.inset(figure, axes, plane, window, (row, column))
    return figure


def _axial(scene: _Scene, k: int, window: drawing.Window, title: str, text: list[str]) -> tuple[Figure, Axes]:
    """Figure with slice `k`: outlines of organs and lesions, orientation marks, legend at the right."""
    count, rows, columns = scene.hu.shape
    middle = np.array([[k, (rows - 1) / 2, (columns - 1) / 2]])
    z = float(scene.geometry.map_indices_to_reference(middle)[0, 2])
    plane = scene.axial(k)
    figure, axes = drawing.canvas(
        plane,
        window,
        title=title,
        where=f"axial slice {k + 1} of {count} from the feet, z = {z:.1f} mm",
        marks=("A", "P", "R", "L"),
    )
    legend = drawing.outline_organs(axes, plane)
    drawing.outline_lesions(axes, plane)
    drawing.side_text(figure, text, legend)
    return figure, axes


def _overview(scene: _Scene, reading: Reading) -> Figure:
    """A coronal plane with the organs in colour, through the most probable lesion if there is one."""
    if reading.lesions:
        y = scene.index(reading.lesions[0].centroid_lps_mm)[1]
        note = f"plane through {lesion_name(reading.lesions[0])}"
    else:
        # Every fourth column of every second slice is enough to count organs by.
        sample = scene.organ_labels[::2, :, ::4]
        variety = sum((sample == entry.label).any(axis=(0, 2)).astype(int) for entry in organs())
        y = round(float(np.flatnonzero(variety == variety.max()).mean()))
        note = "no lesion found"
    plane = scene.coronal(y)
    figure, axes = drawing.canvas(
        plane, _SOFT, title="Overview", where=f"coronal, {note}", marks=("H", "F", "R", "L")
    )
    overlay = np.zeros((*plane.hu.shape, 4), np.float32)
    for entry in organs():
        overlay[plane.organ_labels == entry.label] = (*drawing.unit(organ_colour(entry.name)), 0.38)
    axes.imshow(overlay, extent=plane.extent, interpolation="nearest")
    legend = drawing.outline_organs(axes, plane)
    drawing.outline_lesions(axes, plane)
    present = sum(1 for entry in reading.organs if entry.present)
    text = [f"organs in view: {present}", f"lesions: {len(reading.lesions)}", "findings present:"]
    positive = [finding for finding in reading.findings if finding.status == "present"]
    text += [f"  {abnormality(f.abnormality).display}" for f in positive] or ["  none"]
    drawing.side_text(figure, text, legend)
    return figure
