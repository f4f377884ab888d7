"""Snippets of a report whose images are those of one NIfTI file: numbering and direction decided, or dropped.

A NIfTI file has lost series number, image numbers and their direction. A set's table may give them; else
organ masks tell, as far as they can (`training.mining.positions`). Nothing is guessed: what stays in doubt is
no snippet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import highdicom as hd
import numpy as np
import numpy.typing as npt

from core_model.anatomy import organs
from training.datasets.sample import SliceSnippet
from training.mining.positions import MOST, SeriesSlices, snippets
from training.mining.references import referring_sentences


def extents_mm(labels: npt.NDArray[np.uint8], spacing_mm: float) -> dict[str, tuple[float, float]]:
    """Reading organ -> its lowest and highest height above the lowest slice.

    Parameters
    ----------
    labels: (slices, rows, columns), of the reading organs.
    spacing_mm: between slices.
    """
    found = {}
    for organ in organs():
        shown = np.flatnonzero((labels == organ.label).any(axis=(1, 2)))
        if len(shown):
            found[organ.name] = (float(shown[0]) * spacing_mm, float(shown[-1]) * spacing_mm)
    return found


def report_snippets(
    report: str,
    volume: hd.Volume,
    labels: npt.NDArray[np.uint8] | None = None,
    *,
    series: int | None = None,
    superior_first: bool | None = None,
) -> tuple[SliceSnippet, ...]:
    """The sentences of a report that name a slice of a volume.

    Parameters
    ----------
    volume: canonical; all slices of one series, image 1 at one end.
    labels: (slices, rows, columns), of the reading organs; with them a sentence whose organ its slice does
        not show is dropped.
    series: number of the volume's series; None where it is lost: then that which the report names at least
        `MOST` times as often as any other, if there is one.
    superior_first: whether image 1 is nearest the head; None where it is lost: then by `labels`.

    Returns
    -------
    Empty where series or direction stay in doubt.
    """
    number = _series(report) if series is None else series
    count, spacing_mm = volume.spatial_shape[0], float(volume.spacing[0])
    extents = None if labels is None else extents_mm(labels, spacing_mm)
    if number is None or (superior_first is None and extents is None):
        return ()

    def found(first: bool) -> tuple[SliceSnippet, ...]:
        slices = SeriesSlices.counted(count, spacing_mm, superior_first=first, number=number)
        return tuple(
            SliceSnippet(s.text, s.slice_index, s.slice_index, s.slice_index, s.organs)
            for s in snippets(report, [slices], extents).snippets
        )

    if superior_first is not None:
        return found(superior_first)
    down, up = found(True), found(False)
    told = _witnesses(down, extents), _witnesses(up, extents)
    if max(told) == 0 or max(told) < MOST * min(told):
        return ()
    return down if told[0] > told[1] else up


def _witnesses(found: tuple[SliceSnippet, ...], extents: Mapping[str, tuple[float, float]] | None) -> int:
    """How many snippets are of an organ whose place is known: the others fit either direction."""
    return sum(any(organ in (extents or {}) for organ in s.organs) for s in found)


def _series(report: str) -> int | None:
    """The series that a report's references mostly name."""
    named = Counter(
        r.series
        for sentence in referring_sentences(report)
        for r in sentence.references
        if r.series is not None
    )
    first = named.most_common(2)
    if not first or (len(first) > 1 and first[0][1] < MOST * first[1][1]):
        return None
    return first[0][0]


__all__ = ["extents_mm", "report_snippets"]
