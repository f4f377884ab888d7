"""The masks of a stored reading on the CT's grid, as ``.seg.nrrd``.

Not made anew: they come out of the DICOM-SEG that the node keeps, once, and stay beside it.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt

from dicom_node.archive import Archive
from dicom_node.errors import SightlineError
from dicom_node.instances import NotDicomError, read_instance
from dicom_node.reading_files import LESIONS, ORGANS, READING
from dicom_node.service.catalogue import Held
from dicom_node.service.errors import ApiError
from dicom_node.service.segments import lesion_segments, organ_segments, segments_nrrd

Kind = Literal["organs", "lesions"]
_SEG = {"organs": ORGANS, "lesions": LESIONS}
_GONE = "the stored results of the study are missing or damaged"


def masks_file(kind: Kind) -> str:
    """Name of the file beside the other results."""
    return f"{kind}.seg.nrrd"


def stored_masks(archive: Archive, held: Held, kind: Kind) -> bytes:
    """The masks of a study's reading as ``.seg.nrrd``; without a segment where nothing was found.

    Raises
    ------
    ApiError: 409, the reading has no such masks, or its files or the CT's are missing.
    """
    path = held.folder / masks_file(kind)
    if path.exists():
        return path.read_bytes()
    if held.is_upload:
        raise ApiError(409, _GONE, "upload the volume again")
    try:
        content = _made(archive, held, kind)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        part.write_bytes(content)
        part.rename(path)
    except (OSError, NotDicomError, SightlineError):
        raise ApiError(409, _GONE, "send the study again") from None
    return content


def _made(archive: Archive, held: Held, kind: Kind) -> bytes:
    document = json.loads((held.folder / READING).read_text(encoding="utf-8"))
    geometry = ct_geometry(archive, held.slices)
    path = held.folder / _SEG[kind]
    labels = np.zeros(geometry.spatial_shape, dtype=np.uint8)
    if path.exists():
        labels = label_planes(path, held.slices)
    elif kind == "organs" and any(organ["present"] for organ in document["organs"]):
        raise ApiError(
            409, "the organ masks of the study were not kept", "set results.organs = true and send it again"
        )
    segments = organ_segments() if kind == "organs" else lesion_segments(document["lesions"])
    return segments_nrrd(geometry.with_array(labels), segments)


def label_planes(path: Path, slices: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """(slices, rows, columns) segment numbers of a SEG, plane k on slice k.

    Raises
    ------
    OSError, ValueError: the file is missing or damaged.
    """
    planes = hd.seg.segread(path).get_pixels_by_source_instance(
        source_sop_instance_uids=list(slices),
        combine_segments=True,
        skip_overlap_checks=True,  # the reader draws none
        assert_missing_frames_are_empty=True,
        dtype=np.uint8,
    )
    return np.asarray(planes, dtype=np.uint8)


def ct_geometry(archive: Archive, slices: tuple[str, ...]) -> hd.VolumeGeometry:
    """The grid (slice, row, column) of a series that was read, from its first and last header; LPS mm.

    Raises
    ------
    OSError, NotDicomError, SightlineError: a file is missing or damaged.
    """
    first, last = (read_instance(archive.path(uid)) for uid in (slices[0], slices[-1]))
    if first.position_mm is None or last.position_mm is None:
        raise SightlineError("a slice of the series has no position; send the study again")
    if first.orientation is None or first.pixel_spacing_mm is None:
        raise SightlineError("a slice of the series has no orientation; send the study again")
    along_row, along_column = np.reshape(first.orientation, (2, 3))
    affine = np.eye(4)
    start, end = np.asarray(first.position_mm), np.asarray(last.position_mm)
    affine[:3, 0] = (end - start) / max(1, len(slices) - 1)
    affine[:3, 1] = along_column * first.pixel_spacing_mm[0]
    affine[:3, 2] = along_row * first.pixel_spacing_mm[1]
    affine[:3, 3] = start
    return hd.VolumeGeometry(
        affine,
        spatial_shape=(len(slices), first.rows, first.columns),
        coordinate_system="PATIENT",
        frame_of_reference_uid=first.frame_of_reference_uid,
    )
