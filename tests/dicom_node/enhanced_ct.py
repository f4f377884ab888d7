"""Enhanced and Legacy Converted Enhanced CT made frame by frame, for the tests of multi-frame input.

Not a whole Enhanced CT IOD: the functional groups that say where a frame lies and what its values
are, shared or per frame as a test wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage

from tests.dicom_node.ct_files import ROOT, stored_values, write_ct

UID = f"{ROOT}.8.1"
ROWS, COLUMNS = 16, 20


@dataclass(frozen=True)
class Frame:
    """One frame: where it lies, what its values mean, and what it belongs to."""

    height_mm: float
    k: int  # its pixels are those of slice k of `ct_files`
    stack: str = "1"
    temporal: int | None = None
    slope: float = 1.0
    intercept: float = -1024.0
    frame_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE")
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)


def item(**values: object) -> Items:
    """A sequence of one item."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return Items([dataset])


def write_enhanced(
    folder: Path,
    frames: Sequence[Frame],
    *,
    uid: str = UID,
    sop_class: str = EnhancedCTImageStorage,
    shared_orientation: bool = True,
) -> Path:
    """Write one object with the frames in the order given."""

    def change(dataset: FileDataset, _: int) -> None:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(dataset, keyword)
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
            delattr(dataset, keyword)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.ImageType = list(frames[0].frame_type)
        dataset.NumberOfFrames = len(frames)
        shared = Dataset()
        shared.PixelMeasuresSequence = item(PixelSpacing=[0.8, 0.7], SliceThickness=3)
        if shared_orientation:
            shared.PlaneOrientationSequence = item(ImageOrientationPatient=list(frames[0].orientation))
        dataset.SharedFunctionalGroupsSequence = Items([shared])
        dataset.PerFrameFunctionalGroupsSequence = Items(
            [_groups(frame, shared_orientation) for frame in frames]
        )
        dataset.PixelData = b"".join(stored_values(f.k, ROWS, COLUMNS).tobytes() for f in frames)

    (path,) = write_ct(folder, n_slices=1, rows=ROWS, columns=COLUMNS, change=change)
    return path


def _groups(frame: Frame, shared_orientation: bool) -> Dataset:
    groups = Dataset()
    content = item(StackID=frame.stack, InStackPositionNumber=frame.k + 1)
    if frame.temporal is not None:
        content[0].TemporalPositionIndex = frame.temporal
    groups.FrameContentSequence = content
    normal = np.cross(frame.orientation[:3], frame.orientation[3:])
    groups.PlanePositionSequence = item(ImagePositionPatient=[float(v) for v in normal * frame.height_mm])
    if not shared_orientation:
        groups.PlaneOrientationSequence = item(ImageOrientationPatient=list(frame.orientation))
    groups.PixelValueTransformationSequence = item(
        RescaleSlope=frame.slope, RescaleIntercept=frame.intercept, RescaleType="HU"
    )
    groups.CTImageFrameTypeSequence = item(FrameType=list(frame.frame_type))
    return groups
