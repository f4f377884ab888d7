"""Why images are not a CT volume in Hounsfield units, judged from their headers.

Not geometry: whether the slices form a grid is decided by `dicom_node.series_geometry`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from dicom_node.instances import Instance

# Larger volumes are no CT; they only exhaust memory (4 GiB as 16-bit integers). Our choice.
MAX_VOXELS = 1 << 31
_PROJECTIONS = {"MIP", "MINIP", "MAXIP", "MNIP", "MIN_IP", "MAX_IP", "VRT", "SSD", "PROJECTION IMAGE"}
# PS3.3 C.11.1.1.2 and C.8.15.3.10: units in which a value is (modified) Hounsfield.
# GE reformats write "HOUNDSFIELD UNIT".
_HOUNSFIELD = re.compile(r"|HU|HU_MOD|US|HOUN.*")


def kind_problem(image: Instance) -> str | None:
    """Why objects of this kind are not read, or None for classic CT images."""
    kind = UID(image.sop_class_uid).name if image.sop_class_uid else "no SOP class"
    projections = ", ".join(sorted(_PROJECTIONS.intersection(image.image_type)))
    multiframe = image.sop_class_uid in (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
    return _first(
        (multiframe, f"{kind} (multi-frame) is not read yet; send the classic single-frame series"),
        (image.sop_class_uid != CTImageStorage, f"not a CT image: {kind}"),
        (
            image.modality != "CT",
            f"Modality is {image.modality or 'empty'} although the SOP class is CT Image Storage",
        ),
        ("LOCALIZER" in image.image_type, "localizer (scout view), not a volume"),
        (bool(projections), f"projection image ({projections}), not slices"),
        ("PERFUSION" in image.image_type, "perfusion map, not Hounsfield units"),
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
    """Why the stored values of one image are not Hounsfield units, or None."""
    photometric = image.photometric or "no Photometric Interpretation"
    colour = image.samples_per_pixel != 1 or not photometric.startswith("MONOCHROME")
    size_ok = image.bits_allocated in (8, 16, 32) and min(image.rows, image.columns) >= 2
    syntax = image.transfer_syntax_uid or "missing"
    return _first(
        (image.pixel_problem is not None, f"{image.pixel_problem}; send or copy the file again"),
        (colour, f"colour image ({photometric})"),
        (
            photometric != "MONOCHROME2",
            f"{photometric} (inverted grey values), which a CT image must not have",
        ),
        (image.number_of_frames != 1, f"{image.number_of_frames} frames in one CT Image Storage object"),
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
