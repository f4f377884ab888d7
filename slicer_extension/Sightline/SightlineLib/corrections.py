"""A radiologist's correction as it is sent: who, which findings, in which words.

Only the JSON part of it; the outlines are the lesions of `results`.
"""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

LONGEST_NAME = 64  # PS3.5 6.2: characters of a component group of PN


def personName(text: str) -> str:
    r"""A name as DICOM wants it (PS3.5 6.2.1), from ``Doe^Jane`` or ``Doe, Jane``.

    Raises
    ------
    ValueError: if it is not clear which is the family name; the message is one for the user.

    >>> personName(" Doe,  Jane ")
    'Doe^Jane'
    >>> personName("van der Berg^Anna^^Dr")
    'van der Berg^Anna^^Dr'
    """
    name = " ".join(text.split())
    if "^" not in name and name.count(",") == 1:
        name = "^".join(part.strip() for part in name.split(","))
    family, _caret, given = name.partition("^")
    if not family.strip() or not given.strip("^ ") or set(name) & set("=\\") or len(name) > LONGEST_NAME:
        raise ValueError(
            _("Type your name as 'Family, Given': the correction is stored under it in the archive.")
        )
    return name


def correctionDocument(observerName: str, marks: list[dict[str, Any]], comment: str) -> dict[str, Any]:
    """The ``correction`` part of the contract.

    Raises
    ------
    ValueError: if the name is none; the message is one for the user.
    """
    return {"observer_name": personName(observerName), "marks": marks, "comment": comment.strip()}
