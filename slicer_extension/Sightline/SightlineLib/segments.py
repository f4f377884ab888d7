"""Segmentations to and from ``.seg.nrrd``, in small steps: Slicer's own reader and writer stop the window.

Every function that takes long is a generator for `steps`. Read is what the server sends (one layer, uint8,
gzip, LPS); written is what it accepts: the segments on the voxels of the CT, cropped to them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from SightlineLib.failures import AnswerError
from SightlineLib.geometry import lpsFromRasMatrix, rasFromLpsMatrix
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

LABELMAP = "Binary labelmap"
TERMINOLOGY = "TerminologyEntry"
# A step: so much is unpacked, packed, compared or copied at once.
STEP_BYTES = 1 << 20
MAX_BYTES = 1 << 31
_OFF_LATTICE = 0.05  # voxels; more, and labels have to be resampled
_FIELD = re.compile(r"Segment(\d+)_(\w+)")


@dataclass(frozen=True)
class _File:
    """A file that was unpacked: labels (k, j, i), their matrix to RAS and the fields of each segment."""

    labels: np.ndarray
    ijkToRas: np.ndarray
    segments: tuple[dict[str, str], ...]


def readInto(node, content: bytes) -> Generator[None, None, None]:
    """Add the segments of a file to a segmentation node.

    Raises
    ------
    AnswerError: if the file is not what a server sends.
    """
    try:
        file = yield from _unpacked(content)
        for fields in file.segments:
            yield from _add(node, file, fields)
    except (KeyError, ValueError, IndexError, zlib.error, UnicodeDecodeError) as error:
        broken = _("What the server sent is not a segmentation that Slicer can read. Ask again.")
        raise AnswerError(broken) from error


def _unpacked(content: bytes) -> Generator[None, None, _File]:
    head, gap, __ = content[: 1 << 22].partition(b"\n\n")
    if not gap or not head.startswith(b"NRRD000"):
        raise ValueError("no NRRD header")
    fields = {}
    for line in head.decode("utf-8").splitlines()[1:]:
        key, mark, value = line.partition(":")
        if mark and not key.startswith("#"):
            fields[key.strip()] = value.removeprefix("=").strip()
    sizes = tuple(int(n) for n in fields["sizes"].split())
    plain = (fields["type"], fields["encoding"], fields["space"], len(sizes), min(sizes) > 0)
    if plain[1:] != ("gzip", "left-posterior-superior", 3, True) or plain[0] not in (
        "uint8",
        "unsigned char",
    ):
        raise ValueError(f"a kind of file that is not read here: {plain}")
    ijkToLps = np.eye(4)
    for axis, vector in enumerate(re.findall(r"\(([^)]*)\)", fields["space directions"])):
        ijkToLps[:3, axis] = [float(value) for value in vector.split(",")]
    ijkToLps[:3, 3] = [float(value) for value in fields["space origin"].strip("()").split(",")]
    labels = yield from _unzipped(content, len(head) + 2, int(np.prod(sizes, dtype=np.int64)))
    found: dict[int, dict[str, str]] = {}
    for key, value in fields.items():
        match = _FIELD.fullmatch(key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = value
    segments = tuple(found[number] for number in sorted(found))
    return _File(labels.reshape(sizes[::-1]), rasFromLpsMatrix(ijkToLps), segments)


def _unzipped(content: bytes, start: int, size: int) -> Generator[None, None, np.ndarray]:
    if size > MAX_BYTES:
        raise ValueError("too large")
    values = np.empty(size, dtype=np.uint8)
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    filled, rest = 0, b""
    while filled < size:
        if not rest:
            rest = content[start : start + (STEP_BYTES >> 4)]
            start += len(rest)
            if not rest:
                raise ValueError("fewer voxels than the header says")
        part = unpacker.decompress(rest, min(STEP_BYTES, size - filled))
        rest = unpacker.unconsumed_tail
        values[filled : filled + len(part)] = np.frombuffer(part, dtype=np.uint8)
        filled += len(part)
        yield
    return values


def _add(node, file: _File, fields: dict[str, str]) -> Generator[None, None, None]:
    extent = [int(value) for value in fields["Extent"].split()]
    low, high = extent[::2], extent[1::2]  # i, j, k
    shape = file.labels.shape[::-1]
    if not all(0 <= a <= b < n for a, b, n in zip(low, high, shape, strict=True)):
        raise ValueError("a segment is not within its file")
    image = slicer.vtkOrientedImageData()
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(file.ijkToRas))
    image.SetExtent(*extent)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    box = tuple(slice(a, b + 1) for a, b in zip(low[::-1], high[::-1], strict=True))
    labels, value = file.labels[box], int(fields["LabelValue"])
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(labels.shape)
    for planes in _slabs(labels.shape):
        np.equal(labels[planes], value, out=voxels[planes].view(bool))
        yield
    segment = slicer.vtkSegment()
    segment.SetName(fields["Name"])
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*(float(part) for part in fields["Color"].split()))
    segment.SetColorAutoGenerated(False)
    for tag in fields.get("Tags", "").split("|"):
        name, mark, text = tag.partition(":")
        if mark:
            segment.SetTag(name, text)
    segment.AddRepresentation(LABELMAP, image)
    node.GetSegmentation().AddSegment(segment, fields["ID"])
    yield


def _slabs(shape: tuple[int, ...]) -> list[slice]:
    """Cuts along the first axis of about `STEP_BYTES` voxels each."""
    step = max(1, STEP_BYTES // max(1, int(np.prod(shape[1:]))))
    return [slice(first, first + step) for first in range(0, shape[0], step)]


def fileOf(node, volumeNode) -> Generator[None, None, bytes]:
    """The segments of a node as a ``.seg.nrrd`` file on the voxels of the CT, cropped to them.

    Segments that overlap lie in layers, as in the files that Slicer writes.

    Raises
    ------
    RuntimeError: if a segment has no labels.
    """
    segmentation = node.GetSegmentation()
    shape = slicer.util.arrayFromVolume(volumeNode).shape
    drawn = []
    for index in range(segmentation.GetNumberOfSegments()):
        identifier = segmentation.GetNthSegmentID(index)
        found = yield from _onCt(node, identifier, volumeNode, shape)
        drawn.append((identifier, segmentation.GetSegment(identifier), *found))
    boxes = [(start, mask.shape) for _id, _segment, start, mask in drawn if mask.size]
    first = np.min([start for start, _size in boxes], axis=0) if boxes else np.zeros(3, dtype=int)
    last = np.max([start + size for start, size in boxes], axis=0) if boxes else np.ones(3, dtype=int)
    layers: list[np.ndarray] = []
    lines: list[str] = []
    for number, (identifier, segment, start, mask) in enumerate(drawn):
        box = tuple(slice(a, a + n) for a, n in zip(start - first, mask.shape, strict=True))
        layer = yield from _put(layers, tuple(last - first), box, mask, number + 1)
        lines += _segmentLines(number, identifier, segment, layer, box)
    if not layers:
        layers.append(np.zeros(last - first, dtype=np.uint8))
    head = _header(volumeNode, first, layers, lines)
    body = yield from _zipped(np.stack(layers, axis=-1) if len(layers) > 1 else layers[0])
    return head + body


def _onCt(node, identifier: str, volumeNode, shape) -> Generator[None, None, tuple[np.ndarray, np.ndarray]]:
    """First voxel (k, j, i) of a segment on the CT and its mask from there, no larger than it has to be."""
    image = node.GetBinaryLabelmapInternalRepresentation(identifier)
    value = node.GetSegmentation().GetSegment(identifier).GetLabelValue()
    if image is None:
        raise RuntimeError(_("A segment has no outline to send. Make it a binary labelmap in Slicer."))
    extent = image.GetExtent()
    nothing = (np.zeros(3, dtype=int), np.zeros((0, 0, 0), dtype=bool))
    if extent[0] > extent[1] or extent[2] > extent[3] or extent[4] > extent[5]:
        return nothing
    toCt = np.linalg.inv(_matrix(volumeNode.GetIJKToRASMatrix)) @ _matrix(image.GetImageToWorldMatrix)
    turn, shift = np.rint(toCt[:3, :3]), np.rint(toCt[:3, 3])
    corner = np.abs(np.array(extent).reshape(3, 2)).max(axis=1)
    apart = np.abs(toCt[:3, :3] - turn) @ corner + np.abs(toCt[:3, 3] - shift)
    if apart.max() > _OFF_LATTICE or not (np.abs(turn).sum(axis=0) == 1).all():
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volumeNode)
        value, low = 1, np.zeros(3, dtype=int)
    else:
        mask = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(
            [extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0)]
        )
        mask, low = _turned(mask, np.array(extent[::2]), turn.astype(int), shift.astype(int))
    inside = np.zeros(mask.shape, dtype=bool)
    for planes in _slabs(mask.shape):
        np.equal(mask[planes], value, out=inside[planes])
        yield
    inside, low = _within(inside, low, shape)
    yield
    kept = [np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not all(len(each) for each in kept):
        return nothing
    box = tuple(slice(each[0], each[-1] + 1) for each in kept)
    return low + [each[0] for each in kept], inside[box]


def _turned(mask: np.ndarray, low: np.ndarray, turn: np.ndarray, shift: np.ndarray):
    """Labels (k, j, i) with first voxel `low` (i, j, k) on the CT's axes; first voxel there (k, j, i)."""
    own = mask.transpose(2, 1, 0)
    order = np.abs(turn).argmax(axis=1)  # which axis of the labels runs along each of the CT
    sign = turn[np.arange(3), order]
    ends = turn @ np.stack([low, low + own.shape - 1], axis=1) + shift[:, None]
    onCt = own.transpose(order)[tuple(slice(None, None, int(s)) for s in sign)]
    return onCt.transpose(2, 1, 0), ends.min(axis=1)[::-1]


def _within(mask: np.ndarray, low: np.ndarray, shape) -> tuple[np.ndarray, np.ndarray]:
    """What of a mask is on the CT."""
    start = np.clip(-low, 0, mask.shape)
    stop = np.clip(np.array(shape) - low, 0, mask.shape)
    return mask[tuple(slice(a, max(a, b)) for a, b in zip(start, stop, strict=True))], low + start


def _put(layers, shape, box, mask, label) -> Generator[None, None, int]:
    """Write a label into the first layer in which nothing is in its way; the layer's number."""
    number = 0
    while number < len(layers):
        taken = False
        for planes in _slabs(mask.shape):
            taken = taken or layers[number][box][planes][mask[planes]].any()
            yield
        if not taken:
            break
        number += 1
    if number == len(layers):
        layers.append(np.zeros(shape, dtype=np.uint8))
    for planes in _slabs(mask.shape):
        layers[number][box][planes][mask[planes]] = label
        yield
    return number


def _segmentLines(number: int, identifier: str, segment, layer: int, box) -> list[str]:
    tags = [f"{TERMINOLOGY}:{text}|"] if (text := terminologyOf(segment)) else []
    stops = [end for axis in reversed(box) for end in (axis.start, max(axis.start, axis.stop - 1))]
    values = {
        "ID": _line(identifier),
        "Name": _line(segment.GetName()),
        "Color": " ".join(f"{part:.6g}" for part in segment.GetColor()),
        "LabelValue": str(number + 1),
        "Layer": str(layer),
        "Extent": " ".join(map(str, stops)),
        "Tags": "".join(tags),
    }
    return [f"Segment{number}_{key}:={value}" for key, value in values.items()]


def terminologyOf(segment) -> str:
    """The terminology entry of a segment, empty if it has none."""
    text = vtk.reference("")
    return _line(str(text)) if segment.GetTag(TERMINOLOGY, text) else ""


def _header(volumeNode, first: np.ndarray, layers: list[np.ndarray], lines: list[str]) -> bytes:
    ijkToLps = lpsFromRasMatrix(_matrix(volumeNode.GetIJKToRASMatrix))
    origin = ijkToLps[:3, :3] @ first[::-1] + ijkToLps[:3, 3]
    many = len(layers) > 1
    sizes = ([len(layers)] if many else []) + list(layers[0].shape[::-1])
    directions = [_vector(ijkToLps[:3, axis]) for axis in range(3)]
    head = [
        "NRRD0004",
        "type: uint8",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join((['none'] if many else []) + directions)}",
        f"kinds: {'list ' if many else ''}domain domain domain",
        "encoding: gzip",
        f"space origin: {_vector(origin)}",
        f"Segmentation_MasterRepresentation:={LABELMAP}",
        f"Segmentation_SourceRepresentation:={LABELMAP}",
        *lines,
    ]
    return ("\n".join(head) + "\n\n").encode()


def _zipped(values: np.ndarray) -> Generator[None, None, bytes]:
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = []
    for planes in _slabs(values.shape):
        parts.append(packer.compress(np.ascontiguousarray(values[planes]).data))
        yield
    parts.append(packer.flush())
    return b"".join(parts)


def _matrix(fill) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    fill(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _vector(values: np.ndarray) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _line(text: str) -> str:
    return " ".join(text.split())
