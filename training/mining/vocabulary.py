"""Where in the body a sentence is: places, the words for them, and the reading organ that each belongs to.

Places are finer than the 36 reading organs (coronary arteries, pleura) and go beyond them (lymph nodes,
thyroid), so that a nodule of the thyroid is none of the lung. The words are ``tables/places.csv``, and the
names of the organ table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from core_model.anatomy import organs
from training.mining.patterns import Pattern, compile_pattern, rows


@dataclass(frozen=True)
class Place:
    """A place named in a text.

    Attributes
    ----------
    name: of the place table.
    organ: reading organ, "" where the place is of none.
    start, end: of its words.
    """

    name: str
    organ: str
    start: int
    end: int


@cache
def organ_of_place() -> dict[str, str]:
    """Place -> reading organ, or "".

    Raises
    ------
    ValueError: if the table names an organ that there is not, or leaves one out.
    """
    table = {row["place"]: row["organ"] for row in rows("places.csv")}
    known, named = {o.name for o in organs()}, set(table.values()) - {""}
    if named != known:
        raise ValueError(
            f"places.csv and the organ table differ in {sorted(named ^ known)}; name the same organs"
        )
    return table


@cache
def _patterns() -> tuple[tuple[str, Pattern], ...]:
    displayed = {o.name: [o.display, o.display.rstrip("s")] for o in organs()}
    # The organ table's own word goes to the first place of an organ, the organ itself.
    return tuple(
        (row["place"], compile_pattern([row["words"], *displayed.pop(row["organ"], ())]))
        for row in rows("places.csv")
    )


@lru_cache(maxsize=4096)
def places_in(text: str) -> tuple[Place, ...]:
    """The places that a text names, in order; where words overlap the longest count.

    >>> [p.name for p in places_in("Nodule in the right lower lobe near the pulmonary artery")]
    ['lung', 'pulmonary_artery']
    """
    table = organ_of_place()
    found = [
        Place(name, table[name], match.start(), match.end())
        for name, pattern in _patterns()
        for match in pattern.finditer(text)
    ]
    found.sort(key=lambda p: p.start - p.end)
    kept: list[Place] = []
    for place in found:
        if not any(place.start < k.end and k.start < place.end for k in kept):
            kept.append(place)
    return tuple(sorted(kept, key=lambda p: p.start))
