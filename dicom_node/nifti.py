"""NIfTI files in and out: the only place besides the Slicer extension where RAS exists.

Not DICOM: a NIfTI has neither patient nor instances, so results from it have no SEG and no SR.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import numpy.typing as npt

from core_model.reading import SliceReference
from dicom_node.errors import SightlineError
from dicom_node.series_pixels import AIR_HU, MUST_HOLD_BELOW_HU
from dicom_node.series_rules import MAX_VOXELS
from dicom_node.series_settings import SeriesSettings

CANONICAL_ORIENTATION = "HPL"  # as core_model.volume, which importing would load torch for
_MAX_HU = 32767.0
_SPACING_MM = (0.05, 20.0)  # outside of it the file is not in millimetres


@dataclass(frozen=True)
class LoadedNifti:
    """A NIfTI file in memory.

    Attributes
    ----------
    volume: float32 Hounsfield units in orientation "HPL", nothing below -1024.
    slices: slices[k] belongs to volume.array[k]; without SOP Instance UIDs.
    file_geometry: the grid in the file's own axis order, in LPS mm.
    """

    volume: hd.Volume
    slices: tuple[SliceReference, ...]
    file_geometry: hd.VolumeGeometry


def is_nifti(path: Path) -> bool:
    """Whether the file's name says NIfTI-1 or -2 in one file.

    >>> is_nifti(Path("a/ct.nii.gz")), is_nifti(Path("ct.dcm"))
    (True, False)
    """
    return path.name.lower().endswith((".nii", ".nii.gz"))


def load_nifti(path: Path) -> LoadedNifti:
    """Read a CT from .nii or .nii.gz.

    Raises
    ------
    SightlineError: if the file is damaged, not 3D, without orientation, or no CT in Hounsfield units.
    """
    try:
        image: Any = nib.load(path)
    except Exception as error:  # whatever nibabel makes of hostile bytes, the file is named
        raise SightlineError(f"{path}: not a readable NIfTI file ({type(error).__name__})") from error
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    _refuse_shape(path, image, shape)
    try:
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except Exception as error:
        raise SightlineError(
            f"{path}: the image data is cut off or damaged ({type(error).__name__}); copy the file again"
        ) from error
    array = np.nan_to_num(array, copy=False, nan=AIR_HU, posinf=_MAX_HU, neginf=AIR_HU)
    refuse_values(path, array)
    try:
        as_stored = hd.Volume(
            np.maximum(array, AIR_HU, out=array),
            np.asarray(image.affine, dtype=np.float64),
            coordinate_system="PATIENT",
            from_reference_convention="RAS",
        )
    except ValueError as error:
        raise SightlineError(
            f"{path}: its axes are not at right angles (sheared affine); resample it to a regular grid"
        ) from error
    refuse_geometry(path, as_stored.get_geometry())
    volume = as_stored.to_patient_orientation(CANONICAL_ORIENTATION)
    volume = volume.with_array(np.ascontiguousarray(volume.array))
    return LoadedNifti(volume, _slices(volume), as_stored.get_geometry())


def _refuse_shape(path: Path, image: Any, shape: tuple[int, ...]) -> None:
    header = image.header
    if len(shape) != 3:
        raise SightlineError(
            f"{path}: {len(shape)}-dimensional {shape}; give one 3D volume, of a time series one time"
        )
    if image.get_data_dtype().kind not in "iuf":
        raise SightlineError(f"{path}: values are {image.get_data_dtype()}, not numbers of a CT")
    if int(np.prod(shape, dtype=np.int64)) > MAX_VOXELS:
        raise SightlineError(f"{path}: {shape} voxels are more than is read; crop or resample it")
    if int(header.get("qform_code", 0)) == 0 and int(header.get("sform_code", 0)) == 0:
        raise SightlineError(
            f"{path}: the file does not say where left and right are (qform and sform code 0); "
            "convert it from DICOM again"
        )


def refuse_geometry(name: Path | str, geometry: hd.VolumeGeometry) -> None:
    """Refuse a grid that is no CT of a body part in millimetres.

    Raises
    ------
    SightlineError: beginning with `name`.
    """
    low, high = _SPACING_MM
    if not all(low <= s <= high for s in geometry.spacing):
        raise SightlineError(
            f"{name}: voxels of {' x '.join(f'{s:.4g}' for s in geometry.spacing)}; a CT in millimetres "
            f"has {low} to {high} along every axis"
        )
    extent = [n * s for n, s in zip(geometry.spatial_shape, geometry.spacing, strict=True)]
    least = SeriesSettings()
    if min(geometry.spatial_shape) < least.minimum_slices or min(extent) < least.minimum_extent_mm:
        raise SightlineError(
            f"{name}: only {' x '.join(f'{e:.0f}' for e in extent)} mm; organs are recognised from "
            f"{least.minimum_slices} slices and {least.minimum_extent_mm:.0f} mm on"
        )


def refuse_values(name: Path | str, array: npt.NDArray[np.float32]) -> None:
    """Refuse values that are no CT in Hounsfield units.

    Raises
    ------
    SightlineError: beginning with `name`.
    """
    low, high = float(array.min()), float(array.max())
    if low > MUST_HOLD_BELOW_HU or high > _MAX_HU:
        raise SightlineError(
            f"{name}: values run from {low:g} to {high:g}; a CT in Hounsfield units is needed "
            "(air -1000, fat -100, water 0)"
        )


def _slices(volume: hd.Volume) -> tuple[SliceReference, ...]:
    indices = [[k, 0, 0] for k in range(volume.spatial_shape[0])]
    corners = volume.map_indices_to_reference(np.asarray(indices))
    return tuple(SliceReference((float(x), float(y), float(z)), None) for x, y, z in corners)


def save_nifti(mask: hd.Volume, grid: hd.VolumeGeometry, path: Path) -> None:
    """Write a label volume as NIfTI on `grid`: `mask` with axes permuted and flipped, not resampled.

    Parameters
    ----------
    mask: labels on the same voxels as `grid`, in any axis order.
    grid: axis order and place in the file, e.g. that of the NIfTI that was read.
    path: ending in .nii.gz.

    Raises
    ------
    RuntimeError: if the voxels of `mask` and `grid` are not the same.
    """
    image = mask.match_geometry(grid).to_nibabel()
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1)  # 1: scanner coordinates, RAS
    image.set_sform(image.affine, code=1)
    nib.save(image, path)
