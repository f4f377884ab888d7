"""The masks of a stored reading on the CT's grid, as ``.seg.nrrd``.

Not made anew: they come out of the DICOM-SEG that the node keeps, once, and stay beside it.
"""

from __future__ import annotations

import itertools
import json
import uuid
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt

from dicom_node.archive import Archive
from dicom_node.errors import SightlineError
from dicom_node.instances import NotDicomError
from dicom_node.reading_files import LESIONS, ORGANS, READING
from dicom_node.series import CandidateSeries, classify_series
from dicom_node.series_frames import read_references
from dicom_node.series_resampling import SliceGrid
from dicom_node.series_settings import WAS_READ
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
    series = _ct_series(archive, held.slices)
    grid = series.grid
    path = held.folder / _SEG[kind]
    labels = np.zeros((len(held.slices), grid.rows, grid.columns), dtype=np.uint8)
    if path.exists():
        labels = label_planes(path, series.references)
    elif kind == "organs" and any(organ["present"] for organ in document["organs"]):
        raise ApiError(
            409, "the organ masks of the study were not kept", "set results.organs = true and send it again"
        )
    segments = organ_segments() if kind == "organs" else lesion_segments(document["lesions"])
    # Programs that show volumes know regular grids only: of slices that make none, the one that was read.
    volume = grid.geometry.with_array(grid.resampled(labels, 0, labels=True))
    return segments_nrrd(volume, segments)


def label_planes(path: Path, slices: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """(slices, rows, columns) segment numbers of a SEG, plane k on slice k.

    Parameters
    ----------
    slices: as `Held.slices`.

    Raises
    ------
    OSError, ValueError: the file is missing or damaged.
    """
    segmentation = hd.seg.segread(path)
    parts = [reference.partition("#") for reference in slices]
    if not any(frame for _, _, frame in parts):
        planes = segmentation.get_pixels_by_source_instance(
            [uid for uid, _, _ in parts],
            combine_segments=True,
            skip_overlap_checks=True,  # the reader draws none
            assert_missing_frames_are_empty=True,
            dtype=np.uint8,
        )
        return np.asarray(planes, dtype=np.uint8)
    of_objects = [
        segmentation.get_pixels_by_source_frame(
            uid,
            [int(frame) for _, _, frame in frames],
            combine_segments=True,
            skip_overlap_checks=True,
            assert_missing_frames_are_empty=True,
            dtype=np.uint8,
        )
        for uid, frames in itertools.groupby(parts, key=lambda part: part[0])
    ]
    return np.concatenate(of_objects).astype(np.uint8, copy=False)


def ct_grid(archive: Archive, slices: tuple[str, ...]) -> SliceGrid:
    """How the slices of a series that was read lie, and the regular grid that it was read on; LPS mm.

    Raises
    ------
    OSError, NotDicomError, SightlineError: a file is missing or damaged.
    """
    return _ct_series(archive, slices).grid


def _ct_series(archive: Archive, slices: tuple[str, ...]) -> CandidateSeries:
    series = classify_series(read_references(slices, archive.path), WAS_READ)
    if not isinstance(series, CandidateSeries):
        raise SightlineError(f"the series can no longer be read: {series.reason}; send the study again")
    return series
