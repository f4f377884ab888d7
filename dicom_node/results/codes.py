"""The coded concepts of the results: what DICOM and SNOMED CT call what was found.

Not a vocabulary of its own: organs and abnormalities take their SNOMED CT codes from the
tables of `core_model`; here are the concepts that name measurements, presence and categories,
with the context groups (PS3.16) they come from.
"""

from __future__ import annotations

from pydicom.sr.coding import Code

from core_model.abnormality import abnormality
from core_model.anatomy import organ
from core_model.reading import Status

# CID 7150 Segmentation Property Categories; the first is also the category of every finding.
MORPHOLOGICALLY_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")

# CID 7162 Surface Processing Algorithm Family, which TID 4019 and PS3.3 table 10-19 use.
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

# Names and modifiers of measurements: CID 7469, CID 7470, CID 7464 and PS3.16 Annex D.
VOLUME = Code("118565006", "SCT", "Volume")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
# Probability of the finding named by the group; not (111047, DCM), which is of cancer.
PROBABILITY = Code("122157", "DCM", "Probability")

# CID 82 Units of Measurement.
MILLILITRE = Code("ml", "UCUM", "milliliter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "Percent")

PRESENCE_OF_PROPERTY = Code("121052", "DCM", "Presence of property")
# CID 240 Present-Absent.
_PRESENCE: dict[Status, Code] = {
    "present": Code("52101004", "SCT", "Present"),
    "absent": Code("272519000", "SCT", "Absent"),
    "undetermined": Code("373068000", "SCT", "Undetermined"),
}

# Root of the report: CID 7021 Measurement Report Document Titles, CID 7001 Diagnostic Imaging
# Report Headings' comment, CID 270 Observer Type, CID 100's generic CT procedure.
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
COMMENT = Code("121106", "DCM", "Comment")
DEVICE = Code("121007", "DCM", "Device")
CT_UNSPECIFIED_BODY_REGION = Code("25045-6", "LN", "CT unspecified body region")


def organ_code(name: str) -> Code:
    """SNOMED CT concept of a reading organ.

    Raises
    ------
    KeyError: if there is no such organ.

    >>> organ_code("liver").value
    '10200004'
    """
    entry = organ(name)
    return Code(entry.snomed_code, "SCT", entry.snomed_meaning)


def abnormality_code(name: str) -> Code:
    """SNOMED CT concept of an abnormality.

    Raises
    ------
    KeyError: if there is no such abnormality.

    >>> abnormality_code("liver_tumour").meaning
    'Neoplasm of liver'
    """
    entry = abnormality(name)
    return Code(entry.snomed_code, "SCT", entry.snomed_meaning)


def presence_code(status: Status) -> Code:
    """CID 240 value of a finding's status.

    Raises
    ------
    ValueError: if `status` is not present, absent or undetermined.

    >>> presence_code("absent").meaning
    'Absent'
    """
    if status not in _PRESENCE:
        raise ValueError(f"status {status!r} is not one of {', '.join(_PRESENCE)}")
    return _PRESENCE[status]
