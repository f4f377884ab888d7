"""NRRD files as the service sends them, and a reader of what the extension sends.

Written from the format's definition and Slicer's segment headers, apart from the extension's own
writer, so that the two cannot be wrong alike.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass

import numpy as np

from tests.slicer.harness.phantom import Grid

TYPES = {"int16": "<i2", "uint8": "u1", "unsigned char": "u1", "float": "<f4"}
TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^49755003^Morphologically Abnormal Structure~SCT^126851005^Neoplasm of liver~^^"
    "~Anatomic codes - DICOM master list~SCT^10200004^Liver~^^"
)


@dataclass(frozen=True)
class Segment:
    """One segment of a .seg.nrrd file: voxels (k, j, i) and what its header says."""

    name: str
    voxels: np.ndarray
    colour: tuple[float, float, float] = (1.0, 0.2, 0.2)
    terminology: str = TERMINOLOGY


def volume_file(values: np.ndarray, of: Grid, extra: tuple[str, ...] = ()) -> bytes:
    """A gzip-encoded NRRD of (k, j, i) values, LPS."""
    kind = {"float32": "float", "uint8": "uint8", "int16": "int16"}[values.dtype.name]
    directions = " ".join(_vector(of.ijk_to_lps[:3, axis]) for axis in range(3))
    lines = (
        "NRRD0005",
        f"type: {kind}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, of.shape))}",
        f"space directions: {directions}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(of.ijk_to_lps[:3, 3])}",
        *extra,
    )
    return ("\n".join(lines) + "\n\n").encode() + gzip.compress(values.tobytes())


def segment_file(segments: list[Segment], of: Grid) -> bytes:
    """A .seg.nrrd of segments that do not overlap."""
    labels = np.zeros(of.shape[::-1], dtype=np.uint8)
    extra = ["Segmentation_MasterRepresentation:=Binary labelmap"]
    for index, segment in enumerate(segments):
        labels[segment.voxels > 0] = index + 1
        extra += [
            f"Segment{index}_ID:=segment_{index + 1}",
            f"Segment{index}_Name:={segment.name}",
            f"Segment{index}_Color:={' '.join(map(str, segment.colour))}",
            f"Segment{index}_LabelValue:={index + 1}",
            f"Segment{index}_Layer:=0",
            f"Segment{index}_Extent:=0 {of.shape[0] - 1} 0 {of.shape[1] - 1} 0 {of.shape[2] - 1}",
            f"Segment{index}_Tags:=TerminologyEntry:{segment.terminology}|",
        ]
    return volume_file(labels, of, tuple(extra))


def read_volume(content: bytes) -> tuple[np.ndarray, Grid]:
    """Values (k, j, i) and grid of an LPS NRRD, raw or gzip."""
    head, _, data = content.partition(b"\n\n")
    lines = head.decode("ascii").splitlines()
    if not lines[0].startswith("NRRD000"):
        raise ValueError(f"first line {lines[0]!r} is not that of an NRRD file")
    fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if fields["space"] != "left-posterior-superior":
        raise ValueError(f"space {fields['space']!r} is not left-posterior-superior")
    shape = tuple(int(n) for n in fields["sizes"].split())
    matrix = np.eye(4)
    for axis, vector in enumerate(fields["space directions"].split()):
        matrix[:3, axis] = [float(v) for v in vector.strip("()").split(",")]
    matrix[:3, 3] = [float(v) for v in fields["space origin"].strip("()").split(",")]
    raw = gzip.decompress(data) if fields["encoding"] == "gzip" else data
    values = np.frombuffer(raw, dtype=TYPES[fields["type"]]).reshape(shape[::-1])
    return values, Grid(matrix, shape)


def _vector(values: np.ndarray) -> str:
    return f"({','.join(str(float(value)) for value in values)})"
