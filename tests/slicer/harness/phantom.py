"""A body in formulas, so that it can be scanned in any orientation without resampling.

Not a training phantom: a torso with a liver on the patient's right, a spleen on the left, a spine
behind and one hypodense lesion in the liver. Positions are LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ball:
    """An ellipsoid: centre and semi-axes, mm, and its HU."""

    centre: Point
    radii: Point
    hu: float

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Which of the points (..., 3) are inside."""
        return (((points - self.centre) / self.radii) ** 2).sum(axis=-1) <= 1.0


BODY = Ball((0.0, 0.0, 0.0), (150.0, 110.0, 1000.0), 0.0)
LIVER = Ball((-65.0, -15.0, 0.0), (60.0, 60.0, 55.0), 110.0)
SPLEEN = Ball((85.0, 40.0, 0.0), (28.0, 25.0, 40.0), 120.0)
SPINE = Ball((0.0, 80.0, 0.0), (20.0, 18.0, 1000.0), 400.0)
LESION = Ball((-85.0, 0.0, 20.0), (12.0, 12.0, 12.0), 20.0)
PARTS = (BODY, LIVER, SPLEEN, SPINE, LESION)


@dataclass(frozen=True)
class Grid:
    """Where voxels are: ``ijk_to_lps`` (4, 4) and the number of them along i, j, k."""

    ijk_to_lps: np.ndarray
    shape: tuple[int, int, int]

    def points(self) -> np.ndarray:
        """LPS mm of each voxel, (k, j, i, 3)."""
        i, j, k = (np.arange(n) for n in self.shape)
        kk, jj, ii = np.meshgrid(k, j, i, indexing="ij")
        indices = np.stack([ii, jj, kk], axis=-1)
        return indices @ self.ijk_to_lps[:3, :3].T + self.ijk_to_lps[:3, 3]


def grid(
    order: tuple[int, int, int] = (0, 1, 2),
    signs: tuple[int, int, int] = (1, 1, 1),
    rotation: np.ndarray | None = None,
    spacing: float = 5.0,
) -> Grid:
    """A grid that covers the phantom; axis a of the voxels runs along LPS axis ``order[a]``."""
    # Turned, the longest side may lie along any axis.
    extents = np.array([340.0, 260.0, 160.0]) if rotation is None else np.full(3, 340.0)
    directions = np.zeros((3, 3))
    for axis, (along, sign) in enumerate(zip(order, signs, strict=True)):
        directions[along, axis] = sign
    if rotation is not None:
        directions = rotation @ directions
    shape = tuple(int(extents[along] / spacing) for along in order)
    matrix = np.eye(4)
    matrix[:3, :3] = directions * spacing
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(matrix, shape)


def hounsfield(of: Grid) -> np.ndarray:
    """The CT on a grid, (k, j, i) int16."""
    points = of.points()
    image = np.full(points.shape[:3], -1000, dtype=np.int16)
    for part in PARTS:
        image[part.holds(points)] = part.hu
    return image


def mask(of: Grid, ball: Ball) -> np.ndarray:
    """One part on a grid, (k, j, i) uint8."""
    return ball.holds(of.points()).astype(np.uint8)


def add_volume(of: Grid, series_uid: str | None = None, name: str = "CT"):
    """The CT as a volume node, under a patient and a study as Slicer's DICOM browser places it."""
    return add_voxels(hounsfield(of), of, series_uid, name)


def add_voxels(voxels: np.ndarray, of: Grid, series_uid: str | None = None, name: str = "CT"):
    """As `add_volume`, of any CT (k, j, i) on a grid."""
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ of.ijk_to_lps
    volume = slicer.util.addVolumeFromArray(voxels, ijkToRAS=to_ras, name=name)
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(400, 50)
    if series_uid is not None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        levels = slicer.vtkMRMLSubjectHierarchyConstants
        scene_item = hierarchy.GetSceneItemID()
        patient = hierarchy.CreateSubjectItem(scene_item, "Phantom")
        study = hierarchy.CreateStudyItem(patient, "CT study")
        item = hierarchy.GetItemByDataNode(volume)
        hierarchy.SetItemParent(item, study)
        hierarchy.SetItemUID(item, levels.GetDICOMUIDName(), series_uid)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume
