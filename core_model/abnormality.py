"""The abnormality dictionary: what is searched for in which organ, and in which words.

CT-GLIP's abnormality dictionary supplies contrastive texts; RadFinder's prompt-based
disease supervision needs several wordings for and against. Both read this table. The
entries and wordings are our choice: neither paper publishes its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from core_model.anatomy import table_rows


@dataclass(frozen=True)
class Abnormality:
    """One abnormality of one organ.

    Attributes
    ----------
    name: stable identifier, e.g. ``"liver_tumour"``.
    organ: name of the reading organ it is searched for in.
    tumour: True if it is segmented as lesions (DICOM-SEG, TID 1411), not only reported.
    snomed_code, snomed_meaning: SNOMED CT concept of the finding.
    display: what a person reads, e.g. ``"liver tumour"``.
    present, absent: wordings for and against, full sentences.
    """

    name: str
    organ: str
    tumour: bool
    snomed_code: str
    snomed_meaning: str
    display: str
    present: tuple[str, ...]
    absent: tuple[str, ...]


@cache
def abnormalities() -> tuple[Abnormality, ...]:
    """All abnormalities in table order.

    >>> [a.name for a in abnormalities() if a.organ == "pancreas"]
    ['pancreatic_tumour', 'pancreatic_cyst']
    """
    return tuple(
        Abnormality(
            name=row["name"],
            organ=row["organ"],
            tumour=row["tumour"] == "1",
            snomed_code=row["snomed_code"],
            snomed_meaning=row["snomed_meaning"],
            display=row["display"],
            present=tuple(row["present"].split("|")),
            absent=tuple(row["absent"].split("|")),
        )
        for row in table_rows("abnormality.csv")
    )


def abnormality(name: str) -> Abnormality:
    """The abnormality called ``name``.

    Raises
    ------
    KeyError: if there is no such abnormality; the message lists the known names.
    """
    for candidate in abnormalities():
        if candidate.name == name:
            return candidate
    known = ", ".join(a.name for a in abnormalities())
    raise KeyError(f"abnormality {name!r} is not in the dictionary: {known}")
