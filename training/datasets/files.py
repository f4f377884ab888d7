"""Files as public sets keep them: NIfTI volumes and label maps, tables, lists of names.

What cannot be used is an `UnusableSampleError` with its kind; nothing here knows any one set. A bare 4x4
matrix lives only inside the reading functions: what leaves them is a canonical `highdicom.Volume`.
"""

from __future__ import annotations

import csv
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import nibabel
import numpy as np
import numpy.typing as npt
from isal import igzip, igzip_lib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from core_model.anatomy import v2_to_reading
from core_model.volume import canonical
from training.datasets.sample import Problem, UnusableSampleError

NIFTI = (".nii.gz", ".nii")
SHEAR = 0.01  # cosine between two axes above which a grid is oblique in itself (gantry tilt); our choice
SAME_GRID_MM = 0.1  # by which corners of a mask may miss those of its image; our choice
GRID_DIFFERS = "mask lies on another grid than its image"
TABLE_MISSING = "table is missing"
OTHER_LABELS = "labels of another set"
NOT_ON_DISK = "listed, but has no file"
IN_NO_TABLE = "file in no table"
NO_REPORT = "report without findings"
_UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    zlib.error,
    cast(type[Exception], igzip_lib.IsalError),
    ImageFileError,
    HeaderDataError,
)


def stem(name: str) -> str:
    """A file's name without the NIfTI ending.

    >>> stem("train_1_a_1.nii.gz"), stem("volume-0.nii"), stem("train_1_a_1")
    ('train_1_a_1', 'volume-0', 'train_1_a_1')
    """
    for ending in NIFTI:
        if name.endswith(ending):
            return name[: -len(ending)]
    return name


def niftis(folder: Path) -> list[Path]:
    """The NIfTI files at any depth below a folder, sorted; hidden ones are no data."""
    return sorted(p for p in folder.rglob("*.nii*") if p.name.endswith(NIFTI) and not p.name.startswith("."))


def read_nifti(path: Path, what: str = "image") -> nibabel.Nifti1Image:
    """A NIfTI file's header; its voxels are read later.

    Raises
    ------
    UnusableSampleError: if the file is missing or is no NIfTI. Only the kind of error is kept: messages of
        libraries quote paths, and a hospital's paths may name people.
    """
    try:
        return cast(nibabel.Nifti1Image, nibabel.load(path))
    except _UNREADABLE as error:
        raise UnusableSampleError(f"{what} is unreadable", type(error).__name__) from error


def read_voxels(image: nibabel.Nifti1Image, what: str = "image") -> npt.NDArray[Any]:
    """The voxels of a NIfTI image in its own axes and type, scaled by its header; trailing axes of 1 dropped.

    Raises
    ------
    UnusableSampleError: if they are cut short, or no plain numbers.
    """
    try:
        array = np.asanyarray(_unpacked(image).dataobj)
    except _UNREADABLE as error:
        raise UnusableSampleError(f"{what} is unreadable", type(error).__name__) from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype.kind not in "iufb":
        raise UnusableSampleError(f"{what} holds no plain numbers", str(array.dtype))
    return array


def _unpacked(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """The image from memory if its file is gzipped: a third of the time that Python's own gzip takes."""
    name = image.get_filename()
    if name is None or not name.endswith(".gz"):
        return image
    voxels = igzip.decompress(Path(name).read_bytes())  # type: ignore[no-untyped-call]
    return nibabel.Nifti1Image.from_bytes(voxels)


def volume_of(array: npt.NDArray[Any], ras: npt.NDArray[Any], what: str = "image") -> hd.Volume:
    """Voxels and the affine of their file as a canonical volume.

    Parameters
    ----------
    array: three axes of any order and direction.
    ras: (4, 4), indices to mm in RAS, as NIfTI has it. Axes that miss a right angle by less than `SHEAR`
        (headers are float32) are set right; more is a tilted gantry, which no rotation describes.

    Raises
    ------
    UnusableSampleError: if the voxels are not 3D or too few, or the affine describes no CT.
    """
    if array.ndim != 3:
        raise UnusableSampleError(f"{what} is not three-dimensional", f"its shape is {array.shape}")
    matrix = np.array(ras, dtype=float)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or spacing.min() <= 0:
        raise UnusableSampleError(f"{what} has no usable affine", "an axis has no length")
    directions = matrix[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > SHEAR:
        raise UnusableSampleError(f"{what} is sheared", "its axes are not at right angles")
    u, _, v = np.linalg.svd(directions)
    matrix[:3, :3] = (u @ v) * spacing
    matrix[3] = 0, 0, 0, 1
    try:
        volume = canonical(
            hd.Volume(array, matrix, coordinate_system="PATIENT", from_reference_convention="RAS")
        )
    except ValueError as error:
        raise UnusableSampleError(f"{what} is too small", f"its shape is {array.shape}") from error
    # A flipped view has negative strides, which torch does not take.
    return volume.with_array(np.ascontiguousarray(volume.array))


def read_ct(
    path: Path,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    spacing_mm: tuple[float, float, float] | None = None,
) -> hd.Volume:
    """A CT from a NIfTI file.

    Parameters
    ----------
    slope, intercept: to HU, of files that hold stored values; left alone where they hold HU.
    spacing_mm: along the file's three axes, where its header has it wrong.

    Returns
    -------
    (slices, rows, columns) float32 HU, canonical.

    Raises
    ------
    UnusableSampleError: if it cannot be read, or voxels are not finite.
    """
    image = read_nifti(path)
    voxels = read_voxels(image)
    array = voxels.astype(np.float32)
    if voxels.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnusableSampleError("image holds values that are no numbers")
    if (slope, intercept) != (1.0, 0.0):
        array = array * np.float32(slope) + np.float32(intercept)
    affine = np.array(image.affine, dtype=float)
    if spacing_mm is not None:
        affine[:3, :3] *= np.asarray(spacing_mm) / np.linalg.norm(affine[:3, :3], axis=0)
    return volume_of(array, affine)


def read_mask(path: Path, like: hd.Volume, what: str = "mask") -> npt.NDArray[Any]:
    """A label map on the grid of its image, whichever way its file's axes run.

    Parameters
    ----------
    like: the canonical image.

    Returns
    -------
    (slices, rows, columns), in the file's type.

    Raises
    ------
    UnusableSampleError: if it cannot be read or lies on another grid.
    """
    image = read_nifti(path, what)
    return on_grid(read_voxels(image, what), image.affine, like, what)


def on_grid(
    array: npt.NDArray[Any], ras: npt.NDArray[Any], like: hd.Volume, what: str = "mask"
) -> npt.NDArray[Any]:
    """Voxels and their affine on the grid of a canonical image: (slices, rows, columns).

    Raises
    ------
    UnusableSampleError: if that takes more than permuting and flipping axes.
    """
    mask = volume_of(array, ras, what)
    if mask.spatial_shape != like.spatial_shape:
        raise UnusableSampleError(
            GRID_DIFFERS, f"{what} has {mask.spatial_shape}, image {like.spatial_shape} voxels"
        )
    corners = np.array([[0, 0, 0], np.array(like.spatial_shape) - 1])
    missed = np.abs(mask.map_indices_to_reference(corners) - like.map_indices_to_reference(corners)).max()
    if missed > SAME_GRID_MM:
        raise UnusableSampleError(GRID_DIFFERS, f"{what} lies {missed:.1f} mm beside the image")
    return mask.array


def relabelled(
    labels: npt.NDArray[Any], table: Mapping[int, int], what: str = "mask"
) -> npt.NDArray[np.uint8]:
    """Label values of a set as those of the reading organs; values that the table lacks become 0.

    Raises
    ------
    UnusableSampleError: if `labels` holds fractions or values beyond a byte: no label map of a known set.
    """
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.rint(labels)):
        raise UnusableSampleError(f"{what} holds fractions")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 255:
        raise UnusableSampleError(f"{what} holds values of no label", f"{low} to {high}")
    lookup = np.zeros(256, dtype=np.uint8)
    lookup[list(table)] = list(table.values())
    values = np.ascontiguousarray(labels, dtype=np.uint8)
    # Bytes are translated in a tenth of the time that indexing takes, and a CT has 80 million of them.
    translated = np.frombuffer(values.tobytes().translate(lookup.tobytes()), dtype=np.uint8)
    return translated.reshape(values.shape).copy()  # (slices, rows, columns)


def read_totalsegmentator(path: Path, like: hd.Volume) -> npt.NDArray[np.uint8]:
    """A TotalSegmentator v2 ``total`` label map as reading organs on the image's grid.

    Silent of `silence.V2_SILENT`.

    Returns
    -------
    (slices, rows, columns) uint8.

    Raises
    ------
    UnusableSampleError: as `read_mask` and `relabelled`.
    """
    return relabelled(read_mask(path, like, "organ mask"), v2_to_reading(), "organ mask")


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV or TSV file; empty where it has none. Cells that a short row lacks are empty.

    Raises
    ------
    OSError, UnicodeDecodeError, csv.Error: if it is no such table.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            yield {key: value or "" for key, value in row.items() if key}


class Tables:
    """The tables of a set: read once, by a key, with what is wrong with them noted.

    Parameters
    ----------
    problems: receives them.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def read(
        self,
        path: Path,
        key: str,
        needed: Sequence[str] = (),
        *,
        reader: Callable[[Path], Iterable[Mapping[str, str]]] = read_rows,
    ) -> dict[str, Mapping[str, str]]:
        """Key -> row, in the table's order; a key that comes twice keeps its first row.

        Parameters
        ----------
        key: column of the key, whose NIfTI ending is dropped.
        needed: columns that it must have, else nothing of it is used.
        """
        if not path.exists():
            self.problems.append(Problem(path.name, TABLE_MISSING))
            return {}
        found: dict[str, Mapping[str, str]] = {}
        try:
            for number, row in enumerate(reader(path)):
                lacking = [column for column in (key, *needed) if column not in row]
                if number == 0 and lacking:
                    self.problems.append(
                        Problem(path.name, "table lacks a column", ", ".join(map(repr, lacking)))
                    )
                    return {}
                name = stem(row[key].strip())
                if not name:
                    self.problems.append(Problem(path.name, "row without a name", f"row {number + 1}"))
                elif name in found:
                    self.problems.append(Problem(name, "listed twice", path.name))
                else:
                    found[name] = row
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            self.problems.append(Problem(path.name, "table is unreadable", type(error).__name__))
            return {}
        return found

    def read_labels(self, path: Path, key: str, vocabulary: Sequence[str]) -> dict[str, Mapping[str, bool]]:
        """Key -> labels of a table with one column per label; another vocabulary's columns are a problem."""
        rows = self.read(path, key)
        columns = next(iter(rows.values()), {})
        lacking = [name for name in vocabulary if name not in columns]
        if rows and lacking:
            detail = f"lacks {lacking[0]!r}" + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
            self.problems.append(Problem(path.name, OTHER_LABELS, detail))
        if len(lacking) == len(vocabulary):
            return {}
        return {name: truth(row, vocabulary) for name, row in rows.items()}


def truth(row: Mapping[str, str], vocabulary: Iterable[str]) -> dict[str, bool]:
    """The labels that a row knows: 1 is True, 0 is False; -1, nothing and anything else are left out.

    >>> truth({"Emphysema": "1.0", "Atelectasis": "0", "Lung nodule": "-1"}, ["Emphysema", "Atelectasis",
    ...     "Lung nodule"])
    {'Emphysema': True, 'Atelectasis': False}
    """
    known = {name: _number(row.get(name, "")) for name in vocabulary}
    return {name: value == 1 for name, value in known.items() if value in (0, 1)}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return {"true": 1.0, "false": 0.0}.get(text.strip().lower())


def read_lines(path: Path) -> frozenset[str]:
    """The names in a list file, one a line, NIfTI endings dropped; empty where there is no file."""
    if not path.exists():
        return frozenset()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(stem(line.strip()) for line in lines if line.strip())


def match(
    listed: Iterable[str], files: Mapping[str, Path], problems: list[Problem]
) -> Iterator[tuple[str, Path]]:
    """Names that are both listed and on disk, in the list's order; the others are noted as problems."""
    names = dict.fromkeys(listed)
    for name in names:
        if name in files:
            yield name, files[name]
        else:
            problems.append(Problem(name, NOT_ON_DISK))
    problems += [Problem(name, IN_NO_TABLE) for name in files if name not in names]


__all__ = [
    "GRID_DIFFERS",
    "IN_NO_TABLE",
    "NOT_ON_DISK",
    "NO_REPORT",
    "OTHER_LABELS",
    "TABLE_MISSING",
    "Tables",
    "match",
    "niftis",
    "on_grid",
    "read_ct",
    "read_lines",
    "read_mask",
    "read_nifti",
    "read_rows",
    "read_totalsegmentator",
    "read_voxels",
    "relabelled",
    "stem",
    "truth",
    "volume_of",
]
