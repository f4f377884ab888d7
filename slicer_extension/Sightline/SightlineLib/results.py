"""What the server found, as nodes of the scene: places, heat map, outline, lesions, organs.

Positions come in LPS of the CT as it was acquired; a transform that the CT stands under in the
scene holds for everything here too. Nodes are reused, so that questions do not fill the scene.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import slicer
import vtk
from SightlineLib import segments
from SightlineLib.failures import AnswerError
from SightlineLib.geometry import rasFromLps
from slicer.i18n import tr as _

HITS, HEAT_MAP, MASK, LESIONS, ORGANS = "hits", "heatMap", "mask", "lesions", "organs"
ROLE_ATTRIBUTE = "Sightline.Role"
HEAT_COLOURS = "vtkMRMLColorTableNodeWarm1"
HEAT_FROM = 0.5
HEAT_OPACITY = 0.4
MASK_COLOUR = (0.1, 0.9, 0.9)


class Results:
    """The nodes that this module has put into the scene for one CT."""

    def __init__(self) -> None:
        self._lesionsAsSent: dict[str, tuple[str, int]] = {}

    @property
    def lesionsEdited(self) -> bool:
        """Whether the user has changed the lesions since they came, or were sent."""
        node = self.find(LESIONS)
        return node is not None and _state(node) != self._lesionsAsSent

    def lesionsSent(self) -> None:
        """What the lesions are now is known to the server."""
        node = self.find(LESIONS)
        self._lesionsAsSent = {} if node is None else _state(node)

    def jump(self, volumeNode, positionLps: Sequence[float]) -> None:
        """Take all slice views to a place, with the CT in them."""
        point = worldRas(volumeNode, positionLps)
        self.showVolume(volumeNode)
        mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *point, mode)

    def showVolume(self, volumeNode) -> None:
        """Have the CT in the slice views; views that show it already are left as they are."""
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if composite.GetBackgroundVolumeID() != volumeNode.GetID():
                composite.SetBackgroundVolumeID(volumeNode.GetID())

    def showHits(self, volumeNode, positionsLps: Sequence[Sequence[float]]) -> None:
        """Mark the places by their rank."""
        node = self._node(HITS, "vtkMRMLMarkupsFiducialNode", _("Sightline places"), volumeNode)
        with slicer.util.NodeModify(node):
            node.RemoveAllControlPoints()
            for rank, position in enumerate(positionsLps, start=1):
                # In the coordinates of the CT: the node stands under the same transform.
                node.AddControlPoint(vtk.vtkVector3d(*rasFromLps(position)), str(rank))
            node.SetLocked(True)
            display = node.GetDisplayNode()
            display.SetGlyphTypeFromString("CrossDot2D")
            display.SetGlyphScale(2.0)
            display.SetTextScale(3.0)
        self.standOn(0)

    def standOn(self, index: int) -> None:
        """Make one of the places the chosen one."""
        node = self.find(HITS)
        for point in range(0 if node is None else node.GetNumberOfControlPoints()):
            node.SetNthControlPointSelected(point, point == index)

    def showHeatMap(self, volumeNode, nrrd: bytes) -> None:
        """Lay the heat map over the CT."""
        node = self._node(HEAT_MAP, "vtkMRMLScalarVolumeNode", _("Sightline heat map"), volumeNode)
        _read(node, nrrd)
        display = node.GetDisplayNode()
        with slicer.util.NodeModify(display):
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(0.0, 1.0)
            display.SetAndObserveColorNodeID(HEAT_COLOURS)
            display.SetThreshold(HEAT_FROM, 1.0)
            display.SetApplyThreshold(True)
        slicer.util.setSliceViewerLayers(foreground=node, foregroundOpacity=HEAT_OPACITY)

    def showMask(self, volumeNode, segNrrd: bytes) -> Generator[None, None, None]:
        """Draw the outline of what was asked, in steps."""
        node = yield from self._segmentation(MASK, _("Sightline outline"), volumeNode, segNrrd)
        segmentation = node.GetSegmentation()
        for index in range(segmentation.GetNumberOfSegments()):
            segmentation.GetNthSegment(index).SetColor(*MASK_COLOUR)
        node.GetDisplayNode().SetOpacity2DFill(0.2)

    def showLesions(self, volumeNode, segNrrd: bytes | None) -> Generator[None, None, None]:
        """Draw the lesions, to be corrected, in steps; None where the server found none."""
        yield from self._segmentation(LESIONS, _("Sightline lesions"), volumeNode, segNrrd)
        self.lesionsSent()

    def showOrgans(self, volumeNode, segNrrd: bytes) -> Generator[None, None, None]:
        """Draw the organs, in steps."""
        node = yield from self._segmentation(ORGANS, _("Sightline organs"), volumeNode, segNrrd)
        node.GetDisplayNode().SetOpacity2DFill(0.2)

    def lesionFile(self, volumeNode) -> Generator[None, None, bytes]:
        """The lesions as they stand now, as a .seg.nrrd file on the voxels of the CT, in steps.

        Raises
        ------
        RuntimeError: if there are none in the scene or they cannot be written.
        """
        node = self.find(LESIONS)
        if node is None:
            raise RuntimeError(_("The lesions are no longer in the scene. Read the findings again."))
        return (yield from segments.fileOf(node, volumeNode))

    def hide(self, *roles: str) -> None:
        """Take nodes of some roles out of the scene."""
        for role in roles:
            node = self.find(role)
            if node is not None:
                displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
                # The node first: without its display the slice logic would give it a new one.
                for each in [node, *displays]:
                    slicer.mrmlScene.RemoveNode(each)

    def find(self, role: str):
        """The node of a role, None if it is not in the scene."""
        for node in slicer.util.getNodesByClass("vtkMRMLDisplayableNode"):
            if node.GetAttribute(ROLE_ATTRIBUTE) == role:
                return node
        return None

    def _node(self, role: str, kind: str, name: str, volumeNode):
        node = self.find(role)
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
            node.SetAttribute(ROLE_ATTRIBUTE, role)
            node.CreateDefaultDisplayNodes()
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        _putBeside(node, volumeNode)
        return node

    def _segmentation(
        self, role: str, name: str, volumeNode, segNrrd: bytes | None
    ) -> Generator[None, None, Any]:
        self.hide(role)
        node = self._node(role, "vtkMRMLSegmentationNode", name, volumeNode)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        yield
        if segNrrd is not None:
            yield from segments.readInto(node, segNrrd)
        return node


def worldRas(volumeNode, positionLps: Sequence[float]) -> tuple[float, float, float]:
    """Where a position of the CT is in the scene, RAS mm, its transforms applied."""
    point = rasFromLps(positionLps)
    parent = volumeNode.GetParentTransformNode()
    if parent is None:
        return point
    toWorld = vtk.vtkGeneralTransform()
    parent.GetTransformToWorld(toWorld)
    return tuple(toWorld.TransformPoint(point))


def _state(segmentationNode) -> dict[str, tuple[str, int]]:
    """Name and time of change of each segment, by identifier; drawing changes the time.

    Events of the segmentation are no help: after a file was read some edits send none.
    """
    segmentation = segmentationNode.GetSegmentation()
    state = {}
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        labels = segment.GetRepresentation(segmentation.GetSourceRepresentationName())
        time = 0 if labels is None else labels.GetMTime()
        state[segmentation.GetNthSegmentID(index)] = (segment.GetName(), time)
    return state


def _putBeside(node, volumeNode) -> None:
    """Place a node where the CT is in the subject hierarchy: under its study and patient."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(volumeNode))
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), parent)


def _read(node, nrrd: bytes) -> None:
    """Fill a volume node from the bytes of a file by Slicer's own reader.

    Raises
    ------
    AnswerError: if they are not such a file.
    """
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    with _folder() as folder:
        path = folder / "answer.nrrd"
        path.write_bytes(nrrd)
        storage.SetFileName(str(path))
        if not storage.ReadData(node):
            raise AnswerError(_("What the server sent is not an image that Slicer can read. Ask again."))


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder of Slicer's temporary files that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sightline-", dir=slicer.app.temporaryPath) as name:
        yield Path(name)
