"""Why images are not a CT volume in Hounsfield units, judged from their headers.

Not geometry: whether the slices make a volume is decided by `dicom_node.series_geometry`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, CTImageStorage

from dicom_node.instances import Instance
from dicom_node.series_frames import MULTI_FRAME
from dicom_node.series_geometry import GeometryError, slice_normal

# Larger volumes are no CT; they only exhaust memory (4 GiB as 16-bit integers). Our choice.
MAX_VOXELS = 1 << 31
# Values of Image Type and Frame Type. PS3.3 C.8.2.1.1.1 and C.8.16.1.3 name the first of each; the
# rest is what vendors write.
_PROJECTIONS = {"MIP", "MINIP", "MAXIP", "MNIP", "MIN_IP", "MAX_IP", "VRT", "SSD", "PROJECTION IMAGE"}
_PROJECTIONS |= {"MAXIMUM", "MINIMUM", "VOLUME_RENDER", "SURFACE_RENDER"}
_LOCALIZERS = {"LOCALIZER", "SCOUT", "SURVIEW", "REF_SURVIEW", "TOPOGRAM", "SCANOGRAM"}
_SCREENS = {"SCREEN SAVE", "DOSE_INFO", "PATIENT_INFO", "RESULTS", "PROTOCOL", "DOSE REPORT"}
# What series of one place over time are called by Siemens, GE, Philips and Canon.
_BOLUS_NAME = re.compile(
    r"bolus|monitoring|smart ?prep|sure ?start|tracker|tracking|\blocator\b|\btiming\b", re.I
)
_BOLUS_TYPE = re.compile(r"CT_SOM\d+ MON|MONITORING|SMARTPREP|BOLUS.*")
_DOSE_NAME = re.compile(
    r"dose (report|record|info|summary|sheet)|radiation dose|patient protocol|exam summary", re.I
)
# PS3.3 C.11.1.1.2 and C.8.15.3.10: units in which a value is (modified) Hounsfield.
# GE reformats write "HOUNDSFIELD UNIT".
_HOUNSFIELD = re.compile(r"|HU|HU_MOD|US|HOUN.*")
# Within 30 degrees of the body's axis a series counts as axial.
_AXIAL_COSINE = 0.866


def plane_name(image: Instance) -> str:
    """The plane that a slice is closest to: "axial", "coronal" or "sagittal"; axial where unknown.

    Axial ends at 30 degrees, so that no gantry tilt makes a series coronal.
    """
    try:
        normal = slice_normal(image.orientation or (1, 0, 0, 0, 1, 0))
    except GeometryError:
        return "axial"
    if abs(float(normal[2])) >= _AXIAL_COSINE:
        return "axial"
    return "sagittal" if abs(normal[0]) > abs(normal[1]) else "coronal"


def is_reformat(image: Instance) -> bool:
    """Whether a slice was computed from others, in another plane than axial."""
    return "DERIVED" in image.image_type[:1] and plane_name(image) != "axial"


def is_bolus_tracking(image: Instance) -> bool:
    """Whether headers say that one place is watched until the contrast agent comes."""
    named = _BOLUS_NAME.search(image.series_description) is not None
    return named or any(_BOLUS_TYPE.fullmatch(value) for value in image.image_type)


def kind_problem(image: Instance) -> str | None:
    """Why objects of this kind are not read, or None for CT images."""
    kind = UID(image.sop_class_uid).name if image.sop_class_uid else "no SOP class"
    if kind == image.sop_class_uid:
        kind = f"unknown SOP class {kind}"
    types = set(image.image_type)
    projections = ", ".join(sorted(_PROJECTIONS & types))
    dose = _DOSE_NAME.search(image.series_description) is not None
    if image.sop_class_uid not in (CTImageStorage, *MULTI_FRAME):
        what = "a dose report" if dose or "Radiation Dose" in kind else ""
        if "Secondary Capture" in kind:
            screen = dose or bool(types & (_SCREENS | _LOCALIZERS))
            what = "a dose or protocol screen" if screen else "a picture without Hounsfield units"
        return f"not a CT image: {kind}" + (f" ({what})" if what else "")
    return _first(
        (image.modality not in ("CT", ""), f"Modality is {image.modality} although the SOP class is {kind}"),
        (bool(_LOCALIZERS & types), "localizer (scout view), not a volume"),
        (bool(_SCREENS & types) or dose, "dose or protocol screen, not slices"),
        (bool(projections), f"projection image ({projections}), not slices"),
        ("PERFUSION" in types, "perfusion map, not Hounsfield units"),
        (
            any(_BOLUS_TYPE.fullmatch(value) for value in types),
            "bolus tracking (one place over time), not a volume",
        ),
    )


def image_problem(images: Sequence[Instance]) -> str | None:
    """Why the images of a CT series cannot make one volume of Hounsfield units, or None."""
    for image in images:
        reason = _pixel_problem(image) or _place_problem(image)
        if reason is not None:
            return f"{image.name}: {reason}"
    rows, columns = images[0].rows, images[0].columns
    return _first(
        (len({(i.rows, i.columns) for i in images}) > 1, "the images differ in size"),
        (len({i.pixel_spacing_mm for i in images}) > 1, "the images differ in pixel spacing"),
        (len({i.frame_of_reference_uid for i in images}) > 1, "the images differ in frame of reference"),
        (
            len(images) * rows * columns > MAX_VOXELS,
            f"{len(images)} images of {rows} x {columns} are more than is read",
        ),
    )


def _first(*checks: tuple[bool, str]) -> str | None:
    """The reason of the first check that holds."""
    return next((reason for bad, reason in checks if bad), None)


def _pixel_problem(image: Instance) -> str | None:
    """Why the stored values of one image are not Hounsfield units, or None.

    MONOCHROME1 is a way of display: the values are rescaled as ever (PS3.3 C.8.2.1.1.2).
    """
    photometric = image.photometric or "no Photometric Interpretation"
    size_ok = image.bits_allocated in (8, 16, 32) and min(image.rows, image.columns) >= 2
    syntax = image.transfer_syntax_uid or "missing"
    return _first(
        (image.pixel_problem is not None, f"{image.pixel_problem}; send or copy the file again"),
        (
            image.samples_per_pixel != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"),
            f"colour image ({photometric})",
        ),
        (
            image.number_of_frames != 1 and image.frame is None,
            f"{image.number_of_frames} frames in one CT Image Storage object",
        ),
        (
            not size_ok,
            f"{image.rows} x {image.columns} pixels of {image.bits_allocated} bits are not read",
        ),
        (not _can_decode(image.transfer_syntax_uid), f"transfer syntax {syntax} cannot be decoded"),
        (
            not image.rescale_slope or image.rescale_intercept is None,
            "no usable Rescale Slope and Intercept, so the values are not known in Hounsfield units",
        ),
        (
            not _HOUNSFIELD.fullmatch(image.rescale_type),
            f"values are in {image.rescale_type}, not in Hounsfield units",
        ),
    )


def _place_problem(image: Instance) -> str | None:
    """Why it is not known where one image lies, or None."""
    spacing = image.pixel_spacing_mm
    return _first(
        (not image.sop_instance_uid, "no SOP Instance UID, so results cannot refer to it"),
        (
            image.position_mm is None or image.orientation is None,
            "no Image Position or Orientation (Patient)",
        ),
        (spacing is None or min(spacing) <= 0, "no usable Pixel Spacing"),
    )


def _can_decode(transfer_syntax_uid: str) -> bool:
    uid = UID(transfer_syntax_uid)
    if not uid.is_transfer_syntax:
        return False
    if not uid.is_compressed or uid.is_deflated:
        return True
    try:
        return get_decoder(uid).is_available
    except NotImplementedError:
        return False
