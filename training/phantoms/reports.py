"""The report that a radiologist would write about a phantom, organ by organ.

Not a language model: sentences are drawn from `phrases` and the abnormality dictionary, and
every one of them is true of the phantom, but for comparisons with an earlier study, which does not
exist. A finding names the slice where it is largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from core_model.abnormality import Abnormality, abnormalities
from core_model.anatomy import organs
from training.phantoms.phrases import (
    ABSENT,
    COMPARISON,
    DOUBT,
    FURTHER,
    NEGATIVE,
    NORMAL,
    POSITIVE,
    REFERENCES,
    SECTIONS,
    SUMMED,
)
from training.phantoms.tissues import Phantom, PlantedLesion

DOUBTED, COMPARED = 0.1, 0.15  # shares of the findings; our choice
MIN_ORGAN_ML = 1.0  # less of an organ than this at the edge of the scan is not reported on


@dataclass(frozen=True)
class OrganSentence:
    """One statement about one organ.

    Attributes
    ----------
    organ: reading organ.
    text: the sentence as it stands in the report.
    abnormality: name in the abnormality dictionary; None for a general remark.
    positive: True if the sentence says that the abnormality is there.
    image_number: the image that it refers to (`image_number`), or None.
    """

    organ: str
    text: str
    abnormality: str | None
    positive: bool
    image_number: int | None = None


@dataclass(frozen=True)
class Snippet:
    """A sentence and the slice that it names: what weak localisation is trained on.

    Attributes
    ----------
    text: the sentence without its reference.
    organ, abnormality: what it is about.
    image_number: the image in the series.
    mask_value: value of the lesion in `Phantom.lesions`.
    """

    text: str
    organ: str
    abnormality: str
    image_number: int
    mask_value: int


@dataclass(frozen=True)
class Report:
    """A report and its parts.

    Attributes
    ----------
    text: the whole report.
    sentences: its findings, in the order of the text.
    snippets: those that name a slice.
    series_number: the series that references name.
    """

    text: str
    sentences: tuple[OrganSentence, ...]
    snippets: tuple[Snippet, ...]
    series_number: int


def image_number(z: float, depth: int, n_images: int) -> int:
    """The image (from 1, superior first) that shows slice position `z` of a phantom.

    Parameters
    ----------
    z: index along the phantom's first axis (feet first), fractions allowed.
    depth: length of that axis.
    n_images: images of the series, which covers the same extent.

    >>> image_number(0, 100, 100), image_number(99, 100, 100), image_number(99, 100, 50)
    (100, 1, 1)
    """
    position = (z + 0.5) * n_images / depth - 0.5
    return n_images - min(n_images - 1, max(0, round(position)))


def largest_slice(phantom: Phantom, lesion: PlantedLesion) -> int | None:
    """Index along the first axis where a lesion's mask has its largest area; None without a mask."""
    if lesion.mask_value == 0:
        return None
    area = (phantom.lesions == lesion.mask_value).sum((1, 2))  # (D,)
    return int(area.argmax()) if int(area.max()) > 0 else None


def write_report(
    phantom: Phantom,
    rng: np.random.Generator,
    series_number: int = 3,
    *,
    n_images: int | None = None,
) -> Report:
    """Write the report of a phantom.

    Parameters
    ----------
    phantom: what is reported on. Nothing is said about organs that are not in view.
    rng: chooses among phrasings; the same state gives the same report.
    series_number: the series that references name.
    n_images: images of the exported series; None where one phantom slice is one image.

    Raises
    ------
    ValueError: if `series_number` or `n_images` is not positive.
    """
    depth = int(phantom.hu.shape[0])
    count = depth if n_images is None else n_images
    if series_number < 1 or count < 1:
        raise ValueError(f"series_number {series_number} and n_images {count} must both be 1 or more")
    in_view = _organs_in_view(phantom)
    writer = _Writer(phantom, rng, series_number, count)
    lines = [_head(phantom, rng), "", "FINDINGS"]
    for title, names in SECTIONS:
        section = [s for name in names if name in in_view for s in writer.organ(name)]
        if section:
            lines += [f"{title}:", " ".join(s.text for s in section), ""]
    lines += ["IMPRESSION", *_impression(writer.sentences)]
    return Report("\n".join(lines) + "\n", tuple(writer.sentences), tuple(writer.snippets), series_number)


def _organs_in_view(phantom: Phantom) -> set[str]:
    voxel_ml = float(np.prod(phantom.spacing_mm)) / 1000
    counts = torch.bincount(phantom.organs.flatten().long(), minlength=256)
    return {o.name for o in organs() if float(counts[o.label]) * voxel_ml >= MIN_ORGAN_ML}


def _head(phantom: Phantom, rng: np.random.Generator) -> str:
    agent = "Unenhanced" if phantom.phase == "native" else "Contrast-enhanced"
    phase = "" if phantom.phase == "native" else f" in the {phantom.phase} phase"
    return str(rng.choice([f"{agent} CT{phase}.", f"TECHNIQUE: {agent} helical CT{phase}."]))


def _impression(sentences: list[OrganSentence]) -> list[str]:
    known = {a.name: a for a in abnormalities()}
    found = dict.fromkeys(s.abnormality for s in sentences if s.positive and s.abnormality)
    if not found:
        return ["No acute or suspicious finding."]
    names = [known[n].display for n in found if n is not None]
    return [f"{k + 1}. {name[0].upper()}{name[1:]}." for k, name in enumerate(names)]


class _Writer:
    """Collects the sentences of one report."""

    def __init__(self, phantom: Phantom, rng: np.random.Generator, series: int, n_images: int) -> None:
        self.phantom, self.rng, self.series, self.n_images = phantom, rng, series, n_images
        self.sentences: list[OrganSentence] = []
        self.snippets: list[Snippet] = []

    def pick(self, choices: tuple[str, ...]) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def organ(self, name: str) -> list[OrganSentence]:
        """All sentences about one organ that is in view; also kept."""
        first = len(self.sentences)
        ill = any(p.organ == name for p in self.phantom.planted)
        for entry in abnormalities():
            if entry.organ != name:
                continue
            planted = [p for p in self.phantom.planted if p.abnormality == entry.name]
            if planted:
                self.findings(entry, sorted(planted, key=lambda p: -p.diameter_mm))
            else:
                text = self.pick((*entry.absent, *NEGATIVE[entry.name], self.pick(ABSENT)))
                text = text.format(name=entry.display)
                text = text[0].upper() + text[1:]
                self.sentences.append(OrganSentence(name, text, entry.name, positive=False))
        if name in NORMAL and not ill and (len(self.sentences) == first or self.rng.random() < 0.5):
            text = self.pick(NORMAL[name])
            self.sentences.append(OrganSentence(name, text, None, positive=False))
        return self.sentences[first:]

    def findings(self, entry: Abnormality, planted: list[PlantedLesion]) -> None:
        """One sentence per lesion, the largest first; what nobody counts is summed up."""
        if entry.name in SUMMED:
            planted = planted[:1]
        for order, lesion in enumerate(planted):
            templates = (
                POSITIVE[entry.name] if order == 0 or "{where}" not in POSITIVE[entry.name][0] else FURTHER
            )
            if (
                order > 0
                and templates is FURTHER
                and entry.name.endswith(("cyst", "stone", "haemangioma", "metastasis"))
            ):
                templates = POSITIVE[entry.name]
            text = self.pick(templates).format(
                size=self.size(lesion.diameter_mm), where=self.where(lesion), side=lesion.side
            )
            text = text[0].upper() + text[1:]
            if order == 0 and self.rng.random() < 0.15:  # the dictionary's own words
                text = self.pick(entry.present).rstrip(".")
            text += self.remark()
            z = largest_slice(self.phantom, lesion)
            if z is None:
                self.sentences.append(OrganSentence(entry.organ, f"{text}.", entry.name, positive=True))
                continue
            image = image_number(z, int(self.phantom.hu.shape[0]), self.n_images)
            reference = self.pick(REFERENCES).format(series=self.series, image=image)
            sentence = OrganSentence(entry.organ, f"{text} {reference}.", entry.name, True, image)
            self.sentences.append(sentence)
            self.snippets.append(Snippet(f"{text}.", entry.organ, entry.name, image, lesion.mask_value))

    def remark(self) -> str:
        """Doubt or a comparison, mostly nothing. No earlier study exists: it is wording, not truth."""
        chance = self.rng.random()
        if chance < DOUBTED:
            return self.pick(DOUBT)
        return self.pick(COMPARISON) if chance < DOUBTED + COMPARED else ""

    def size(self, diameter_mm: float) -> str:
        if diameter_mm >= 10 and self.rng.random() < 0.4:
            return f"{diameter_mm / 10:.1f} cm"
        return f"{max(1, round(diameter_mm))} mm"

    def where(self, lesion: PlantedLesion) -> str:
        """A lesion's place within its organ in words."""
        up, left = self.relative(lesion)
        level = "upper" if up > 0.66 else "lower" if up < 0.33 else "mid"
        pole = "middle third" if level == "mid" else f"{level} pole"
        part = "head" if left < 0.33 else "tail" if left > 0.7 else "body"
        places = {
            "liver": f"in the {'left' if left > 0.58 else 'right'} lobe of the liver",
            "kidneys": f"in the {pole} of the {lesion.side} kidney",
            "lung": f"in the {level} zone of the {lesion.side} lung",
            "pancreas": f"in the {part} of the pancreas",
            "colon": f"in the {_colon_part(up, left)}",
            "aorta": "of the aorta",
            "adrenals": f"in the {lesion.side} adrenal gland",
            "heart": "of the heart",
        }
        return places.get(lesion.organ, f"in the {lesion.organ.replace('_', ' ')}")

    def relative(self, lesion: PlantedLesion) -> tuple[float, float]:
        """How far up and how far left in the bounding box of its organ (of its own side), 0..1."""
        label = next(o.label for o in organs() if o.name == lesion.organ)
        mask = self.phantom.organs == label
        if lesion.side:
            middle = mask.shape[2] // 2
            columns = torch.arange(mask.shape[2])
            half = columns >= middle if lesion.side == "left" else columns < middle
            mask = mask & half
        shares = []
        for axis in (0, 2):
            line = mask.any(dim=tuple(a for a in range(3) if a != axis)).nonzero()
            if len(line) == 0:
                return 0.5, 0.5
            low, high = int(line[0]), int(line[-1])
            shares.append((lesion.centre[axis] - low) / max(1, high - low))
        return shares[0], shares[1]


def _colon_part(up: float, left: float) -> str:
    if up < 0.3:
        return "sigmoid colon" if left > 0.25 else "caecum"
    if left < 0.25:
        return "ascending colon"
    return "descending colon" if left > 0.8 else "transverse colon"
