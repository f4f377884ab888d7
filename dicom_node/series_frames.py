"""The images of a file: one, or one for each frame of an Enhanced or Legacy Converted Enhanced CT.

Position, orientation, pixel measures, rescale and frame type come from the functional groups of the
frame, else from the shared ones (PS3.3 C.7.6.16). Headers only, and not a judgement: what a frame
does not say is None, as in a file of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pydicom
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from dicom_node.errors import SightlineError
from dicom_node.instances import (
    Instance,
    image_type,
    integer,
    items_of,
    number,
    numbers,
    read_header,
    read_instance,
    text,
)

MULTI_FRAME = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)


def read_images(path: Path, name: str | None = None) -> tuple[Instance, ...]:
    """Read the headers of every image of a file, frames in the order of the file.

    A multi-frame file whose functional groups do not describe each of its frames comes back as one
    instance whose `pixel_problem` says so.

    Parameters and errors as for `dicom_node.instances.read_header`.
    """
    whole, dataset = read_header(path, name)
    if whole.sop_class_uid not in MULTI_FRAME:
        return (whole,)
    per_frame = items_of(dataset, "PerFrameFunctionalGroupsSequence")
    if len(per_frame) != whole.number_of_frames:
        said = f"the functional groups describe {len(per_frame)} of {whole.number_of_frames} frames"
        return (replace(whole, pixel_problem=whole.pixel_problem or said),)
    shared = next(iter(items_of(dataset, "SharedFunctionalGroupsSequence")), pydicom.Dataset())
    return tuple(_frame(whole, (own, shared), index) for index, own in enumerate(per_frame, start=1))


def read_references(references: Iterable[str], path_of: Callable[[str], Path]) -> list[Instance]:
    """The images that `Instance.reference` names, in the same order; each file is read once.

    Parameters
    ----------
    references: SOP Instance UIDs, of frames with "#" and the number.
    path_of: where the file of a SOP Instance UID lies.

    Raises
    ------
    OSError, SightlineError: a file is missing or cannot be read, or has no such frame.
    """
    read: dict[str, dict[str, Instance]] = {}
    found = []
    for reference in references:
        uid, _, frame = reference.partition("#")
        if not frame:
            found.append(read_instance(path_of(uid)))
            continue
        if uid not in read:
            read[uid] = {image.reference: image for image in read_images(path_of(uid))}
        if reference not in read[uid]:
            raise SightlineError(f"{path_of(uid).name}: has no frame {frame}; send the study again")
        found.append(read[uid][reference])
    return found


def _frame(whole: Instance, groups: tuple[pydicom.Dataset, ...], index: int) -> Instance:
    """One frame as an instance; `groups` are its functional groups and the shared ones, `index` is from 1."""

    def group(keyword: str) -> pydicom.Dataset:
        """The item of a functional group, of the frame or shared; empty where neither has it."""
        return next((item for source in groups for item in items_of(source, keyword)), pydicom.Dataset())

    content, measures = group("FrameContentSequence"), group("PixelMeasuresSequence")
    rescale, kind = group("PixelValueTransformationSequence"), group("CTImageFrameTypeSequence")
    kernel = text(group("CTReconstructionSequence"), "ConvolutionKernel")
    parts = {
        "temporal position": text(content, "TemporalPositionIndex"),
        "acquisition": text(content, "FrameAcquisitionNumber"),
        "cardiac phase": text(group("CardiacSynchronizationSequence"), "NominalPercentageOfCardiacPhase"),
        "kernel": kernel,
        "image type": text(kind, "FrameType"),
        "acquisition time": text(content, "FrameAcquisitionDateTime"),
    }
    converted = group("UnassignedPerFrameConvertedAttributesSequence")
    return replace(
        whole,
        frame=index,
        stack=text(content, "StackID"),
        instance_number=integer(converted, "InstanceNumber") or integer(content, "InStackPositionNumber"),
        image_type=image_type(text(kind, "FrameType")) or whole.image_type,
        position_mm=numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers(measures, "PixelSpacing", 2),
        thickness_mm=number(measures, "SliceThickness"),
        rescale_slope=number(rescale, "RescaleSlope"),
        rescale_intercept=number(rescale, "RescaleIntercept"),
        rescale_type=text(rescale, "RescaleType").upper(),
        kernel=kernel or whole.kernel,
        parts=tuple(parts.items()),
    )
