"""The pixels of a chosen series as a volume of Hounsfield units.

Not the choice of the series: that is `dicom_node.series`, from headers alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import UID

from core_model.reading import SliceReference
from dicom_node.errors import SightlineError
from dicom_node.instances import Instance
from dicom_node.series import CandidateSeries, Progress

# Air outside the scanned circle; what lies below is padding (GE writes -2000 and lower).
AIR_HU = -1024
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
        float32; nothing below -1024.
    slices: slices[k] belongs to volume.array[k].
    sources: sources[k] is the data set of slice k without its pixels; empty UIDs are filled, those
        of the SOP from the file meta information.
    series_instance_uid: of the series.
    """

    volume: hd.Volume
    slices: tuple[SliceReference, ...]
    sources: tuple[pydicom.Dataset, ...]
    series_instance_uid: str


def load_series(series: CandidateSeries, *, progress: Progress | None = None) -> LoadedSeries:
    """Decode every slice into one volume.

    One slice is in memory besides the volume, so that 300 slices of 512 x 512 take 0.2 GiB.

    Parameters
    ----------
    series: from `dicom_node.series.survey_files` or `classify_series`.
    progress: called with ("pixels", fraction).

    Raises
    ------
    SightlineError: if a file cannot be decoded; the message names it.
    """
    array = np.empty(series.geometry.spatial_shape, dtype=_dtype(series.instances))
    sources: list[pydicom.Dataset] = []
    for k, instance in enumerate(series.instances):
        dataset = _read(instance)
        array[k] = _hounsfield(dataset, instance, array.dtype)
        sources.append(_without_pixels(dataset, instance, series))
        if progress is not None:
            progress("pixels", (k + 1) / len(series.instances))
    return LoadedSeries(
        volume=hd.Volume(
            array,
            series.geometry.affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid=series.geometry.frame_of_reference_uid,
        ),
        slices=tuple(
            SliceReference((i.position_mm[0], i.position_mm[1], i.position_mm[2]), i.sop_instance_uid or None)
            for i in series.instances
            if i.position_mm is not None
        ),
        sources=tuple(sources),
        series_instance_uid=series.series_instance_uid,
    )


def load_slice(instance: Instance) -> npt.NDArray[np.float32]:
    """(rows, columns) Hounsfield units of one slice, nothing below -1024.

    Raises
    ------
    SightlineError: if the file cannot be decoded, or its header has no rescale.
    """
    if instance.rescale_slope is None or instance.rescale_intercept is None:
        raise SightlineError(f"{instance.name}: no rescale to Hounsfield units; send it again")
    hu = _hounsfield(_read(instance), instance, np.dtype(np.float32))
    return np.asarray(hu, dtype=np.float32)


def _dtype(instances: tuple[Instance, ...]) -> npt.DTypeLike:
    whole = all(
        value is not None and float(value).is_integer()
        for i in instances
        for value in (i.rescale_slope, i.rescale_intercept)
    )
    return np.int16 if whole else np.float32


def _read(instance: Instance) -> pydicom.FileDataset:
    try:
        dataset = pydicom.dcmread(instance.path)
        # Decoding needs what the header check already found; broken copies differ only there.
        if not UID(str(dataset.file_meta.get("TransferSyntaxUID", ""))).is_transfer_syntax:
            raise ValueError("no transfer syntax")
        return dataset
    except Exception as error:  # whatever a parser makes of hostile bytes, the file is named
        raise SightlineError(f"{instance.name}: cannot be read; send or copy it again") from error


def _hounsfield(
    dataset: pydicom.FileDataset, instance: Instance, dtype: np.dtype[np.generic]
) -> npt.NDArray[np.generic]:
    """(rows, columns) Hounsfield units of one slice: rescaled (PS3.3 C.11.1), padding made air."""
    try:
        stored = dataset.pixel_array
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


def _without_pixels(
    dataset: pydicom.FileDataset, instance: Instance, series: CandidateSeries
) -> pydicom.Dataset:
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
