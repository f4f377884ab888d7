"""DICOM-SEG of a reading: lesions, one segment each, and organs under their table labels.

BINARY, because every viewer reads it (design.md, decision 10). The frames lie pixel on pixel on the
source slices, also where the volume that was read had been resampled from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from core_model.abnormality import abnormality
from core_model.anatomy import organs
from core_model.reading import Lesion, Reading
from dicom_node.results import codes
from dicom_node.results.colours import LESION, organ_colour
from dicom_node.results.equipment import NOT_FOR_DIAGNOSIS, Equipment, organ_algorithm, segment_algorithm
from dicom_node.results.geometry import on_source_slices
from dicom_node.results.headers import clean_headers, without_name
from dicom_node.results.identifiers import lesion_tracking_uid, result_uid
from dicom_node.results.source_frames import as_images, refer_to_frames


@dataclass(frozen=True)
class _Kind:
    """What distinguishes the two objects: role in the result key, and what the series is called."""

    role: str
    series_number: int  # far above a scanner's own (our choice)
    series_description: str
    content_label: str


_LESIONS = _Kind("lesion-seg", 9001, "Sightline lesions", "LESIONS")
_ORGANS = _Kind("organ-seg", 9002, "Sightline organs", "ORGANS")


def lesion_segmentation(
    reading: Reading,
    sources: Sequence[Dataset],
    key: str,
    *,
    equipment: Equipment | None = None,
) -> hd.seg.Segmentation | None:
    """The lesions of a reading as DICOM-SEG, segment number = `Lesion.label`.

    Parameters
    ----------
    reading: what the model said.
    sources: the CT slices that were read; pixel data is not needed and not touched.
    key: `identifiers.result_key` of the reading.
    equipment: who makes the object; the default installation if None.

    Returns
    -------
    The object, or None if there is no lesion (PS3.3 A.51 has no SEG without a segment).

    Raises
    ------
    ValueError: if the mask does not lie on the sources, if labels are not 1..n in order
        (PS3.3 C.8.20.4 demands it of segment numbers), or if a lesion has no voxel.
    """
    if not reading.lesions:
        return None
    labels = [lesion.label for lesion in reading.lesions]
    if labels != list(range(1, len(labels) + 1)):
        raise ValueError(f"lesions have labels {labels}; they must be 1..{len(labels)} in order")
    maker = equipment or Equipment()
    headers = clean_headers(sources)
    planes = on_source_slices(reading.lesion_mask, headers)
    found = np.bincount(planes[planes > 0], minlength=len(labels) + 1)
    if len(found) > len(labels) + 1 or not found[1:].all():
        raise ValueError(
            f"lesion_mask holds labels {np.flatnonzero(found).tolist()}, lesions are {labels}; "
            "every lesion needs voxels and every label a lesion"
        )
    algorithm = segment_algorithm(reading.model, maker)
    segments = [_lesion_segment(lesion, key, algorithm) for lesion in reading.lesions]
    return _segmentation(planes, headers, segments, _LESIONS, key=key, equipment=maker)


def organ_segmentation(
    reading: Reading,
    sources: Sequence[Dataset],
    key: str,
    *,
    equipment: Equipment | None = None,
) -> hd.seg.Segmentation | None:
    """The organs of a reading as DICOM-SEG, segment number = label of the organ table.

    Every organ of the table is described, so that numbers and labels agree (BINARY wants
    consecutive segment numbers, PS3.3 C.8.20.4); absent organs have no frame.

    Parameters and errors as for `lesion_segmentation`.

    Returns
    -------
    The object, or None if the mask holds no organ at all.
    """
    maker = equipment or Equipment()
    headers = clean_headers(sources)
    planes = on_source_slices(reading.organ_mask, headers)
    if planes.max() > len(organs()):
        raise ValueError(f"organ_mask holds label {planes.max()}; the organ table ends at {len(organs())}")
    if not planes.any():
        return None
    algorithms = dict.fromkeys((o.name for o in organs()), segment_algorithm(reading.model, maker))
    if reading.organs_by is not None:
        algorithms.update(dict.fromkeys(reading.organs_by.organs, organ_algorithm(reading.organs_by)))
    segments = [
        hd.seg.SegmentDescription(
            segment_number=organ.label,
            segment_label=organ.display,
            segmented_property_category=codes.ANATOMICAL_STRUCTURE,
            segmented_property_type=codes.organ_code(organ.name),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithms[organ.name],
            display_color=hd.color.CIELabColor.from_rgb(*organ_colour(organ.name)),
        )
        for organ in organs()
    ]
    return _segmentation(planes, headers, segments, _ORGANS, key=key, equipment=maker)


def lesion_name(lesion: Lesion) -> str:
    """What a person reads, and the tracking identifier in SEG and SR, e.g. ``"liver tumour 1"``."""
    return f"{abnormality(lesion.type).display} {lesion.label}"


def _lesion_segment(
    lesion: Lesion, key: str, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=lesion.label,
        segment_label=lesion_name(lesion),
        segmented_property_category=codes.MORPHOLOGICALLY_ABNORMAL,
        segmented_property_type=codes.abnormality_code(lesion.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=lesion_tracking_uid(key, lesion.label),
        tracking_id=lesion_name(lesion),
        anatomic_regions=[codes.organ_code(lesion.organ)],
        display_color=hd.color.CIELabColor.from_rgb(*LESION),
    )


def _segmentation(
    planes: npt.NDArray[np.uint8],
    headers: list[Dataset],
    segments: list[hd.seg.SegmentDescription],
    kind: _Kind,
    *,
    key: str,
    equipment: Equipment,
) -> hd.seg.Segmentation:
    """One SEG object; `planes` (N, Rows, Columns) holds segment numbers."""
    segmentation = hd.seg.Segmentation(
        source_images=as_images(without_name(headers)),
        pixel_array=planes,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=result_uid(key, f"{kind.role}-series"),
        series_number=kind.series_number,
        sop_instance_uid=result_uid(key, kind.role),
        instance_number=1,
        **equipment.keywords(),
        content_label=kind.content_label,
        content_description=NOT_FOR_DIAGNOSIS,
        content_creator_name=f"{equipment.manufacturer}^",  # the caret: one name, not a family
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        series_description=kind.series_description,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    refer_to_frames(segmentation, headers)
    segmentation.PatientName = headers[0].PatientName
    # highdicom draws this UID at random; a retry has to give the same object.
    organization = result_uid(key, f"{kind.role}-dimensions")
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    for item in segmentation.DimensionIndexSequence:
        item.DimensionOrganizationUID = organization
    return segmentation
