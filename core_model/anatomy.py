"""The organ table: TotalSegmentator structures and the reading organs they merge into.

Not a segmentation tool. Structures are matched by name, never by index, because the
class ids of TotalSegmentator v1 and v2 differ.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Structure:
    """One TotalSegmentator structure.

    Attributes
    ----------
    name: TotalSegmentator class name, e.g. ``"kidney_left"``.
    v1_id, v2_id: class id in the ``total_v1`` (104) and v2 ``total`` (117) maps, or None.
    reading_organ: the reading organ it merges into, or None.
    laterality: ``"left"``, ``"right"`` or None.
    snomed_code, snomed_meaning: SNOMED CT concept, empty where none was found.
    """

    name: str
    v1_id: int | None
    v2_id: int | None
    reading_organ: str | None
    laterality: str | None
    snomed_code: str
    snomed_meaning: str


@dataclass(frozen=True)
class Organ:
    """One of the 36 reading organs (the merge of RADAR's training code, model.md 1.3).

    Attributes
    ----------
    label: its value in every organ label map and its segment number in the organ SEG, 1..36.
    name: stable identifier, e.g. ``"urinary_bladder"``.
    display: what a person reads, e.g. ``"urinary bladder"``.
    snomed_code, snomed_meaning: SNOMED CT concept of the organ.
    """

    label: int
    name: str
    display: str
    snomed_code: str
    snomed_meaning: str


def table_rows(file_name: str) -> list[dict[str, str]]:
    """The rows of one of this package's CSV tables."""
    text = (resources.files("core_model") / file_name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def structures() -> tuple[Structure, ...]:
    """All TotalSegmentator structures, v1 order first, then those that only v2 has."""
    return tuple(
        Structure(
            name=row["structure"],
            v1_id=int(row["v1_id"]) if row["v1_id"] else None,
            v2_id=int(row["v2_id"]) if row["v2_id"] else None,
            reading_organ=row["reading_organ"] or None,
            laterality=row["laterality"] or None,
            snomed_code=row["snomed_code"],
            snomed_meaning=row["snomed_meaning"],
        )
        for row in table_rows("anatomy.csv")
    )


@cache
def organs() -> tuple[Organ, ...]:
    """The 36 reading organs in label order.

    >>> organs()[0].label, organs()[20].name, len(organs())
    (1, 'liver', 36)
    """
    return tuple(
        Organ(
            label=int(row["label"]),
            name=row["organ"],
            display=row["display"],
            snomed_code=row["snomed_code"],
            snomed_meaning=row["snomed_meaning"],
        )
        for row in table_rows("organs.csv")
    )


def organ(name: str) -> Organ:
    """The reading organ called ``name``.

    Raises
    ------
    KeyError: if there is no such organ; the message lists the known names.

    >>> organ("liver").label
    21
    """
    for candidate in organs():
        if candidate.name == name:
            return candidate
    known = ", ".join(o.name for o in organs())
    raise KeyError(f"organ {name!r} is not one of the reading organs: {known}")


def v2_to_reading() -> dict[int, int]:
    """TotalSegmentator v2 ``total`` class id -> reading organ label; ids without one are left out."""
    label = {o.name: o.label for o in organs()}
    return {
        s.v2_id: label[s.reading_organ]
        for s in structures()
        if s.v2_id is not None and s.reading_organ is not None
    }
