"""The path that takes a radiologist's correction. What becomes of it is `dicom_node.corrections`."""

from __future__ import annotations

import hashlib
from typing import Annotated, BinaryIO

import highdicom as hd
import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, File, Form, UploadFile
from pydantic import ValidationError

from dicom_node import corrections
from dicom_node.errors import SightlineError
from dicom_node.instances import NotDicomError
from dicom_node.results.correction import DrawnSegment
from dicom_node.results.identifiers import lesion_tracking_uid
from dicom_node.series_resampling import SliceGrid
from dicom_node.service import catalogue
from dicom_node.service.errors import ApiError, described
from dicom_node.service.masks import ct_grid
from dicom_node.service.models import Corrected, Correction, Uid
from dicom_node.service.nrrd_files import NrrdError, read_array, read_header
from dicom_node.service.parts import Shared
from dicom_node.service.segments import drawn_segments, organ_segments

router = APIRouter()
MAX_BYTES = 256 << 20  # of the whole request; masks pack well
MAX_VOXELS = 1 << 29
_OFF_GRID = 0.25  # voxels; more, and a mask lies on no voxel of the CT
_CURE = "save the segmentation with the CT as its reference geometry"


@router.post(
    "/studies/{study_uid}/corrections",
    status_code=201,
    responses=described(400, 401, 404, 409, 413, 422),
)
def correct(
    parts: Shared,
    study_uid: Uid,
    correction: Annotated[str, Form(max_length=200_000, description="`Correction` as JSON")],
    segmentation: Annotated[UploadFile | None, File(description="``.seg.nrrd``")] = None,
) -> Corrected:
    """Keep a radiologist's correction as DICOM-SEG and SR that refer to the node's result.

    The same correction sent again is kept once. `observer_name` is taken as it is typed.
    """
    held = catalogue.held(parts.archive, study_uid)
    if held.is_upload:
        cure = "send the study itself to the node, and correct that"
        raise ApiError(409, "an uploaded volume has no DICOM headers to refer to", cure)
    try:
        said = Correction.model_validate_json(correction)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(["correction", *(str(part) for part in first["loc"])])
        raise ApiError(
            422, f"{where}: {first['msg'].lower()}", "see `Correction` in /api/1/openapi.json"
        ) from None
    try:
        drawn, digest = None, ""
        if segmentation is not None:
            digest = _sha256(segmentation.file)
            grid = ct_grid(parts.archive, held.slices)
            drawn = tuple(_drawn(segmentation.file, grid, held.key))
        row = corrections.keep_correction(
            parts.archive,
            parts.config,
            study=study_uid,
            key=held.key,
            folder=held.folder,
            slices=held.slices,
            correction=corrections.Correction(
                observer=said.observer_name,
                marks=tuple((mark.finding_index, mark.verdict) for mark in said.marks),
                comment=_one_line(said.comment),
                drawn=drawn,
                digest=digest,
            ),
        )
    except NrrdError as error:
        raise ApiError(422, f"segmentation: {error.message}", error.cure) from None
    except (OSError, NotDicomError):
        raise ApiError(409, "the images of the study are missing", "send the study again") from None
    except SightlineError as error:
        words, _, cure = error.message.partition("; ")
        raise ApiError(422, words, cure or _CURE) from None
    return Corrected(
        segmentation_sop_instance_uid=row.segmentation_sop_instance_uid,
        report_sop_instance_uid=row.report_sop_instance_uid,
    )


def _sha256(file: BinaryIO) -> str:
    """Hexadecimal digest of a file; it stands at its start afterwards."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def _drawn(file: BinaryIO, grid: SliceGrid, key: str) -> list[DrawnSegment]:
    """The segments of a file on the CT's slices; those that the node drew keep its tracking UID."""
    header = read_header(file, MAX_VOXELS)
    if header.dtype.kind not in "iu":
        raise NrrdError("the labels are no whole numbers", "save the segmentation as labels")
    array = read_array(file, header)
    organs = {segment.id for segment in organ_segments()}
    found = []
    for segment in drawn_segments(header, array):
        if grid.stack.is_regular:
            planes = on_ct(segment.mask, header.geometry, grid.geometry)
        else:  # no program has these slices as a grid: what was drawn on one of its own goes back onto them
            planes = grid.on_slices(segment.mask.astype(np.uint8), header.geometry) > 0
        if not planes.any():
            continue
        lesion = segment.id.removeprefix("lesion-")
        is_lesion = segment.id.startswith("lesion-") and lesion.isascii() and lesion.isdigit()
        found.append(
            DrawnSegment(
                name=segment.name,
                planes=planes,
                tracking_uid=str(lesion_tracking_uid(key, int(lesion))) if is_lesion else None,
                from_node=is_lesion or segment.id in organs,
                category=segment.category,
                kind=segment.kind,
                region=segment.region,
            )
        )
    kept = [one.tracking_uid for one in found if one.tracking_uid is not None]
    if len(set(kept)) < len(kept):
        raise NrrdError("two segments have the same ID", "give every segment an ID of its own")
    return found


def on_ct(
    mask: npt.NDArray[np.bool_], geometry: hd.VolumeGeometry, ct: hd.VolumeGeometry
) -> npt.NDArray[np.bool_]:
    """A mask on the voxels of the CT; its axes may be permuted, flipped, and shorter or longer.

    Raises
    ------
    NrrdError: its voxels do not lie on those of the CT.
    """
    to_ct = np.asarray(ct.inverse_affine) @ np.asarray(geometry.affine)
    steps = np.rint(to_ct[:3, :3]).astype(int)
    offset = np.rint(to_ct[:3, 3]).astype(int)
    if not (np.abs(steps).sum(0) == 1).all() or not (np.abs(steps).sum(1) == 1).all():
        raise NrrdError("its voxels do not lie on those of the CT", _CURE)
    ends = np.array([[0, n - 1] for n in geometry.spatial_shape])
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), 0).reshape(3, -1)
    exact = to_ct[:3, :3] @ corners + to_ct[:3, 3:]
    if np.abs(exact - (steps @ corners + offset[:, None])).max() > _OFF_GRID:
        raise NrrdError("its voxels do not lie on those of the CT", _CURE)
    inside = steps @ np.argwhere(mask).T + offset[:, None]
    shape = np.array(ct.spatial_shape)
    inside = inside[:, ((inside >= 0) & (inside < shape[:, None])).all(0)]
    planes = np.zeros(ct.spatial_shape, dtype=bool)
    planes[tuple(inside)] = True
    return planes


def _one_line(text: str) -> str:
    """Text for an SR (VR UT) without control characters; a line break becomes a space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
