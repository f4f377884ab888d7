"""The pixels of a chosen series as a volume of Hounsfield units.

Not the choice of the series: that is `dicom_node.series`, from headers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import Tag
from pydicom.uid import UID

from core_model.reading import SliceReference, point_lps
from dicom_node.errors import SightlineError
from dicom_node.instances import Instance
from dicom_node.series import CandidateSeries, Progress

Stored = npt.NDArray[np.integer]
# Air outside the scanned circle; what lies below is padding (GE writes -2000 and lower).
AIR_HU = -1024
# A CT of any body part shows fat or air; label maps, and values that are inverted, hold nothing below.
MUST_HOLD_BELOW_HU = -50.0
# Padding is only believed where its value cannot be tissue: some writers declare 0 with
# intercept 0, which is water.
_TISSUE_HU = (-1000.0, 3071.0)
# Elements that only pixel data needs; results never copy them.
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData", "PixelDataProviderURL")


@dataclass(frozen=True)
class LoadedSeries:
    """A series in memory.

    Attributes
    ----------
    volume: Hounsfield units, (slice, row, column); int16 where rescale keeps integers, else
        float32; nothing below -1024. Where the slices are no regular grid, resampled to one.
    slices: the slices of the series, in slice order; those of a resampled one with their normal.
    sources: sources[k] is the data set of slice k without its pixels, of a frame as that of a
        file of one image (`frame_header`); empty UIDs are filled, those of the SOP from the file
        meta information.
    series_instance_uid: of the series.
    notes: what a person must know of how slices became the volume.
    """

    volume: hd.Volume
    slices: tuple[SliceReference, ...]
    sources: tuple[pydicom.Dataset, ...]
    series_instance_uid: str
    notes: tuple[str, ...]


def load_series(series: CandidateSeries, *, progress: Progress | None = None) -> LoadedSeries:
    """Decode every slice into one volume.

    One slice is in memory besides the volume, so that 300 slices of 512 x 512 take 0.2 GiB; of a
    series that is resampled both the slices and the volume are.

    Parameters
    ----------
    series: from `dicom_node.series.survey_files` or `classify_series`.
    progress: called with ("pixels", fraction).

    Raises
    ------
    SightlineError: if a file cannot be decoded (the message names it), or if nothing in it is as
        little dense as fat, so that the values are no Hounsfield units.
    """
    grid = series.grid
    array = np.empty((len(series.instances), grid.rows, grid.columns), dtype=_dtype(series.instances))
    sources: list[pydicom.Dataset] = []
    for k, (instance, header, stored) in enumerate(_decoded(series.instances)):
        array[k] = _hounsfield(header, instance, stored, array.dtype)
        sources.append(_filled(header, instance, series))
        if progress is not None:
            progress("pixels", (k + 1) / len(series.instances))
    if array.min() > MUST_HOLD_BELOW_HU:
        raise SightlineError(
            f"{series.title}: values run from {array.min():g} to {array.max():g}; a CT in Hounsfield units "
            "shows air (-1000) or fat (-100), so these are none"
        )
    return LoadedSeries(
        volume=hd.Volume(
            grid.resampled(array, AIR_HU),
            series.geometry.affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid=series.geometry.frame_of_reference_uid,
        ),
        slices=_slice_references(series),
        sources=tuple(sources),
        series_instance_uid=series.series_instance_uid,
        notes=series.notes,
    )


def load_headers(instances: Sequence[Instance]) -> list[pydicom.Dataset]:
    """The data sets of images without their pixels, as `LoadedSeries.sources` before UIDs are filled.

    Raises
    ------
    SightlineError: if a file cannot be read; the message names it.
    """
    whole: dict[Path, pydicom.FileDataset] = {}
    headers = []
    for instance in instances:
        if instance.path not in whole:
            whole = {instance.path: _read(instance, pixels=False)}  # frames of a file follow each other
        header = whole[instance.path]
        headers.append(header if instance.frame is None else frame_header(header, instance))
    return headers


def load_slice(instance: Instance) -> npt.NDArray[np.float32]:
    """(rows, columns) Hounsfield units of one slice, nothing below -1024.

    Raises
    ------
    SightlineError: if the file cannot be decoded, or its header has no rescale.
    """
    if instance.rescale_slope is None or instance.rescale_intercept is None:
        raise SightlineError(f"{instance.name}: no rescale to Hounsfield units; send it again")
    (_, header, stored) = next(_decoded([instance]))
    hu = _hounsfield(header, instance, stored, np.dtype(np.float32))
    return np.asarray(hu, dtype=np.float32)


def frame_header(whole: pydicom.Dataset, instance: Instance) -> pydicom.Dataset:
    """A frame of a multi-frame data set with the elements of a file of one image, without pixels.

    Referenced Frame Number says which frame it is, for results to refer to.
    """
    header = whole[: Tag("SharedFunctionalGroupsSequence")]  # with the character set; pixels lie behind
    header.file_meta = whole.file_meta
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence", "NumberOfFrames"):
        header.pop(keyword, None)
    header.ReferencedFrameNumber = instance.frame
    header.InstanceNumber = instance.instance_number
    header.ImageType = list(instance.image_type)
    if instance.position_mm is None or instance.orientation is None or instance.pixel_spacing_mm is None:
        raise SightlineError(f"{instance.name}: frame {instance.frame} has no place in the patient")
    header.ImagePositionPatient = [f"{value:.10g}" for value in instance.position_mm]
    header.ImageOrientationPatient = [f"{value:.10g}" for value in instance.orientation]
    header.PixelSpacing = [f"{value:.10g}" for value in instance.pixel_spacing_mm]
    header.SliceThickness = None if instance.thickness_mm is None else f"{instance.thickness_mm:.10g}"
    return header


def _slice_references(series: CandidateSeries) -> tuple[SliceReference, ...]:
    stack = series.grid.stack
    normal = None if stack.is_regular else point_lps(stack.normal)
    return tuple(
        SliceReference(point_lps(position), instance.sop_instance_uid or None, normal)
        for position, instance in zip(stack.positions, series.instances, strict=True)
    )


def _dtype(instances: Sequence[Instance]) -> npt.DTypeLike:
    whole = all(
        value is not None and float(value).is_integer()
        for i in instances
        for value in (i.rescale_slope, i.rescale_intercept)
    )
    return np.int16 if whole else np.float32


def _decoded(
    instances: Sequence[Instance],
) -> Iterator[tuple[Instance, pydicom.Dataset, Stored]]:
    """Each image with its header and its stored values (rows, columns), in the order given."""
    start = 0
    while start < len(instances):
        first = instances[start]
        if first.frame is None:
            dataset = _read(first)
            yield first, dataset, _stored(first, partial(_pixels, dataset, first))
            start += 1
            continue
        end = start
        while end < len(instances) and instances[end].path == first.path:
            end += 1
        frames = instances[start:end]
        whole = _read(first, pixels=False)
        decoded = iter_pixels(first.path, indices=[(image.frame or 1) - 1 for image in frames])
        for image in frames:
            yield image, frame_header(whole, image), _stored(image, partial(next, decoded))
        start = end


def _read(instance: Instance, *, pixels: bool = True) -> pydicom.FileDataset:
    try:
        dataset = pydicom.dcmread(instance.path, stop_before_pixels=not pixels)
        # Decoding needs what the header check already found; broken copies differ only there.
        if not UID(str(dataset.file_meta.get("TransferSyntaxUID", ""))).is_transfer_syntax:
            raise ValueError("no transfer syntax")
        return dataset
    except Exception as error:  # whatever a parser makes of hostile bytes, the file is named
        raise SightlineError(f"{instance.name}: cannot be read; send or copy it again") from error


def _pixels(dataset: pydicom.FileDataset, instance: Instance) -> Stored:
    """The stored values of a file of one image.

    pydicom takes the lowest bits of a cell for the value and clears the rest; old scanners put the
    value into the highest (High Bit, PS3.5 8.1.1).
    """
    low = int(dataset.get("HighBit") or 0) + 1 - int(dataset.get("BitsStored") or 0)
    if low <= 0 or UID(instance.transfer_syntax_uid).is_encapsulated:
        return dataset.pixel_array
    dataset.BitsStored += low
    shifted: Stored = dataset.pixel_array >> low
    return shifted


def _stored(instance: Instance, decode: Callable[[], Stored]) -> Stored:
    try:
        stored = decode()
    except Exception as error:  # decoders raise what they like on broken streams
        raise SightlineError(
            f"{instance.name}: the pixel data cannot be decoded ({type(error).__name__}); "
            "send or copy it again"
        ) from error
    if stored.shape != (instance.rows, instance.columns):
        raise SightlineError(
            f"{instance.name}: the header says {instance.rows} x {instance.columns} pixels, "
            f"the pixel data holds {' x '.join(map(str, stored.shape))}; send it again"
        )
    return stored


def _hounsfield(
    dataset: pydicom.Dataset,
    instance: Instance,
    stored: Stored,
    dtype: np.dtype[np.generic],
) -> npt.NDArray[np.generic]:
    """(rows, columns) Hounsfield units of one slice: rescaled (PS3.3 C.11.1), padding made air."""
    if instance.rescale_slope is None or instance.rescale_intercept is None:
        raise ValueError("instance must have passed classify_series")
    hu = stored.astype(np.float32) * instance.rescale_slope + instance.rescale_intercept
    padding = _padding(dataset, stored.dtype)
    if padding is not None:
        low, high = (value * instance.rescale_slope + instance.rescale_intercept for value in padding)
        if max(low, high) <= _TISSUE_HU[0] or min(low, high) >= _TISSUE_HU[1]:
            hu[(stored >= padding[0]) & (stored <= padding[1])] = AIR_HU
    clipped: npt.NDArray[np.generic] = np.clip(hu, AIR_HU, 32767).astype(dtype)
    return clipped


def _padding(dataset: pydicom.Dataset, dtype: np.dtype[np.generic]) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding (PS3.3 C.7.5.1.1.2), or None.

    The element's own sign may contradict Pixel Representation; its bits count.
    """
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [value, limit if isinstance(limit, int) else value]
    if dtype.kind == "i":
        span = 1 << (8 * dtype.itemsize)
        ends = [(end + span // 2) % span - span // 2 for end in ends]
    elif dtype.kind == "u":
        ends = [end % (1 << (8 * dtype.itemsize)) for end in ends]
    return min(ends), max(ends)


def _filled(dataset: pydicom.Dataset, instance: Instance, series: CandidateSeries) -> pydicom.Dataset:
    for keyword in _PIXEL_KEYWORDS:
        if keyword in dataset:
            del dataset[keyword]
    for keyword, uid in (
        ("SOPClassUID", instance.sop_class_uid),
        ("SOPInstanceUID", instance.sop_instance_uid),
        ("StudyInstanceUID", series.study_instance_uid),
        ("SeriesInstanceUID", series.series_instance_uid),
    ):
        if not dataset.get(keyword):
            setattr(dataset, keyword, uid)
    return dataset
