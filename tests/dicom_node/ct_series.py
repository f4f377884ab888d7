"""A small valid classic CT series in memory, axial, reversed or oblique, for the tests.

Not a phantom: its pixels are a smooth ramp with a soft-tissue ellipse, just enough to be a CT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

Geometry = Literal["axial", "reversed", "oblique"]
ROOT = "2.25.304"
SHAPE = (12, 40, 48)  # slices, rows, columns
SPACING = (3.0, 1.5, 1.25)  # between slices, rows, columns, mm
# Decimal strings of 16 characters hold these directions exactly enough.
_ANGLE = np.deg2rad(20.0)


def orientation(geometry: Geometry) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Direction of increasing column index and of increasing row index, LPS unit vectors."""
    if geometry == "oblique":
        # Turned about two axes, so that no component of the normal is zero.
        tilt = np.array(
            [[1, 0, 0], [0, np.cos(_ANGLE), -np.sin(_ANGLE)], [0, np.sin(_ANGLE), np.cos(_ANGLE)]]
        )
        turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
        matrix = turn @ tilt
        return matrix[:, 0], matrix[:, 1]
    return np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def ct_series(
    geometry: Geometry = "axial",
    *,
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = SPACING,
    patient_name: str = "Doe^Jane",
    character_set: str | list[str] | None = None,
    uid_root: str = ROOT,
) -> list[Dataset]:
    """The slices of a series, feet first; "reversed" gives them head first.

    The data sets are complete CT Image Storage instances with file meta information.
    """
    row_direction, column_direction = orientation(geometry)
    normal = np.cross(row_direction, column_direction)
    order = range(shape[0]) if geometry != "reversed" else range(shape[0] - 1, -1, -1)
    slices = []
    for number, k in enumerate(order, start=1):
        dataset = _header(shape, patient_name, character_set, uid_root, number)
        position = np.array([-31.25, -28.5, 112.0]) + normal * spacing[0] * k
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.12g}" for value in (*row_direction, *column_direction)]
        dataset.PixelSpacing = [f"{spacing[1]:g}", f"{spacing[2]:g}"]
        dataset.SliceThickness = f"{spacing[0]:g}"
        dataset.PixelData = (_pixels(shape, k) + 1024).astype("<u2").tobytes()
        slices.append(dataset)
    return slices


def _pixels(shape: tuple[int, int, int], k: int) -> npt.NDArray[np.int16]:
    """(Rows, Columns) HU of slice k."""
    y, x = np.mgrid[: shape[1], : shape[2]].astype(np.float64)
    body = ((y / shape[1] - 0.5) / 0.42) ** 2 + ((x / shape[2] - 0.5) / 0.46) ** 2 < 1
    return np.asarray(np.where(body, 40 + 2 * k + x, -1000), dtype=np.int16)


def _header(
    shape: tuple[int, int, int],
    patient_name: str,
    character_set: str | list[str] | None,
    root: str,
    number: int,
) -> Dataset:
    dataset = Dataset()
    if character_set is not None:
        dataset.SpecificCharacterSet = character_set
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{root}.3.{number}"
    dataset.StudyInstanceUID = f"{root}.1"
    dataset.SeriesInstanceUID = f"{root}.2"
    dataset.FrameOfReferenceUID = f"{root}.4"
    dataset.PositionReferenceIndicator = ""
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240229"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101112"
    dataset.PatientName = patient_name
    dataset.PatientID = "TEST-0001"
    dataset.PatientBirthDate = "19500101"
    dataset.PatientSex = "F"
    dataset.ReferringPhysicianName = ""
    dataset.AccessionNumber = "A1"
    dataset.StudyID = "S1"
    dataset.Modality = "CT"
    dataset.Manufacturer = "Test"
    dataset.PatientPosition = "HFS"
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.Laterality = ""
    dataset.SeriesNumber = 3
    dataset.InstanceNumber = number
    dataset.AcquisitionNumber = 1
    dataset.KVP = "120"
    dataset.Rows, dataset.Columns = shape[1:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "-1024", "1", "HU"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def write_series(slices: list[Dataset], folder: Path) -> list[Path]:
    """The series as Part 10 files ``IM_0001.dcm``, ... in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for dataset in slices:
        paths.append(folder / f"IM_{int(dataset.InstanceNumber):04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def volume_of(slices: list[Dataset]) -> hd.Volume:
    """HU as float32 on the slices, first axis = the order of `slices`, LPS mm."""
    first, second = slices[0], slices[1]
    row_direction = np.array(first.ImageOrientationPatient[:3], dtype=np.float64)
    column_direction = np.array(first.ImageOrientationPatient[3:], dtype=np.float64)
    origin = np.array(first.ImagePositionPatient, dtype=np.float64)
    affine = np.eye(4)
    affine[:3, 0] = np.array(second.ImagePositionPatient, dtype=np.float64) - origin
    affine[:3, 1] = column_direction * float(first.PixelSpacing[0])
    affine[:3, 2] = row_direction * float(first.PixelSpacing[1])
    affine[:3, 3] = origin
    array = np.stack([dataset.pixel_array.astype(np.float32) - 1024 for dataset in slices])
    return hd.Volume(
        array,
        affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=first.get("FrameOfReferenceUID") or None,
    )
