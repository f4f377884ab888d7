"""A CT in the scene: who it is to the server, and its pixels as they would be sent.

The series UID is all that identifies it; names of nodes and patients are never read.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from SightlineLib.geometry import lpsFromRasMatrix
from slicer.i18n import tr as _

# Kept with the scene, so that a CT without DICOM is the same one after it was saved and opened.
SERIES_ATTRIBUTE = "Sightline.SeriesInstanceUID"
INSTANCES_ATTRIBUTE = "DICOM.instanceUIDs"
SERIES_TAG = "0020,000e"
# A step of `uploadFile`.
STEP_VOXELS = 1 << 20


def seriesInstanceUid(volumeNode) -> str | None:
    """The Series Instance UID of a volume, None if it did not come from DICOM.

    Looked for in the node's own attribute, in the subject hierarchy, and by one of its instances
    in Slicer's DICOM database.
    """
    known = volumeNode.GetAttribute(SERIES_ATTRIBUTE)
    if known:
        return known
    return _fromSubjectHierarchy(volumeNode) or _fromDatabase(volumeNode)


def seriesInstanceUidOrNew(volumeNode) -> str:
    """As `seriesInstanceUid`; a volume that has none is given one of its own for good."""
    known = seriesInstanceUid(volumeNode)
    if known is None:
        # PS3.5 B.2: a UUID as a decimal number under 2.25.
        known = f"2.25.{uuid.uuid4().int}"
        volumeNode.SetAttribute(SERIES_ATTRIBUTE, known)
    return known


def _fromSubjectHierarchy(volumeNode) -> str | None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return None
    item = hierarchy.GetItemByDataNode(volumeNode)
    if not item:
        return None
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMUIDName()
    return hierarchy.GetItemUID(item, name) or None


def _fromDatabase(volumeNode) -> str | None:
    instances = (volumeNode.GetAttribute(INSTANCES_ATTRIBUTE) or "").split()
    if not instances:
        return None
    return slicer.dicomDatabase.instanceValue(instances[0], SERIES_TAG) or None


def sizeInWords(volumeNode) -> str:
    """Matrix and megabytes of what would be sent, as in ``"512 x 512 x 300, 157 MB"``."""
    voxels = slicer.util.arrayFromVolume(volumeNode)
    columns, rows, slices = voxels.shape[::-1]
    return f"{columns} x {rows} x {slices}, {max(1, round(2 * voxels.size / 1e6))} MB"


def uploadFile(volumeNode) -> Generator[None, None, Any]:
    """The volume as an NRRD file: int16 HU, LPS, and nothing else of the node. In steps.

    Returns
    -------
    qt.QTemporaryFile, open at its start; it is gone from the disk when Qt deletes it.

    Raises
    ------
    ValueError: if it is not one CT volume.
    OSError: if it cannot be written.
    """
    voxels = slicer.util.arrayFromVolume(volumeNode)  # (k, j, i)
    if voxels.ndim != 3:
        raise ValueError(f"volume has {voxels.ndim} dimensions; a CT has 3")
    file = qt.QTemporaryFile(f"{slicer.app.temporaryPath}/sightline-XXXXXX.nrrd")
    if not file.open():
        raise OSError(_("Slicer's temporary folder cannot be written to"))
    _write(file, _header(volumeNode, voxels.shape).encode("ascii"))
    step = max(1, STEP_VOXELS // max(1, voxels[0].size))
    for first in range(0, len(voxels), step):
        part = voxels[first : first + step]
        if part.dtype != np.int16:
            part = np.clip(np.rint(part), -32768, 32767).astype(np.int16)
        _write(file, part.astype("<i2", copy=False).tobytes())
        yield
    file.seek(0)
    return file


def _write(file, content: bytes) -> None:
    if file.write(content) != len(content):
        raise OSError(_("Slicer's temporary folder is full"))


def _header(volumeNode, shape: tuple[int, ...]) -> str:
    ijkToLps = lpsFromRasMatrix(_ijkToRas(volumeNode))
    directions = " ".join(_vector(ijkToLps[:3, axis]) for axis in range(3))
    return (
        "NRRD0004\n"
        "type: int16\n"
        "dimension: 3\n"
        "space: left-posterior-superior\n"
        f"sizes: {' '.join(str(n) for n in shape[::-1])}\n"
        f"space directions: {directions}\n"
        "kinds: domain domain domain\n"
        "endian: little\n"
        "encoding: raw\n"
        f"space origin: {_vector(ijkToLps[:3, 3])}\n"
        "\n"
    )


def _ijkToRas(volumeNode) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _vector(values: np.ndarray) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"
