"""A phantom as a classic CT Image Storage series (PS3.3 A.3) that any PACS takes.

Not the scanner: grey values come from the phantom; here they are put on the grid of the images
and given the fine noise of a reconstruction kernel. Every object says that it is synthetic
(name, id, Quality Control Subject, comments), and every UID follows from the phantom's voxels
and the settings, so the same command gives the same study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from core_model.volume import HU_MAX, HU_MIN, resample
from training.phantoms.tissues import Phantom

INTERCEPT = -1024  # stored value 0; PS3.3 C.8.2.1 Rescale Intercept
CHUNK = 8  # slices that are resampled at a time
# kernel: noise standard deviation (HU at 1 mm slices) and its correlation (mm)
KERNELS = {"B20f": (16.0, 0.9), "B30f": (22.0, 0.7), "B40f": (32.0, 0.5), "B60f": (60.0, 0.25)}


@dataclass(frozen=True)
class SeriesSettings:
    """How a phantom is exported.

    Attributes
    ----------
    seed: names the phantom and drives the noise.
    slices: number of images over the phantom's height; None keeps the phantom's own slices.
    matrix: rows and columns of an image; None keeps the phantom's pixel size.
    kernel: one of `KERNELS`.
    series_number: Series Number (0020,0011).
    """

    seed: int
    slices: int | None = None
    matrix: int | None = None
    kernel: str = "B30f"
    series_number: int = 3

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel {self.kernel!r} is not one of {sorted(KERNELS)}")
        if self.slices is not None and not 2 <= self.slices <= 5000:
            raise ValueError(f"slices is {self.slices}; 2 to 5000 can be exported")
        if self.matrix is not None and not 16 <= self.matrix <= 2048:
            raise ValueError(f"matrix is {self.matrix}; 16 to 2048 pixels can be exported")


@dataclass(frozen=True)
class ExportedSeries:
    """A series that was written.

    Attributes
    ----------
    geometry: of the images as one volume, axes "HPL": index 0 is the most inferior image.
    study_instance_uid, series_instance_uid: of the series.
    sop_instance_uids: by index along the first axis of `geometry`.
    files: in the same order.
    """

    geometry: hd.VolumeGeometry
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    files: tuple[Path, ...]


def phantom_geometry(phantom: Phantom) -> hd.VolumeGeometry:
    """Where a phantom's voxels lie in the patient coordinate system (LPS, mm).

    The middle of the plane is x = y = 0 and the most superior voxel centre z = 0; our choice.
    """
    depth, height, width = phantom.hu.shape
    sz, sy, sx = phantom.spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, sx], [0, sy, 0], [sz, 0, 0]]
    affine[:3, 3] = [-sx * (width - 1) / 2, -sy * (height - 1) / 2, -sz * (depth - 1)]
    return hd.VolumeGeometry(affine, spatial_shape=(depth, height, width), coordinate_system="PATIENT")


def export_geometry(
    phantom: Phantom, settings: SeriesSettings, frame_of_reference_uid: str | None = None
) -> hd.VolumeGeometry:
    """The grid of the images: square, round the phantom's middle, over its whole height."""
    own = phantom_geometry(phantom)
    depth, height, width = own.spatial_shape
    sz, sy, sx = phantom.spacing_mm
    side = max(height * sy, width * sx)
    pixel = sx if settings.matrix is None else side / settings.matrix
    matrix = max(round(side / pixel), 1) if settings.matrix is None else settings.matrix
    count = depth if settings.slices is None else settings.slices
    step = sz * depth / count
    # An odd number of missing pixels would put the images half a pixel beside the phantom's own.
    shift = [0.0, 0.0]
    if settings.matrix is None:
        shift = [sx / 2 * ((matrix - width) % 2), sy / 2 * ((matrix - height) % 2)]
    lowest = own.position[2] - sz / 2 + step / 2
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, pixel], [0, pixel, 0], [step, 0, 0]]
    affine[:3, 3] = [shift[0] - pixel * (matrix - 1) / 2, shift[1] - pixel * (matrix - 1) / 2, lowest]
    return hd.VolumeGeometry(
        affine,
        spatial_shape=(count, matrix, matrix),
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference_uid,
    )


def nearest(
    labels: torch.Tensor, source: hd.VolumeGeometry, target: hd.VolumeGeometry
) -> npt.NDArray[np.uint8]:
    """A label map on another grid with the same axis directions; 0 outside of the source.

    Parameters
    ----------
    labels: (D, H, W) uint8 on `source`.

    Returns
    -------
    (D', H', W') uint8 on `target`, the label of the nearest source voxel.
    """
    out = labels.numpy()
    for axis, index in enumerate(_nearest_indices(source, target)):
        inside = (index >= 0) & (index < source.spatial_shape[axis])
        out = np.take(out, np.clip(index, 0, source.spatial_shape[axis] - 1), axis)
        shape = [-1 if a == axis else 1 for a in range(3)]
        out = out * inside.reshape(shape).astype(np.uint8)
    return np.ascontiguousarray(out)


def _nearest_indices(source: hd.VolumeGeometry, target: hd.VolumeGeometry) -> list[npt.NDArray[np.int64]]:
    matrix = source.inverse_affine @ target.affine
    return [
        np.rint(matrix[a, a] * np.arange(target.spatial_shape[a]) + matrix[a, 3] - 1e-6).astype(np.int64)
        for a in range(3)
    ]


def image_slices(phantom: Phantom, settings: SeriesSettings) -> Iterator[npt.NDArray[np.float32]]:
    """The images in HU, (matrix, matrix) float32, from the most inferior to the most superior."""
    source, target = phantom_geometry(phantom), export_geometry(phantom, settings)
    outside = [
        (index < 0) | (index >= source.spatial_shape[axis])
        for axis, index in enumerate(_nearest_indices(source, target))
    ]
    sigma, correlation_mm = KERNELS[settings.kernel]
    step, pixel = target.spacing[0], target.spacing[2]
    # Thicker slices hold more photons; pixels wider than the correlation average it away.
    sigma *= min(1.0, max(0.35, correlation_mm / pixel)) / step**0.5
    count = target.spatial_shape[0]
    for first in range(0, count, CHUNK):
        part = target[first : min(count, first + CHUNK)]
        hu = resample(phantom.hu[None], source, part, antialias=False)[0].numpy()
        hu[:, outside[1], :] = -1000
        hu[:, :, outside[2]] = -1000
        for k, image in enumerate(hu):
            rng = np.random.default_rng([settings.seed, first + k])
            noise = rng.standard_normal(image.shape, dtype=np.float32)
            noise = ndimage.gaussian_filter(noise, correlation_mm / pixel)
            noise *= sigma / max(1e-6, float(noise.std()))
            yield np.clip(image + noise, HU_MIN, HU_MAX)


def write_series(
    phantom: Phantom,
    folder: Path,
    settings: SeriesSettings,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedSeries:
    """Write one file per image into `folder`, image 1 being the most superior.

    Parameters
    ----------
    phantom: what to export.
    folder: made if missing; must not hold a series yet.
    settings: grid, kernel and numbers.
    progress: called with (images written, images in all).

    Raises
    ------
    FileExistsError: if `folder` already holds .dcm files.
    """
    if folder.exists() and any(folder.glob("*.dcm")):
        raise FileExistsError(f"folder {folder} already holds .dcm files; give an empty one")
    folder.mkdir(parents=True, exist_ok=True)
    key = _series_key(phantom, settings)
    geometry = export_geometry(phantom, settings, _uid(key, "frame of reference"))
    count = geometry.spatial_shape[0]
    common = _series_header(phantom, geometry, settings, key)
    uids: list[str] = []
    files: list[Path] = []
    for index, image in enumerate(image_slices(phantom, settings)):
        number = count - index
        dataset = _image(common, geometry, index, number, image)
        dataset.SOPInstanceUID = _uid(key, f"image {number}")
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"image_{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        uids.append(dataset.SOPInstanceUID)
        files.append(path)
        if progress is not None:
            progress(index + 1, count)
    return ExportedSeries(
        geometry, common.StudyInstanceUID, common.SeriesInstanceUID, tuple(uids), tuple(files)
    )


def _series_key(phantom: Phantom, settings: SeriesSettings) -> str:
    """Digest of everything that makes a series what it is: voxels, spacing, settings."""
    digest = hashlib.sha256(repr((settings, phantom.spacing_mm, phantom.phase)).encode())
    digest.update(np.ascontiguousarray(phantom.hu.numpy()).data)
    return digest.hexdigest()


def _uid(key: str, role: str) -> str:
    """A UID that follows from a series key and a role (PS3.5 chapter 9)."""
    return str(generate_uid(entropy_srcs=[key, role]))


def _series_header(
    phantom: Phantom, geometry: hd.VolumeGeometry, settings: SeriesSettings, key: str
) -> Dataset:
    """What all images share: patient, study, series, equipment, acquisition."""
    ds = Dataset()
    day = (date(2020, 1, 1) + timedelta(days=settings.seed % 1000)).strftime("%Y%m%d")
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.AccessionNumber = f"PH{settings.seed}"
    ds.Modality = "CT"
    ds.Manufacturer = "Sightline phantom generator"
    ds.ManufacturerModelName = "Procedural phantom"
    ds.SoftwareVersions = "1"
    ds.DeviceSerialNumber = "0"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Synthetic CT chest abdomen pelvis"
    ds.SeriesDescription = f"{phantom.phase} {geometry.spacing[0]:.1f} {settings.kernel} synthetic"
    ds.PatientName = f"PHANTOM^SEED{settings.seed}"
    ds.PatientID = f"PHANTOM-{settings.seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.QualityControlSubject = "YES"  # PS3.3 C.7.1.1: not a patient
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "Synthetic: there never was a patient"
    ds.ProtocolName = f"CAP {phantom.phase}"
    if phantom.phase != "native":
        ds.ContrastBolusAgent = "Synthetic"
        ds.ContrastBolusRoute = "IV"
    _add_acquisition(ds, geometry, settings)
    ds.StudyInstanceUID = _uid(key, "study")
    ds.SeriesInstanceUID = _uid(key, "series")
    ds.StudyID = f"{settings.seed}"[:16]
    ds.SeriesNumber = settings.series_number
    ds.AcquisitionNumber = 1
    ds.FrameOfReferenceUID = geometry.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.ImageComments = "Synthetic phantom, not a patient"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    return ds


def _add_acquisition(ds: Dataset, geometry: hd.VolumeGeometry, settings: SeriesSettings) -> None:
    """The CT Image module's acquisition part (PS3.3 C.8.2.1) and the patient's position."""
    ds.ScanOptions = "HELICAL MODE"
    ds.KVP = "120"
    ds.SliceThickness = _decimal(geometry.spacing[0])
    ds.SpacingBetweenSlices = _decimal(geometry.spacing[0])
    ds.DataCollectionDiameter = "500"
    ds.ReconstructionDiameter = _decimal(geometry.spacing[2] * geometry.spatial_shape[2])
    ds.GantryDetectorTilt = "0"
    ds.TableHeight = "150"
    ds.RotationDirection = "CW"
    ds.ExposureTime = "500"
    ds.XRayTubeCurrent = "300"
    ds.Exposure = "150"
    ds.FilterType = "FLAT"
    ds.ConvolutionKernel = settings.kernel
    ds.PatientPosition = "HFS"
    ds.BodyPartExamined = "CHESTABDPELVIS"


def _image(
    common: Dataset,
    geometry: hd.VolumeGeometry,
    index: int,
    number: int,
    hu: npt.NDArray[np.float32],
) -> Dataset:
    """One CT image; `index` counts from the most inferior, `number` from the most superior."""
    ds = Dataset()
    ds.update(common)
    position = geometry.map_indices_to_reference(np.array([[index, 0, 0]], dtype=np.float64))[0]
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [_decimal(float(v)) for v in position]
    ds.SliceLocation = _decimal(float(position[2]))
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape
    ds.PixelSpacing = [_decimal(geometry.spacing[1]), _decimal(geometry.spacing[2])]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.WindowCenter, ds.WindowWidth = "40", "400"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(INTERCEPT), "1", "HU"
    stored = np.rint(hu - INTERCEPT).astype("<i2")
    ds.PixelData = stored.tobytes()
    return ds


def _decimal(value: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5 6.2) that keeps nanometres."""
    text = f"{value:.9f}"[:16].rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
