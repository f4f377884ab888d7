"""Segmentations as 3D Slicer's ``.seg.nrrd``: one label volume and what each label is.

Only the file; where masks come from is `dicom_node.service.masks`. The fields are those of
vtkMRMLSegmentationStorageNode: ID, Name, Color, LabelValue, Layer, Extent, Tags with a
TerminologyEntry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.sr.coding import Code
from scipy import ndimage

from core_model.abnormality import abnormality
from core_model.anatomy import organs
from dicom_node.results import codes
from dicom_node.results.colours import LESION, RGB, organ_colour
from dicom_node.service.nrrd_files import NrrdError, NrrdHeader, volume_nrrd

MASK_COLOUR: RGB = (255, 200, 40)
MAX_SEGMENTS = 255
_CONTEXTS = ("Segmentation category and type - DICOM master list", "Anatomic codes - DICOM master list")
_FIELD = re.compile(r"Segment(\d{1,4})_(ID|Name|LabelValue|Layer|Tags)")


@dataclass(frozen=True)
class Segment:
    """What one label of a label volume is.

    Attributes
    ----------
    id: stays the same however often the segmentation is sent.
    name: what a person reads.
    label: its value.
    colour: red, green and blue, 0..255.
    category, kind: SNOMED CT, as in DICOM-SEG; None where nothing is known.
    region: in which organ.
    """

    id: str
    name: str
    label: int
    colour: RGB
    category: Code | None = None
    kind: Code | None = None
    region: Code | None = None


@dataclass(frozen=True)
class Drawn:
    """One segment of a file that came in.

    Attributes
    ----------
    id, name: as in the file; printable.
    mask: (i, j, k) bool in the file's axis order.
    category, kind, region: as the file's terminology has them, or None.
    """

    id: str
    name: str
    mask: npt.NDArray[np.bool_]
    category: Code | None
    kind: Code | None
    region: Code | None


def organ_segments() -> list[Segment]:
    """The 36 reading organs under their labels."""
    return [
        Segment(
            id=organ.name,
            name=organ.display,
            label=organ.label,
            colour=organ_colour(organ.name),
            category=codes.ANATOMICAL_STRUCTURE,
            kind=codes.organ_code(organ.name),
        )
        for organ in organs()
    ]


def lesion_segments(lesions: Sequence[dict[str, Any]]) -> list[Segment]:
    """The lesions of a ``reading.json`` under their segment numbers."""
    return [
        Segment(
            id=f"lesion-{lesion['segment_number']}",
            name=f"{abnormality(lesion['type']).display} {lesion['segment_number']}",
            label=int(lesion["segment_number"]),
            colour=LESION,
            category=codes.MORPHOLOGICALLY_ABNORMAL,
            kind=codes.abnormality_code(lesion["type"]),
            region=codes.organ_code(lesion["organ"]),
        )
        for lesion in lesions
    ]


def segments_nrrd(labels: hd.Volume, segments: Sequence[Segment]) -> bytes:
    """A label volume as ``.seg.nrrd``, cropped to its segments: the rest of a CT is nothing to load.

    Parameters
    ----------
    labels: uint8, 0 where nothing is; (slice, row, column).
    segments: what its labels are. Those without a voxel are left out: there is nothing to show.
    """
    boxes = ndimage.find_objects(labels.array, max_label=255)
    shown = [s for s in segments if boxes[s.label - 1] is not None]
    whole = _around([boxes[segment.label - 1] for segment in shown])
    fields = {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_SourceRepresentation": "Binary labelmap",  # the same field since Slicer 5.4
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, segment in enumerate(shown):
        box = [
            slice(b.start - w.start, b.stop - w.start)
            for b, w in zip(boxes[segment.label - 1], whole, strict=True)
        ]
        fields |= _fields(f"Segment{number}_", segment, box)
    return volume_nrrd(labels[whole], fields)  # type: ignore[index]  # its annotation lacks pairs and triples


def _around(boxes: Sequence[tuple[slice, slice, slice]]) -> tuple[slice, slice, slice]:
    """The smallest box that holds all boxes; one voxel where there is none (no axis may be empty)."""
    if not boxes:
        return (slice(0, 1),) * 3
    ends = [(min(a.start for a in axis), max(a.stop for a in axis)) for axis in zip(*boxes, strict=True)]
    return slice(*ends[0]), slice(*ends[1]), slice(*ends[2])


def _fields(prefix: str, segment: Segment, box: Sequence[slice]) -> dict[str, str]:
    extent = [index for axis in reversed(box) for index in (axis.start, axis.stop - 1)]  # i, j, k
    tags = "Segmentation.Status:inprogress|"
    if segment.category is not None and segment.kind is not None:
        tags += f"TerminologyEntry:{terminology(segment.category, segment.kind, segment.region)}|"
    return {
        f"{prefix}ID": segment.id,
        f"{prefix}Name": segment.name,
        f"{prefix}NameAutoGenerated": "0",
        f"{prefix}Color": " ".join(f"{value / 255:.6g}" for value in segment.colour),
        f"{prefix}ColorAutoGenerated": "0",
        f"{prefix}LabelValue": str(segment.label),
        f"{prefix}Layer": "0",
        f"{prefix}Extent": " ".join(map(str, extent)),
        f"{prefix}Tags": tags,
    }


def terminology(category: Code, kind: Code, region: Code | None) -> str:
    """Slicer's serialised terminology entry.

    >>> terminology(Code("1", "SCT", "A"), Code("2", "SCT", "B"), None).split("~")[1:3]
    ['SCT^1^A', 'SCT^2^B']
    """

    def written(code: Code | None) -> str:
        return "^^" if code is None else f"{code.scheme_designator}^{code.value}^{code.meaning}"

    context, anatomy = _CONTEXTS
    return "~".join([context, written(category), written(kind), "^^", anatomy, written(region), "^^"])


def drawn_segments(header: NrrdHeader, array: npt.NDArray[Any]) -> Iterator[Drawn]:
    """The segments of a file that came in, one at a time; those without a voxel are left out.

    Parameters
    ----------
    array: (layers, i, j, k) from `nrrd_files.read_array`.

    Raises
    ------
    NrrdError: labels without segment fields, too many segments, or one that names a layer that is not there.
        A segmentation without labels may be without segments: all were removed.
    """
    found: dict[int, dict[str, str]] = {}
    for key, value in header.fields.items():
        match = _FIELD.fullmatch(key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = str(value)
    if not found and "Segmentation_MasterRepresentation" in header.fields and not array.any():
        return
    if not found:
        raise NrrdError("the file has no segments", "save the segmentation as .seg.nrrd from 3D Slicer")
    if len(found) > MAX_SEGMENTS:
        raise NrrdError(f"the file has more than {MAX_SEGMENTS} segments", "send fewer")
    for number in sorted(found):
        own = found[number]
        try:
            label, layer = int(own.get("LabelValue", "1")), int(own.get("Layer", "0"))
        except ValueError:
            raise NrrdError("a segment's LabelValue or Layer is no whole number", "save it again") from None
        if not 0 <= layer < len(array) or label == 0:
            raise NrrdError("a segment names a layer or label that is not in the file", "save it again")
        mask = array[layer] == label
        if mask.any():
            category, kind, region = _codes(own.get("Tags", ""))
            name = _printable(own.get("Name", "")) or f"segment {number + 1}"
            yield Drawn(_printable(own.get("ID", "")), name, mask, category, kind, region)


def _printable(text: str) -> str:
    """At most 64 printable characters (PS3.5 6.2, VR LO), without the backslash that parts values."""
    return "".join(c for c in text if c.isprintable() and c != "\\")[:64].strip()


def _codes(tags: str) -> tuple[Code | None, Code | None, Code | None]:
    """Category, type and region of a segment's tags; None for what they do not say."""
    match = re.search(r"(?:^|\|)TerminologyEntry:([^|]*)", tags)
    parts = match[1].split("~") if match else []
    if len(parts) < 3:
        return None, None, None
    category, kind = _code(parts[1]), _code(parts[2])
    region = _code(parts[5]) if len(parts) > 5 else None
    return (category, kind, region) if category and kind else (None, None, region)


def _code(text: str) -> Code | None:
    """A coded concept, or None where it cannot be one in DICOM (PS3.3 8.8: SH 16, SH 16, LO 64)."""
    parts = [_printable(part) for part in text.split("^")]
    if len(parts) < 3 or not all(parts[:3]):
        return None
    scheme, value, meaning = parts[:3]
    return None if max(len(scheme), len(value)) > 16 else Code(value, scheme, meaning)
