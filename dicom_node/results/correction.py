"""A radiologist's correction of a reading as DICOM: a SEG of what was drawn, and an SR that verifies it.

The SR (TID 1500) has the person as observer, is verified by name, and names the node's report as
its predecessor; findings and lesions keep the tracking UIDs that the node gave them. Not the
receiving and keeping (`dicom_node.corrections`). A name is what was typed: nobody has proved it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from core_model.abnormality import abnormality
from core_model.anatomy import organ
from core_model.reading import ModelIdentity, Status
from dicom_node.errors import SightlineError
from dicom_node.results import codes
from dicom_node.results.colours import LESION
from dicom_node.results.equipment import NOT_FOR_DIAGNOSIS, Equipment, segment_algorithm
from dicom_node.results.geometry import slice_widths
from dicom_node.results.headers import without_name
from dicom_node.results.identifiers import finding_tracking_uid, result_uid
from dicom_node.results.source_frames import as_images, objects_of, refer_to_frames

SEGMENTATION_SERIES, REPORT_SERIES = 9004, 9005  # series numbers, after the node's own
MAX_OVERLAPPING_VOXELS = 1 << 31
_LESION = Code("52988006", "SCT", "Lesion")  # CID 7159, where the drawing does not say what it is
_PERSON = Code("121006", "DCM", "Person")  # CID 270
_VERDICT = Code("verdict", "99SIGHTLINE", "Verdict on the finding of the software")
_VERDICTS = {
    "accept": Code("accepted", "99SIGHTLINE", "Accepted"),
    "reject": Code("rejected", "99SIGHTLINE", "Rejected"),
}
_SEGMENTATION = Code("segmentation", "99SIGHTLINE", "Segmentation sent by the observer")
_EMPTY = Code("empty", "99SIGHTLINE", "No segment left")

Verdict = Literal["accept", "reject"]


@dataclass(frozen=True)
class MarkedFinding:
    """A finding of the node and what the radiologist says of it."""

    organ: str
    abnormality: str
    status: Status
    verdict: Verdict

    @property
    def presence(self) -> Status | None:
        """What stands now; None where a decision was rejected that the node had not made.

        >>> MarkedFinding("liver", "liver_cyst", "absent", "reject").presence
        'present'
        """
        if self.verdict == "accept":
            return self.status
        opposite: dict[Status, Status] = {"present": "absent", "absent": "present"}
        return opposite.get(self.status)


@dataclass(frozen=True)
class DrawnSegment:
    """A segment that the radiologist sent.

    Attributes
    ----------
    name: what a person reads.
    planes: (N, Rows, Columns) bool, plane k on source k.
    tracking_uid: the node's, where it is a lesion of the node that was kept or changed.
    from_node: whether the node drew it first.
    category, kind, region: coded; None where the file does not say.
    """

    name: str
    planes: npt.NDArray[np.bool_]
    tracking_uid: str | None
    from_node: bool
    category: Code | None
    kind: Code | None
    region: Code | None


@dataclass(frozen=True)
class Origin:
    """What a correction corrects.

    Attributes
    ----------
    key: of the reading.
    correction: hexadecimal id of the correction; UIDs derive from both.
    model: that read.
    headers: cleaned headers of the slices, in slice order (`results.headers.clean_headers`).
    report, segmentations: the node's own objects of the reading.
    """

    key: str
    correction: str
    model: ModelIdentity
    headers: list[Dataset]
    report: Dataset
    segmentations: tuple[Dataset, ...]

    def uid(self, role: str) -> str:
        """UID of a part of the correction."""
        return str(result_uid(self.key, f"correction-{self.correction}-{role}"))


def corrected_segmentation(
    drawn: Sequence[DrawnSegment], origin: Origin, equipment: Equipment | None = None
) -> hd.seg.Segmentation:
    """What was drawn as DICOM-SEG, BINARY, in the order given.

    Raises
    ------
    SightlineError: overlapping segments that are too large to be kept together.
    ValueError: if nothing is drawn.
    """
    if not drawn:
        raise ValueError("drawn is empty; a SEG needs a segment")
    maker = equipment or Equipment()
    segmentation = hd.seg.Segmentation(
        source_images=as_images(without_name(origin.headers)),
        pixel_array=_stacked(drawn),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_described(s, n, origin, maker) for n, s in enumerate(drawn, start=1)],
        series_instance_uid=origin.uid("seg-series"),
        series_number=SEGMENTATION_SERIES,
        sop_instance_uid=origin.uid("seg"),
        instance_number=1,
        **maker.keywords(),
        content_label="CORRECTION",
        content_description="Drawn or corrected by a person",
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        series_description="Sightline correction",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    refer_to_frames(segmentation, origin.headers)
    segmentation.PatientName = origin.headers[0].PatientName
    _say_utf8(segmentation, *(segment.name for segment in drawn))
    organization = origin.uid("dimensions")  # highdicom draws it at random; a repeat gives the same
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    for item in segmentation.DimensionIndexSequence:
        item.DimensionOrganizationUID = organization
    return segmentation


def _stacked(drawn: Sequence[DrawnSegment]) -> npt.NDArray[np.uint8]:
    """(N, Rows, Columns) labels, or (N, Rows, Columns, segments) where segments overlap."""
    labels = np.zeros(drawn[0].planes.shape, dtype=np.uint8)
    for number, segment in enumerate(drawn, start=1):
        if labels[segment.planes].any():
            break
        labels[segment.planes] = number
    else:
        return labels
    if labels.size * len(drawn) > MAX_OVERLAPPING_VOXELS:
        raise SightlineError(f"{len(drawn)} segments overlap, too many to be kept; send them one by one")
    return np.stack([segment.planes for segment in drawn], axis=-1).astype(np.uint8)


def _described(
    segment: DrawnSegment, number: int, origin: Origin, maker: Equipment
) -> hd.seg.SegmentDescription:
    kinds = hd.seg.SegmentAlgorithmTypeValues
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=segment.category or codes.MORPHOLOGICALLY_ABNORMAL,
        segmented_property_type=segment.kind or _LESION,
        algorithm_type=kinds.SEMIAUTOMATIC if segment.from_node else kinds.MANUAL,
        algorithm_identification=_algorithm(segment, origin, maker) if segment.from_node else None,
        tracking_uid=segment.tracking_uid or origin.uid(f"segment-{number}"),
        tracking_id=segment.name,
        anatomic_regions=[segment.region] if segment.region is not None else None,
        display_color=hd.color.CIELabColor.from_rgb(*LESION),
    )


def _algorithm(segment: DrawnSegment, origin: Origin, maker: Equipment) -> hd.AlgorithmIdentificationSequence:
    """What drew a segment first: as the node's own SEG has it, for not all organs need be the model's."""
    for item in (item for seg in origin.segmentations for item in seg.SegmentSequence):
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        if segment.kind is not None and kind.CodeValue == segment.kind.value:
            return hd.AlgorithmIdentificationSequence.from_sequence(
                item.SegmentationAlgorithmIdentificationSequence
            )
    return segment_algorithm(origin.model, maker)


def corrected_report(
    marks: Sequence[MarkedFinding],
    drawn: Sequence[DrawnSegment],
    origin: Origin,
    *,
    segmentation: Dataset | None,
    emptied: bool,
    observer: str,
    comment: str,
    equipment: Equipment | None = None,
) -> sr.Comprehensive3DSR:
    """The report of a correction: complete, final, verified by `observer`.

    Parameters
    ----------
    segmentation: of `drawn`; None where nothing is drawn.
    emptied: a segmentation was sent and has no voxel left.
    observer: DICOM person name, e.g. ``"Doe^Jane"``.

    Raises
    ------
    ValueError: if there is nothing to report.
    """
    if not marks and segmentation is None and not emptied:
        raise ValueError("a correction needs a mark or a segmentation")
    maker = equipment or Equipment()
    content = _content(
        marks, drawn, origin, segmentation, emptied=emptied, observer=observer, comment=comment
    )
    own = [] if segmentation is None else [segmentation]
    report = sr.Comprehensive3DSR(
        evidence=[*without_name(objects_of(origin.headers)), *origin.segmentations, *own],
        content=content,
        series_instance_uid=origin.uid("sr-series"),
        series_number=REPORT_SERIES,
        sop_instance_uid=origin.uid("sr"),
        instance_number=1,
        **maker.keywords(),
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        series_description="Sightline correction",
        is_complete=True,
        is_final=True,
        is_verified=True,
        verifying_observer_name=observer,
        verifying_organization=str(origin.headers[0].get("InstitutionName", "")) or "not stated",
        previous_versions=[origin.report],
    )
    report.PatientName = origin.headers[0].PatientName
    _say_utf8(report, observer, comment, *(segment.name for segment in drawn))
    return report


def _content(
    marks: Sequence[MarkedFinding],
    drawn: Sequence[DrawnSegment],
    origin: Origin,
    segmentation: Dataset | None,
    *,
    emptied: bool,
    observer: str,
    comment: str,
) -> sr.MeasurementReport:
    """TID 1500 of a correction: a group for each mark and each drawn segment, then comments."""
    groups: list[
        sr.MeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    ] = [_mark_group(mark, origin.key) for mark in marks]
    if segmentation is not None:
        groups += [_segment_group(s, n, segmentation, origin) for n, s in enumerate(drawn, start=1)]
    if emptied:
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(
                    uid=origin.uid("emptied"), identifier="segmentation"
                ),
                qualitative_evaluations=[sr.QualitativeEvaluation(name=_SEGMENTATION, value=_EMPTY)],
            )
        )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_person_context=sr.ObserverContext(
                sr.CodedConcept.from_code(_PERSON), sr.PersonObserverIdentifyingAttributes(name=observer)
            )
        ),
        procedure_reported=codes.CT_UNSPECIFIED_BODY_REGION,
        imaging_measurements=groups,
        title=codes.IMAGING_MEASUREMENT_REPORT,
        referenced_images=[origin.headers[len(origin.headers) // 2]],
    )
    for text in (comment, f"{NOT_FOR_DIAGNOSIS}."):
        if text:
            content[0].ContentSequence.append(
                sr.TextContentItem(
                    name=codes.COMMENT, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS
                )
            )
    return content


def _say_utf8(dataset: Dataset, *texts: str) -> None:
    """Declare UTF-8 where a person's text needs it; the sources' headers may be ASCII."""
    if not all(text.isascii() for text in texts):
        dataset.SpecificCharacterSet = "ISO_IR 192"


def _mark_group(mark: MarkedFinding, key: str) -> sr.MeasurementsAndQualitativeEvaluations:
    evaluations = [sr.QualitativeEvaluation(name=_VERDICT, value=_VERDICTS[mark.verdict])]
    if mark.presence is not None:
        presence = codes.presence_code(mark.presence)
        evaluations.append(sr.QualitativeEvaluation(name=codes.PRESENCE_OF_PROPERTY, value=presence))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=finding_tracking_uid(key, mark.organ, mark.abnormality),
            identifier=f"{organ(mark.organ).display}: {abnormality(mark.abnormality).display}",
        ),
        finding_category=codes.MORPHOLOGICALLY_ABNORMAL,
        finding_type=codes.abnormality_code(mark.abnormality),
        finding_sites=[sr.FindingSite(codes.organ_code(mark.organ))],
        qualitative_evaluations=evaluations,
    )


def _segment_group(
    segment: DrawnSegment, number: int, segmentation: Dataset, origin: Origin
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    described = segmentation.SegmentSequence[number - 1]
    row_mm, column_mm = (float(value) for value in origin.headers[0].PixelSpacing)
    lengths = segment.planes.sum(axis=(1, 2)) @ slice_widths(origin.headers)  # mm, of all pixels together
    volume_ml = float(lengths) * row_mm * column_mm / 1000
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=described.TrackingUID, identifier=segment.name),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(origin.headers[0].SeriesInstanceUID),
        ),
        finding_category=segment.category or codes.MORPHOLOGICALLY_ABNORMAL,
        finding_type=segment.kind or _LESION,
        finding_sites=[sr.FindingSite(segment.region)] if segment.region is not None else None,
        measurements=[sr.Measurement(name=codes.VOLUME, value=round(volume_ml, 4), unit=codes.MILLILITRE)],
    )
