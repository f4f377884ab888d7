"""Report text with names, dates and numbers of persons struck out, as far as rules go.

They know the names and numbers that the study's own DICOM header gives, titles before names, dates, times,
and long numbers. They do not know a name that no header holds and no title announces ("seen by Miller"): text
that passed here is not anonymous, and must not leave the house. Findings are never struck out on purpose:
"3/204" of an image reference and measures stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydicom.dataset import Dataset

STRUCK = "[...]"
_NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
    "RequestingPhysician",
    "PhysiciansOfRecord",
    "ResponsiblePerson",
)
_NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "StudyInstanceUID")
SHORTEST = 3  # letters of a name that is struck out wherever it stands; shorter ones are words too often
_MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    "oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_RULES = tuple(
    re.compile(rule, re.IGNORECASE if flag else 0)
    for rule, flag in (
        (
            r"\b(?:Dr|Prof|Mr|Mrs|Ms|Miss|Sir|Drs|Doctor|Professor)\b\.?(?:\s+(?:[A-Z]\.|[A-Z][\w'\-]+)){1,4}",
            False,
        ),
        (
            r"\b[A-Z][\w'\-]+(?:,?\s+(?:[A-Z]\.|[A-Z][\w'\-]+)){0,3},?\s+(?:M\.?D|D\.?O|Ph\.?D|FRCR)\b\.?",
            False,
        ),
        (r"\b\d{1,2}[./\-]\d{1,2}[./\-](?:19|20)?\d{2}\b", False),
        (r"\b(?:19|20)\d{2}[./\-]?\d{1,2}[./\-]?\d{1,2}\b", False),
        (rf"\b\d{{1,2}}(?:st|nd|rd|th)?\.?\s+(?:{_MONTHS})\.?,?(?:\s+(?:19|20)?\d{{2}}\b)?", True),
        (rf"\b(?:{_MONTHS})\.?\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+(?:19|20)\d{{2}}\b", True),
        (r"\b\d{1,2}:\d{2}(?::\d{2})?\s*(?:[ap]\.?m\.?)?\b", True),
        (r"\b(?:MRN|ID|accession|case|visit|DOB|born)\b\W*(?:no\W*|number\W*|on\W*)?[A-Z]*\d[\w\-]*", True),
        (r"\b[A-Z]{0,3}\d{6,}\b", False),
        (r"[\w.+\-]+@[\w\-]+\.[\w.]+", False),
        (r"\b\d+(?:\.\d+){5,}\b", False),  # UIDs
    )
)


def scrubbed(text: str, known: Iterable[str] = ()) -> str:
    """The text with what the rules know struck out.

    Parameters
    ----------
    known: names and numbers of `known_of`.

    >>> scrubbed("Seen by Dr. Jane Doe on 3/4/2021. Nodule, series 3, image 204, 12 mm.")
    'Seen by [...] on [...]. Nodule, series 3, image 204, 12 mm.'
    """
    for word in sorted({one.strip() for one in known}, key=len, reverse=True):
        if len(word) >= SHORTEST:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", STRUCK, text, flags=re.IGNORECASE)
    for rule in _RULES:
        text = rule.sub(STRUCK, text)
    return text


def known_of(dataset: Dataset) -> frozenset[str]:
    """Names (whole and each part) and numbers of persons in a DICOM header."""
    found: set[str] = set()
    for keyword in _NAMES:
        for name in _values(dataset, keyword):
            found.add(re.sub(r"[\^=\s]+", " ", name).strip())
            found |= set(re.split(r"[\^=\s,]+", name))
    for keyword in _NUMBERS:
        found |= set(_values(dataset, keyword))
    return frozenset(one for one in found if one)


def _values(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword)
    if value is None:
        return []
    several = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return [str(one) for one in several]
