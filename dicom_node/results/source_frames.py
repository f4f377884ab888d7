"""References from results to frames of a multi-frame CT, as exact as those to files of one image.

highdicom takes a multi-frame source whole, with its first orientation and all of its frames. Here a
stack or phase of it may have been read, so that it is given the frames as if they were files of one
image, each under a UID of its own, and the references are set right afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage

from dicom_node.results.identifiers import derived_uid


def frame_number(header: Dataset) -> int | None:
    """Which frame a clean header is of; None for a file of one image."""
    number = header.get("ReferencedFrameNumber")
    return None if number is None else int(number)


def as_images(headers: Sequence[Dataset]) -> list[Dataset]:
    """The headers, those of frames under a UID of their own, as highdicom takes sources."""
    return [header if frame_number(header) is None else _as_image(header) for header in headers]


def _as_image(header: Dataset) -> Dataset:
    image = copy.deepcopy(header)
    image.SOPInstanceUID = derived_uid("frame", header.SOPInstanceUID, str(frame_number(header)))
    image.SOPClassUID = CTImageStorage
    return image


def refer_to_frames(result: Dataset, headers: Sequence[Dataset]) -> None:
    """Set the references of a result made from `as_images` right: object and frame number."""
    frames = {
        image.SOPInstanceUID: header
        for image, header in zip(as_images(headers), headers, strict=True)
        if frame_number(header) is not None
    }
    if not frames:
        return
    for item in _items(result):
        header = frames.get(item.get("ReferencedSOPInstanceUID"))
        if header is not None:
            item.ReferencedSOPClassUID = header.SOPClassUID
            item.ReferencedSOPInstanceUID = header.SOPInstanceUID
            item.ReferencedFrameNumber = frame_number(header)
    for series in result.get("ReferencedSeriesSequence") or ():
        # This one lists objects, each once (PS3.3 C.12.4).
        objects = {item.ReferencedSOPInstanceUID: item for item in series.ReferencedInstanceSequence}
        for item in objects.values():
            item.pop("ReferencedFrameNumber", None)
        series.ReferencedInstanceSequence = Items(objects.values())


def objects_of(headers: Sequence[Dataset]) -> list[Dataset]:
    """One header for each object that the headers are of."""
    objects: dict[str, Dataset] = {}
    for header in headers:
        objects.setdefault(header.SOPInstanceUID, header)
    return list(objects.values())


def source_image(header: Dataset) -> sr.SourceImageForMeasurementGroup:
    """The reference of a measurement group to one image or frame."""
    number = frame_number(header)
    return sr.SourceImageForMeasurementGroup(
        header.SOPClassUID, header.SOPInstanceUID, None if number is None else [number]
    )


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """All items of all sequences, at any depth."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)
