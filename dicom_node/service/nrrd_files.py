"""NRRD in and out: volumes and segmentations as 3D Slicer reads and writes them.

Not the general format: three spatial axes in patient space, raw or gzip, everything in one file.
What comes in is hostile until shown otherwise: its header may name other files of this machine,
and a few kilobytes of gzip may unpack to a terabyte.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import IO, Any

import highdicom as hd
import nrrd
import numpy as np
import numpy.typing as npt

# Slicer writes the first; the others are what other programs call the same.
_SPACES = {
    "left-posterior-superior": "LPS",
    "lps": "LPS",
    "right-anterior-superior": "RAS",
    "ras": "RAS",
    "left-anterior-superior": "LAS",
    "las": "LAS",
}
_TYPES = {
    "int8": "i1", "int8_t": "i1", "signed char": "i1",
    "uint8": "u1", "uint8_t": "u1", "unsigned char": "u1", "uchar": "u1",
    "int16": "i2", "int16_t": "i2", "short": "i2", "short int": "i2", "signed short": "i2",
    "uint16": "u2", "uint16_t": "u2", "unsigned short": "u2", "ushort": "u2",
    "int32": "i4", "int32_t": "i4", "int": "i4", "signed int": "i4",
    "uint32": "u4", "uint32_t": "u4", "unsigned int": "u4", "uint": "u4",
    "float": "f4", "double": "f8",
}  # fmt: skip
_MAX_HEADER = 1 << 20
_CHUNK = 1 << 20


class NrrdError(ValueError):
    """A file is no NRRD that can be used; the message says what about it, the cure what to do."""

    def __init__(self, message: str, cure: str) -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure


@dataclass(frozen=True)
class NrrdHeader:
    """What a file says of itself.

    Attributes
    ----------
    shape: (i, j, k) voxels in file order, the first the fastest.
    layers: how many volumes lie in one another (Slicer's overlapping segments); 1 for a volume.
    dtype: of the stored numbers.
    geometry: of (i, j, k), LPS mm.
    gzip: whether the numbers are compressed.
    fields: all fields of the header.
    """

    shape: tuple[int, int, int]
    layers: int
    dtype: np.dtype[Any]
    geometry: hd.VolumeGeometry
    gzip: bool
    fields: dict[str, Any]


def volume_nrrd(volume: hd.Volume, fields: dict[str, str] | None = None) -> bytes:
    """A volume as one NRRD file, gzip, space left-posterior-superior.

    Parameters
    ----------
    volume: numbers on any grid in the patient; the last array axis becomes the fastest.
    fields: further fields of the header, e.g. Slicer's of segments.
    """
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "kinds": ["domain", "domain", "domain"],
        "space directions": np.asarray(volume.affine)[:3, 2::-1].T,
        "space origin": np.asarray(volume.affine)[:3, 3],
        "encoding": "gzip",
        **(fields or {}),
    }
    file = io.BytesIO()
    array = np.ascontiguousarray(volume.array)
    nrrd.write(file, array, header, compression_level=1, index_order="C")
    return file.getvalue()


def read_header(file: IO[bytes], max_voxels: int) -> NrrdHeader:
    """The header of a file, checked; `file` stands at its first number afterwards.

    Raises
    ------
    NrrdError: not NRRD, numbers in another file, not three spatial axes of a regular grid in
        patient space, an encoding other than raw and gzip, or more than `max_voxels`.
    """
    lines = _header_lines(file)
    try:
        fields = dict(nrrd.read_header(lines))
    except Exception as error:  # whatever the parser makes of hostile bytes
        raise NrrdError(
            f"the NRRD header cannot be read ({type(error).__name__})", "save the volume again as .nrrd"
        ) from error
    if any(key.replace(" ", "") == "datafile" for key in fields):
        raise NrrdError("the NRRD header names another file for its numbers", "save it as one .nrrd file")
    encoding = str(fields.get("encoding", "")).lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise NrrdError(f"the NRRD encoding is {encoding[:20]!r}", "save it with encoding raw or gzip")
    if any(fields.get(key) for key in ("line skip", "byte skip", "lineskip", "byteskip")):
        raise NrrdError("the NRRD header skips lines or bytes", "save it without line skip and byte skip")
    sizes, layers, directions = _axes(fields)
    if layers * int(np.prod(sizes, dtype=object)) > max_voxels:
        raise NrrdError(f"the volume has more than {max_voxels} voxels", "crop or resample it")
    return NrrdHeader(
        shape=sizes,
        layers=layers,
        dtype=_dtype(fields),
        geometry=_geometry(fields, sizes, directions),
        gzip=encoding != "raw",
        fields=fields,
    )


def read_array(file: IO[bytes], header: NrrdHeader) -> npt.NDArray[Any]:
    """The numbers of a file whose header was read.

    Returns
    -------
    (layers, i, j, k).

    Raises
    ------
    NrrdError: fewer or more numbers than the header says, or broken gzip.
    """
    count = header.layers * int(np.prod(header.shape))
    wanted = count * header.dtype.itemsize
    content = _unzipped(file, wanted) if header.gzip else file.read(wanted + 1)
    if len(content) != wanted:
        raise NrrdError("the NRRD file holds another number of voxels than its header says", "send it again")
    # The first axis is the fastest, and a list axis comes before the spatial ones.
    return np.frombuffer(content, header.dtype).reshape((header.layers, *header.shape), order="F")


def _header_lines(file: IO[bytes]) -> IO[bytes]:
    """The bytes of the header alone, up to and with the empty line that ends it."""
    magic = file.readline(16)
    if not magic.startswith(b"NRRD000"):
        raise NrrdError("the file is no NRRD: it does not begin with NRRD000", "send a .nrrd file")
    lines, size = [magic], len(magic)
    while True:
        line = file.readline(_MAX_HEADER)
        size += len(line)
        if not line or size > _MAX_HEADER:
            raise NrrdError("the NRRD header does not end", "save the volume again as .nrrd")
        lines.append(line)
        if not line.strip():
            return io.BytesIO(b"".join(lines))


def _axes(fields: dict[str, Any]) -> tuple[tuple[int, int, int], int, npt.NDArray[np.float64]]:
    """Sizes of the spatial axes, of the list axis before them, and (3, 3) directions by row."""
    cure = "save a single three-dimensional volume"
    try:
        sizes = [int(n) for n in fields["sizes"]]
        rows = [np.asarray(row, dtype=np.float64).ravel() for row in fields["space directions"]]
    except (KeyError, TypeError, ValueError):
        raise NrrdError("the NRRD header lacks usable sizes and space directions", cure) from None
    layers = 1
    if len(sizes) == 4:
        layers, sizes, rows = sizes[0], sizes[1:], rows[1:]
    if len(sizes) != 3 or len(rows) != 3 or any(row.shape != (3,) for row in rows):
        raise NrrdError(f"the NRRD file has {len(sizes)} axes", cure)
    if min(*sizes, layers) < 1:
        raise NrrdError("an axis of the NRRD file has no voxels", cure)
    return (sizes[0], sizes[1], sizes[2]), layers, np.stack(rows)


def _dtype(fields: dict[str, Any]) -> np.dtype[Any]:
    code = _TYPES.get(str(fields.get("type", "")).strip().lower())
    if code is None:
        raise NrrdError("the NRRD type is not one of whole or floating-point numbers", "save it as short")
    order = str(fields.get("endian", "")).lower()
    if order not in ("little", "big") and code[1] != "1":
        raise NrrdError("the NRRD header does not name its byte order", "add 'endian: little' or 'big'")
    return np.dtype((">" if order == "big" else "<") + code)


def _geometry(
    fields: dict[str, Any], sizes: tuple[int, int, int], directions: npt.NDArray[np.float64]
) -> hd.VolumeGeometry:
    space = _SPACES.get(str(fields.get("space", "")).strip().lower())
    if space is None:
        raise NrrdError(
            "the NRRD header does not say where left and right are (space)",
            "save it with space left-posterior-superior",
        )
    try:
        origin = np.asarray(fields["space origin"], dtype=np.float64).ravel()
    except (KeyError, TypeError, ValueError):
        origin = np.zeros(0)
    affine = np.eye(4)
    affine[:3, :3] = directions.T
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if origin.shape != (3,) or not np.isfinite(origin).all() or not np.isfinite(lengths).all():
        raise NrrdError("the NRRD header lacks a usable space origin or directions", "save it again")
    affine[:3, 3] = origin
    if lengths.min() < 1e-3 or lengths.max() > 1e3 or np.abs(origin).max() > 1e6:
        raise NrrdError("the voxels of the NRRD file are not in millimetres of a body", "save it in mm")
    flip = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1), "LAS": (1, -1, 1)}[space]
    affine[:3] *= np.array(flip)[:, None]
    unit = affine[:3, :3] / lengths
    if np.abs(unit.T @ unit - np.eye(3)).max() > 1e-4:
        raise NrrdError("the axes of the NRRD file are not at right angles", "resample it to a regular grid")
    return hd.VolumeGeometry(affine, spatial_shape=sizes, coordinate_system="PATIENT")


def _unzipped(file: IO[bytes], wanted: int) -> bytes:
    """Up to `wanted` + 1 bytes of gzip; more are never unpacked."""
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    parts: list[bytes] = []
    size = 0
    try:
        while size <= wanted and not unpacker.eof:
            chunk = unpacker.unconsumed_tail or file.read(_CHUNK)
            if not chunk:
                break
            part = unpacker.decompress(chunk, min(_CHUNK * 16, wanted + 1 - size))
            parts.append(part)
            size += len(part)
    except zlib.error:
        raise NrrdError("the gzip stream of the NRRD file is broken", "send it again") from None
    return b"".join(parts)
