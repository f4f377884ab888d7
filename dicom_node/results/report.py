"""The structured report of a reading: Comprehensive 3D SR after TID 1500.

Not prose: one measurement group (TID 1501) per organ and abnormality that was searched for,
also where it is absent or could not be judged, and one (TID 1411) per lesion that refers to
its segment. Complete as to content, preliminary, unverified: nobody has read it.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
from highdicom import sr
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, Comprehensive3DSRStorage

from core_model.abnormality import abnormality
from core_model.anatomy import organ
from core_model.reading import Finding, Lesion, Reading
from dicom_node.results import codes
from dicom_node.results.equipment import NOT_FOR_DIAGNOSIS, Equipment, organ_note, report_algorithm
from dicom_node.results.geometry import nearest_plane, slice_normal
from dicom_node.results.headers import clean_headers, without_name
from dicom_node.results.identifiers import (
    derived_uid,
    finding_tracking_uid,
    lesion_tracking_uid,
    result_uid,
)
from dicom_node.results.segmentation import lesion_name
from dicom_node.results.source_frames import objects_of, source_image

_Group = sr.MeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
REPORT_SERIES_NUMBER = 9003
NOT_IN_VIEW = "Not assessed: the organ was not found in the field of view."
BETWEEN_THRESHOLDS = "Not decided: the score lies between the thresholds for absent and present."


def findings_report(
    reading: Reading,
    sources: Sequence[Dataset],
    key: str,
    *,
    lesion_seg: Dataset | None,
    organ_seg: Dataset | None,
    notes: Sequence[str] = (),
    equipment: Equipment | None = None,
    earlier_key: str | None = None,
) -> sr.Comprehensive3DSR:
    """The report of a reading; made in any case, also without a lesion.

    Parameters
    ----------
    reading: what the model said.
    sources: the CT slices that were read, in any order; pixel data is not needed.
    key: `identifiers.result_key` of the reading.
    lesion_seg, organ_seg: the segmentations that were made of the same reading, as evidence;
        lesion groups refer to segments of the first.
    notes: what a reader of the report must know of how the images were read, each a comment.
    equipment: who makes the object; the default installation if None.
    earlier_key: key of the reading of the same study whose report this one replaces; named in
        Predecessor Documents Sequence (PS3.3 C.17.2).

    Raises
    ------
    ValueError: if there are lesions but no `lesion_seg`, or if the sources have no usable header.
    """
    if reading.lesions and lesion_seg is None:
        raise ValueError(
            f"reading has {len(reading.lesions)} lesions but lesion_seg is None; make it with "
            "segmentation.lesion_segmentation first, so that the report can refer to its segments"
        )
    maker = equipment or Equipment()
    headers = clean_headers(sources)
    algorithm = report_algorithm(reading.model, maker)
    groups: list[
        sr.MeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    ]
    groups = [_finding_group(finding, headers, key, algorithm) for finding in reading.findings]
    if lesion_seg is not None:
        groups += [_lesion_group(lesion, lesion_seg, headers, key, algorithm) for lesion in reading.lesions]
    content = sr.MeasurementReport(
        observation_context=_observer(maker),
        procedure_reported=codes.CT_UNSPECIFIED_BODY_REGION,
        imaging_measurements=groups,
        title=codes.IMAGING_MEASUREMENT_REPORT,
        # One image stands for the series: a library of 400 costs ten seconds, and the evidence
        # sequence lists them all.
        referenced_images=[headers[len(headers) // 2]],
    )
    drawn = [] if reading.organs_by is None else [organ_note(reading.organs_by)]
    for text in (f"{NOT_FOR_DIAGNOSIS}.", *drawn, *notes):
        content[0].ContentSequence.append(_comment(text))
    segmentations = [segmentation for segmentation in (lesion_seg, organ_seg) if segmentation is not None]
    report = sr.Comprehensive3DSR(
        evidence=[*without_name(objects_of(headers)), *segmentations],
        content=content,
        series_instance_uid=_series_uid(key),
        series_number=REPORT_SERIES_NUMBER,
        sop_instance_uid=_instance_uid(key),
        instance_number=1,
        **maker.keywords(),
        previous_versions=None if earlier_key is None else [_reference(earlier_key, headers[0])],
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        series_description="Sightline findings",
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    report.PatientName = headers[0].PatientName
    return report


def _series_uid(key: str) -> UID:
    return result_uid(key, "sr-series")


def _instance_uid(key: str) -> UID:
    return result_uid(key, "sr")


def _reference(key: str, header: Dataset) -> Dataset:
    """What identifies the report of the reading `key`, of the study of `header`."""
    report = Dataset()
    report.StudyInstanceUID = header.StudyInstanceUID
    report.SeriesInstanceUID = _series_uid(key)
    report.SOPClassUID = Comprehensive3DSRStorage
    report.SOPInstanceUID = _instance_uid(key)
    return report


def _observer(equipment: Equipment) -> sr.ObservationContext:
    """The node as device observer (TID 1004); its UID stays the same per installation."""
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            CodedConcept.from_code(codes.DEVICE),
            sr.DeviceObserverIdentifyingAttributes(
                uid=derived_uid("device", equipment.manufacturer, equipment.device_serial),
                name=equipment.model_name,
                manufacturer_name=equipment.manufacturer,
                model_name=equipment.model_name,
                serial_number=equipment.device_serial,
            ),
        )
    )


def _finding_group(
    finding: Finding, headers: list[Dataset], key: str, algorithm: sr.AlgorithmIdentification
) -> sr.MeasurementsAndQualitativeEvaluations:
    """One organ and abnormality (TID 1501), with its key image where it has a position."""
    images = None
    if finding.position_lps_mm is not None:
        positions = [header.ImagePositionPatient for header in headers]
        nearest = nearest_plane(positions, slice_normal(headers[0]), finding.position_lps_mm)
        images = [source_image(headers[nearest])]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=finding_tracking_uid(key, finding.organ, finding.abnormality),
            identifier=f"{organ(finding.organ).display}: {abnormality(finding.abnormality).display}",
        ),
        finding_category=codes.MORPHOLOGICALLY_ABNORMAL,
        finding_type=codes.abnormality_code(finding.abnormality),
        finding_sites=[sr.FindingSite(codes.organ_code(finding.organ))],
        algorithm_id=algorithm,
        measurements=_probability(finding.probability),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=codes.PRESENCE_OF_PROPERTY, value=codes.presence_code(finding.status)
            )
        ],
        source_images=images,
    )
    if finding.status == "undetermined":
        why = NOT_IN_VIEW if finding.position_lps_mm is None else BETWEEN_THRESHOLDS
        group[0].ContentSequence.append(_comment(why))
    return group


def _lesion_group(
    lesion: Lesion,
    segmentation: Dataset,
    headers: list[Dataset],
    key: str,
    algorithm: sr.AlgorithmIdentification,
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """One lesion (TID 1411), with the tracking UID of its segment."""
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=lesion_tracking_uid(key, lesion.label), identifier=lesion_name(lesion)
        ),
        # By hand: highdicom 0.28's ReferencedSegment.from_segmentation fails on a SEG of one segment.
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=lesion.label,
            source_series=sr.SourceSeriesForSegmentation(headers[0].SeriesInstanceUID),
        ),
        finding_category=codes.MORPHOLOGICALLY_ABNORMAL,
        finding_type=codes.abnormality_code(lesion.type),
        finding_sites=[sr.FindingSite(codes.organ_code(lesion.organ))],
        algorithm_id=algorithm,
        measurements=[
            _measurement(codes.VOLUME, lesion.volume_ml, codes.MILLILITRE),
            _measurement(codes.LONG_AXIS, lesion.long_axis_mm, codes.MILLIMETRE),
            _measurement(codes.SHORT_AXIS, lesion.short_axis_mm, codes.MILLIMETRE),
            _measurement(codes.ATTENUATION, lesion.mean_hu, codes.HOUNSFIELD, codes.MEAN),
            *_probability(lesion.probability),
        ],
    )


def _measurement(name: Code, value: float, unit: Code, derivation: Code | None = None) -> sr.Measurement:
    """A TID 300 measurement; four decimals are finer than any voxel and fit a decimal string."""
    return sr.Measurement(name=name, value=round(float(value), 4), unit=unit, derivation=derivation)


def _probability(probability: float | None) -> list[sr.Measurement]:
    """Probability in percent; nothing where there is none."""
    if probability is None:
        return []
    return [_measurement(codes.PROBABILITY, 100 * probability, codes.PERCENT)]


def _comment(text: str) -> sr.TextContentItem:
    return sr.TextContentItem(
        name=codes.COMMENT, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
