"""What the pictures of slices are made of: grid, Hounsfield units and labels of a study in the archive.

Read from the files as they are asked for, and kept within bounds: Hounsfield units by bytes, labels
compressed plane by plane (a body of 300 slices takes one megabyte instead of eighty).
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.errors import InvalidDicomError

from core_model.localization import Searchable
from core_model.question import Question
from core_model.ranking import heat
from dicom_node.archive import Archive
from dicom_node.errors import SightlineError
from dicom_node.reading_files import LESIONS, ORGANS, READING
from dicom_node.series_frames import read_references
from dicom_node.series_pixels import load_slice
from dicom_node.series_resampling import SliceGrid
from dicom_node.service.bounded import Bounded
from dicom_node.service.catalogue import Held
from dicom_node.service.errors import ApiError
from dicom_node.service.masks import Kind, ct_grid, label_planes
from dicom_node.service.slice_pictures import Labels, Layout

V = TypeVar("V")
MAX_IMAGE_BYTES = 96 << 20
MAX_LABEL_BYTES = 64 << 20
MAX_STUDIES, MAX_QUESTIONS = 64, 8
_SEG = {"organs": ORGANS, "lesions": LESIONS}
_AGAIN = "send the study again"


@dataclass(frozen=True)
class Planes:
    """The labels of a study, plane by plane.

    Attributes
    ----------
    shape: rows and columns of a plane.
    packed: one per slice.
    slices_of: label -> the slices that it is on.
    kept: whether there is a file of them at all.
    """

    shape: tuple[int, int]
    packed: tuple[bytes, ...]
    slices_of: dict[int, list[int]]
    kept: bool

    @classmethod
    def of(cls, labels: npt.NDArray[np.uint8] | None, shape: tuple[int, int, int]) -> Planes:
        """From labels (slice, row, column); None where there is no file."""
        if labels is None:
            return cls(shape[1:], (), {}, kept=False)
        slices_of: dict[int, list[int]] = {}
        for k, plane in enumerate(labels):
            for label in np.unique(plane[plane > 0]):
                slices_of.setdefault(int(label), []).append(k)
        packed = tuple(zlib.compress(plane.tobytes(), 1) for plane in labels)
        return cls(shape[1:], packed, slices_of, kept=True)

    @property
    def nbytes(self) -> int:
        """Memory that the planes take."""
        return sum(map(len, self.packed))

    def plane(self, k: int) -> Labels | None:
        """(rows, columns) labels of slice `k`; None where there is no file."""
        if not self.packed:
            return None
        return np.frombuffer(zlib.decompress(self.packed[k]), dtype=np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class Stack:
    """The slices of a study, as acquired, and how they are shown."""

    grid: SliceGrid
    layout: Layout

    @classmethod
    def of(cls, grid: SliceGrid) -> Stack:
        """From the grid of a series; the pictures are of its slices, also where it was resampled."""
        stack = grid.stack
        affine = np.eye(4)
        affine[:3, 0] = stack.normal * max(stack.spacing_mm, 1e-3)
        affine[:3, 1] = stack.column * grid.pixel_spacing_mm[0]
        affine[:3, 2] = stack.row * grid.pixel_spacing_mm[1]
        affine[:3, 3] = stack.positions[0]
        shape = len(stack.positions), grid.rows, grid.columns
        planes = hd.VolumeGeometry(affine, spatial_shape=shape, coordinate_system="PATIENT")
        step = (stack.positions[-1] - stack.positions[0]) / (len(stack.positions) - 1)
        layout = Layout.of(planes)
        to_lps = layout.to_lps.copy()
        to_lps[:3, 0] = step
        return cls(grid, dataclasses.replace(layout, to_lps=to_lps))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return len(self.grid.stack.positions), self.grid.rows, self.grid.columns

    def layout_at(self, k: int) -> Layout:
        """The layout with `to_lps` exact for slice `k`, also where spacing is uneven."""
        to_lps = self.layout.to_lps.copy()
        positions = self.grid.stack.positions
        to_lps[:3, 3] += positions[k] - positions[0] - k * to_lps[:3, 0]
        return dataclasses.replace(self.layout, to_lps=to_lps)

    @property
    def heights_mm(self) -> list[float]:
        """Where the middle of each slice lies along the patient's axis (LPS z)."""
        middle = np.array([0.0, (self.layout.height - 1) / 2, (self.layout.width - 1) / 2, 1.0])
        centre = (self.layout.to_lps @ middle)[2] - self.grid.stack.positions[0, 2]
        return [round(float(z + centre), 3) for z in self.grid.stack.positions[:, 2]]


class SliceSource:
    """Safe to share between threads."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._stacks: Bounded[Stack] = Bounded(MAX_STUDIES)
        self._images: Bounded[npt.NDArray[np.int16]] = Bounded(MAX_IMAGE_BYTES, lambda a: a.nbytes)
        self._labels: Bounded[Planes] = Bounded(MAX_LABEL_BYTES, lambda planes: planes.nbytes)
        self._shares: Bounded[npt.NDArray[np.float32]] = Bounded(MAX_QUESTIONS)

    def stack(self, held: Held) -> Stack:
        """The grid of a study.

        Raises
        ------
        ApiError: 409, it is an upload, or its files are missing or damaged.
        """
        if held.is_upload:
            raise ApiError(
                409,
                "pictures of an uploaded volume are not shown here",
                "look at it where it was sent from",
            )

        def make() -> Stack:
            return Stack.of(self._read(lambda: ct_grid(self._archive, held.slices)))

        return self._stacks.get(held.key, make)

    def hounsfield(self, held: Held, k: int) -> npt.NDArray[np.float32]:
        """(rows, columns) of slice `k`, which must be one.

        Raises
        ------
        ApiError: 409, its file is missing, damaged, or of another shape than the first slice.
        """
        rows, columns = self.stack(held).shape[1:]

        def make() -> npt.NDArray[np.int16]:
            hu = self._read(lambda: load_slice(*read_references([held.slices[k]], self._archive.path)))
            if hu.shape != (rows, columns):
                raise ApiError(409, "the slices of the study differ in shape", _AGAIN)
            return np.rint(hu).astype(np.int16)

        return self._images.get(held.slices[k], make).astype(np.float32)

    def labels(self, held: Held, kind: Kind) -> Planes:
        """The organs or lesions that the reading drew.

        Raises
        ------
        ApiError: 409, their file is damaged.
        """
        shape = self.stack(held).shape
        path = held.folder / _SEG[kind]

        def make() -> Planes:
            found = self._read(lambda: label_planes(path, held.slices)) if path.exists() else None
            return Planes.of(found, shape)

        return self._labels.get(f"{held.key} {kind}", make)

    def document(self, held: Held) -> dict[str, Any]:
        """The stored ``reading.json``.

        Raises
        ------
        ApiError: 409, it is missing or damaged.
        """
        found: dict[str, Any] = self._read(lambda: json.loads((held.folder / READING).read_bytes()))
        return found

    def heat(
        self, held: Held, study: Searchable, question: Question, *, by_slab: bool
    ) -> npt.NDArray[np.float32]:
        """Where a text may be in a study, as `core_model.ranking.heat`."""
        return self._shares.get(f"{held.key} {question.text}", lambda: heat(study, question, by_slab=by_slab))

    @staticmethod
    def _read(make: Callable[[], V]) -> V:
        try:
            return make()
        except (OSError, InvalidDicomError, SightlineError, ValueError, AttributeError, LookupError):
            raise ApiError(409, "the images or results of the study are missing or damaged", _AGAIN) from None
