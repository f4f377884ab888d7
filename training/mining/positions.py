"""From a reference to a slice: the series checked, the direction of its slices, and the doubtful dropped.

Takes the geometry of a study's series, nothing else of them: no DICOM is read here. What cannot be resolved
is returned with its reason, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.mining.organ_sentences import organ_sentences
from training.mining.references import DroppedReference, Reference, ReferringSentence, referring_sentences

FAR_MM = (
    24.0  # images of one reference that lie further apart name no one place: sigma of `training.snippets`
)
MARGIN_MM = 24.0  # by which a slice may miss the organ that its sentence is about; our choice
MOST = 2  # times as many references as the other must a direction explain; our choice


@dataclass(frozen=True)
class SeriesSlices:
    """Where the slices of one series lie.

    Attributes
    ----------
    number: Series Number (0020,0011), None where it is lost (a NIfTI file).
    images: Instance Number (0020,0013) of each slice.
    heights_mm: of each slice along the body's axis, higher is nearer the head (z of LPS).
    axial: whether its slices are.
    """

    number: int | None
    images: tuple[int, ...]
    heights_mm: tuple[float, ...]
    axial: bool = True

    def __post_init__(self) -> None:
        if len(self.images) != len(self.heights_mm) or not self.images:
            raise ValueError(
                f"series {self.number} has {len(self.images)} image numbers and {len(self.heights_mm)} "
                "heights; give one of each per slice, and at least one"
            )

    @classmethod
    def counted(
        cls, count: int, spacing_mm: float, *, superior_first: bool, number: int | None = None
    ) -> SeriesSlices:
        """A series whose headers are lost: images 1 to `count` from the head or the feet, the lowest at 0 mm.

        >>> SeriesSlices.counted(3, 5.0, superior_first=True).heights_mm
        (10.0, 5.0, 0.0)
        """
        heights = [k * spacing_mm for k in range(count)]
        return cls(number, tuple(range(1, count + 1)), tuple(heights[::-1] if superior_first else heights))


@dataclass(frozen=True)
class MinedSnippet:
    """A sentence and the slice that it names: `training.snippets.CropSnippet` without the crop.

    Attributes
    ----------
    text: the sentence, or its part that ends with the reference, without references.
    organs: reading organs that the sentence is about.
    series: number of the series, None where it is lost.
    image: number of the image; the middle one of several.
    slice_index: from the feet, as the volume's first axis runs.
    height_mm: of the slice, as in `SeriesSlices`.
    """

    text: str
    organs: tuple[str, ...]
    series: int | None
    image: int
    slice_index: int
    height_mm: float


@dataclass(frozen=True)
class MinedSnippets:
    """The snippets of one report, and the references that were dropped on the way."""

    snippets: tuple[MinedSnippet, ...]
    dropped: tuple[DroppedReference, ...]


def snippets(
    report: str, study: Sequence[SeriesSlices], extents_mm: Mapping[str, tuple[float, float]] | None = None
) -> MinedSnippets:
    """The snippets of a report, resolved in its study.

    Parameters
    ----------
    study: all series of it, so that the one that is meant can be told.
    extents_mm: reading organ -> its lowest and highest height; with it a slice that shows none of its
        sentence's organs is dropped.
    """
    found: list[MinedSnippet] = []
    dropped: list[DroppedReference] = []
    for sentence in referring_sentences(report):
        dropped += sentence.dropped
        organs = _organs_of(sentence)
        for reference, text in zip(sentence.references, _texts(sentence), strict=True):
            place = resolve(reference, study) if re.search(r"\w{3}", text) else "says nothing of its image"
            if isinstance(place, str):
                dropped.append(_drop(reference, place))
                continue
            image, index, height, series = place
            if extents_mm is not None and not _shows(height, organs, extents_mm):
                dropped.append(_drop(reference, "the image shows no organ of the sentence"))
                continue
            found.append(MinedSnippet(text, organs, series.number, image, index, height))
    return MinedSnippets(tuple(found), tuple(dropped))


def resolve(
    reference: Reference, study: Sequence[SeriesSlices]
) -> tuple[int, int, float, SeriesSlices] | str:
    """The slice of a reference.

    Returns
    -------
    Image number, index from the feet, height in mm and the series; or in words why there is none.
    """
    series = _series(reference, study)
    if isinstance(series, str):
        return series
    doubt = _doubt(reference, series)
    if doubt:
        return doubt
    heights = dict(zip(series.images, series.heights_mm, strict=True))
    named = sorted(reference.images, key=heights.__getitem__)
    spread = heights[named[-1]] - heights[named[0]]
    if spread > FAR_MM:
        return f"names images {spread:.0f} mm apart"
    image = named[len(named) // 2]
    return image, int(np.searchsorted(sorted(series.heights_mm), heights[image])), heights[image], series


def _doubt(reference: Reference, series: SeriesSlices) -> str:
    """What about the slices of a series speaks against a reference, "" for nothing."""
    if reference.total is not None and reference.total not in {len(series.images), max(series.images)}:
        return f"counts {reference.total} images, the series has {len(series.images)}"
    if len(set(series.images)) != len(series.images):
        return "image numbers of the series are not unique"
    steps = np.diff([height for _, height in sorted(zip(series.images, series.heights_mm, strict=True))])
    if not (np.all(steps > 0) or np.all(steps < 0)):
        return "images of the series do not run one way"
    missing = [image for image in reference.images if image not in series.images]
    return f"the series has no image {missing[0]}" if missing else ""


def superior_first(
    report: str, count: int, spacing_mm: float, extents_mm: Mapping[str, tuple[float, float]]
) -> bool | None:
    """Whether image 1 is nearest the head, by the organs that a report's references should show.

    For volumes without headers (Merlin): the numbering is lost, organ masks are not.

    Parameters
    ----------
    count, spacing_mm: of the volume.
    extents_mm: reading organ -> lowest and highest height above the volume's lowest slice.

    Returns
    -------
    None where the report's references do not tell.
    """
    fits = {
        first: len(
            snippets(
                report, [SeriesSlices.counted(count, spacing_mm, superior_first=first)], extents_mm
            ).snippets
        )
        for first in (True, False)
    }
    if max(fits.values()) < 1 or max(fits.values()) < MOST * min(fits.values()):
        return None
    return fits[True] > fits[False]


def _series(reference: Reference, study: Sequence[SeriesSlices]) -> SeriesSlices | str:
    if reference.plane == "other":
        return "names a plane that is not axial"
    named = [s for s in study if reference.series is None or s.number is None or s.number == reference.series]
    if not named:
        return f"the study has no series {reference.series}"
    able = [s for s in named if s.axial and set(reference.images) <= set(s.images)]
    if not able:
        return (
            "the series is not axial"
            if not any(s.axial for s in named)
            else f"the series has no image {reference.images[0]}"
        )
    return able[0] if len(able) == 1 else "names no series, and more than one has such an image"


def _drop(reference: Reference, reason: str) -> DroppedReference:
    return DroppedReference(reference.words, reason, reference.start, reference.end)


def _shows(height: float, organs: Sequence[str], extents_mm: Mapping[str, tuple[float, float]]) -> bool:
    """Whether a slice shows one of some organs; true where none of them is known."""
    known = [extents_mm[o] for o in organs if o in extents_mm]
    return not known or any(low - MARGIN_MM <= height <= high + MARGIN_MM for low, high in known)


def _organs_of(sentence: ReferringSentence) -> tuple[str, ...]:
    heading = f"{sentence.sentence.heading}:\n" if sentence.sentence.heading else ""
    mined = organ_sentences(f"{heading}{sentence.text}")
    return mined[0].organs if mined else ()


def _texts(sentence: ReferringSentence) -> list[str]:
    """The text of each reference: its own part of a sentence that several share, if that says something."""
    whole = sentence.sentence.text
    if len(sentence.references) == 1:
        return [sentence.text]
    texts, start = [], 0
    for reference in sentence.references:
        part = whole[start : reference.start].strip(" ,;:([").removeprefix("and ").strip()
        part = part.removesuffix(")").strip(" ,;:(")
        texts.append(part if sum(len(w) > 2 for w in part.split()) >= 2 else sentence.text)
        start = reference.end
        if whole[start : start + 1] in {")", "]"}:
            start += 1
    return texts
