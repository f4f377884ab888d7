"""CT series written to disk slice by slice, with any header changed, for the tests of the input side.

Not anatomy: every voxel carries a value that names its place, so that a slip shows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

Change = Callable[[FileDataset, int], None]
ROOT = "2.25.77"


def stored_values(k: int, rows: int, columns: int) -> npt.NDArray[np.uint16]:
    """(rows, columns) stored values of slice k: HU + 1024, different on every voxel nearby."""
    row, column = np.mgrid[:rows, :columns]
    return (500 + 40 * k + 3 * row + column).astype(np.uint16)


def write_ct(
    folder: Path,
    *,
    n_slices: int = 12,
    rows: int = 16,
    columns: int = 20,
    spacing: tuple[float, float, float] = (2.5, 0.8, 0.7),
    origin: tuple[float, float, float] = (-10.0, -20.0, 30.0),
    rotation: npt.NDArray[np.float64] | None = None,
    series: str = f"{ROOT}.2",
    change: Change | None = None,
) -> list[Path]:
    """Write slices along the normal, feet first; `path[k]` holds slice k.

    Parameters
    ----------
    folder: where to; file names do not follow the slice order.
    spacing: between slices, rows and columns, mm.
    rotation: columns are the row direction, the column direction and the normal; axial if None.
    change: called with each data set and k before it is written.
    """
    axes = np.eye(3) if rotation is None else rotation
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(n_slices):
        dataset = _slice(k, rows, columns, series)
        position = np.asarray(origin) + axes[:, 2] * spacing[0] * k
        dataset.ImagePositionPatient = [f"{value:.9g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.12g}" for value in (*axes[:, 0], *axes[:, 1])]
        dataset.PixelSpacing = [f"{spacing[1]:g}", f"{spacing[2]:g}"]
        if change is not None:
            change(dataset, k)
        path = folder / f"{(k * 7919) % 1000:03d}-{series[-4:]}-{k}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _slice(k: int, rows: int, columns: int, series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{series}.{k + 1}"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{series}.{k + 1}"
    dataset.StudyInstanceUID = f"{ROOT}.1"
    dataset.SeriesInstanceUID = series
    dataset.FrameOfReferenceUID = f"{ROOT}.4"
    dataset.Modality = "CT"
    dataset.SeriesNumber = 3
    dataset.SeriesDescription = "TEST"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = k + 1
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "-1024", "HU"
    dataset.PixelData = stored_values(k, rows, columns).tobytes()
    return dataset
