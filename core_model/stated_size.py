"""The size that a sentence states: "16 mm", "1.6 x 1.2 cm". Not a parser of reports."""

from __future__ import annotations

import re

_NUMBER = r"\d{1,3}(?:[.,]\d{1,2})?"
_SIZES = rf"({_NUMBER}(?:\s*[xX\u00d7]\s*{_NUMBER}){{0,2}})"
_SIZE = re.compile(rf"(?<![\d.,/]){_SIZES}\s*-?(mm|cm)\b", re.IGNORECASE)
MOST_MM = 300.0  # what is larger is no lesion's size; our choice


def stated_size_mm(text: str) -> float | None:
    """The largest diameter that a text states, mm; None where it states none.

    >>> stated_size_mm("Cyst of 1.6 x 1.2 cm, formerly 9 mm"), stated_size_mm("series 3, image 47")
    (16.0, None)
    """
    sizes = [
        float(number.replace(",", ".")) * (10.0 if unit.lower() == "cm" else 1.0)
        for numbers, unit in _SIZE.findall(text)
        for number in re.findall(_NUMBER, numbers)
    ]
    return max((size for size in sizes if 0.0 < size <= MOST_MM), default=None)
