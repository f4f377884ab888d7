"""Volumes that are sent to the service: checked, read, and kept with what the reading gave.

An upload is a study without DICOM headers: places, heat map and masks can be asked of it as of any
other; SEG, SR and corrections cannot be made. The queue is `dicom_node.service.jobs`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np

from core_model.reader import Reader
from dicom_node.archive import Archive, sync_folder
from dicom_node.nifti import CANONICAL_ORIENTATION, refuse_geometry, refuse_values
from dicom_node.reading_files import write_numbers
from dicom_node.results.identifiers import derived_uid
from dicom_node.results.reading_json import reading_document
from dicom_node.series_pixels import AIR_HU
from dicom_node.service.nrrd_files import NrrdHeader, read_array, read_header
from dicom_node.service.segments import lesion_segments, organ_segments, segments_nrrd

MAX_VOXELS = 1 << 29  # 1 GiB as 16-bit integers: 2000 slices of 512 x 512
CT = "ct.nrrd"
ORGANS, LESIONS = "organs.seg.nrrd", "lesions.seg.nrrd"  # as `dicom_node.service.masks.masks_file`

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Uploaded:
    """What an upload is called.

    Attributes
    ----------
    key: of the bytes and the model; names its folder.
    study_instance_uid: made up from the key, so that the same volume is the same study.
    """

    key: str
    study_instance_uid: str

    @classmethod
    def of(cls, sha256: str, model_digest: str) -> Uploaded:
        """From the SHA-256 of the bytes that were sent and the model that reads them."""
        key = hashlib.sha256(f"upload {sha256} {model_digest}".encode()).hexdigest()
        return cls(key, str(derived_uid("upload", key)))


def upload_folder(archive: Archive, key: str) -> Path:
    """Where the files of an uploaded volume and its reading lie."""
    return archive.root / "uploads" / key


def check_header(path: Path) -> NrrdHeader:
    """The header of an uploaded CT, before anything is unpacked.

    Raises
    ------
    NrrdError: it is no NRRD that can be used.
    SightlineError: its grid is no CT of a body part.
    """
    with path.open("rb") as file:
        header = read_header(file, MAX_VOXELS)
    refuse_geometry("the volume", header.geometry)
    return header


def load_ct(path: Path) -> tuple[hd.Volume, hd.VolumeGeometry]:
    """An uploaded CT in Hounsfield units in orientation "HPL", and the grid of the file.

    Raises
    ------
    NrrdError, SightlineError: as `check_header`, or its numbers are no CT or not all there.
    """
    with path.open("rb") as file:
        header = read_header(file, MAX_VOXELS)
        array = read_array(file, header)[0].astype(np.float32)
    refuse_geometry("the volume", header.geometry)
    array = np.nan_to_num(array, copy=False, nan=AIR_HU, posinf=32767.0, neginf=AIR_HU)
    refuse_values("the volume", array)
    np.maximum(array, AIR_HU, out=array)
    volume = header.geometry.with_array(array).to_patient_orientation(CANONICAL_ORIENTATION)
    return volume.with_array(np.ascontiguousarray(volume.array)), header.geometry


def on_file_grid(mask: hd.Volume, grid: hd.VolumeGeometry) -> hd.Volume:
    """A mask on the voxels of an uploaded file, with the file's fastest axis last."""
    return mask.match_geometry(grid).permute_spatial_axes((2, 1, 0))


def read_upload(
    reader: Reader, source: Path, folder: Path, series_instance_uid: str | None, progress: Progress
) -> int:
    """Read an uploaded CT and keep everything in `folder`, which appears whole or not at all.

    Returns
    -------
    Number of slices along the body.

    Raises
    ------
    NrrdError, SightlineError: as `load_ct`.
    ValueError: the reader objects to the volume.
    """
    progress("load", 0.0)
    volume, grid = load_ct(source)
    reading = reader.read(
        volume,
        series_instance_uid=series_instance_uid,
        progress=lambda stage, share: progress(stage, 0.05 + 0.85 * share),
    )
    progress("write", 0.95)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_numbers(part, reading)
    lesions = reading_document(reading)["lesions"]
    for name, mask, segments in (
        (ORGANS, reading.organ_mask, organ_segments()),
        (LESIONS, reading.lesion_mask, lesion_segments(lesions)),
    ):
        (part / name).write_bytes(segments_nrrd(on_file_grid(mask, grid), segments))
    os.replace(source, part / CT)  # masks of texts need the image
    for path in [*part.iterdir(), part]:
        sync_folder(path)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    sync_folder(folder.parent)
    return volume.spatial_shape[0]
