"""What every data set gives to training: `Record` without voxels, `Sample` with them, `DataSet` with both.

Not a sampler and not a cache: what becomes of a sample in training is decided elsewhere. Axes, units and
vocabularies are the same for all sets, so that whoever reads a `Sample` need not know where it is from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import highdicom as hd
import numpy as np
import numpy.typing as npt

Split = Literal["train", "validation", "test", ""]


class UnusableSampleError(ValueError):
    """One sample cannot be used; the others can. Named, counted and skipped (`training.datasets.tally`).

    Parameters
    ----------
    kind: a few words that are the same for all samples with this fault, e.g. ``"image is unreadable"``.
    detail: what of this one, without any patient's identity.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class OrganSentence:
    """A sentence of a report and what it is about (CT-GLIP: the organ's description).

    Attributes
    ----------
    text: as it stands in the set.
    organs: reading organs (`core_model.anatomy`); empty where the set's region is none of them.
    region: the set's own word for it, e.g. RadGenome's ``"mediastinum"``; empty where it has none.
    """

    text: str
    organs: tuple[str, ...] = ()
    region: str = ""


@dataclass(frozen=True)
class SliceSnippet:
    """A sentence and where in the scan it is (RadFinder's snippet-slice pair).

    Attributes
    ----------
    text: without references to images.
    slice_index: along the first axis of `Sample.volume`, counted from the feet.
    first, last: lowest and highest slice that shows it; both `slice_index` where only that is known.
    organs: reading organs that it is about.
    finding: its index in `Sample.finding_masks`; None where the set has no mask of it.
    """

    text: str
    slice_index: int
    first: int
    last: int
    organs: tuple[str, ...] = ()
    finding: int | None = None


@dataclass(frozen=True)
class Record:
    """A sample without its voxels: cheap, so that a set of 50,000 can be listed.

    Attributes
    ----------
    name: in the set, e.g. ``"train_1_a_1"``. Never a patient's identity.
    patient: the same for all samples of one patient, so that splits are by patient.
    split: the set's own; empty where it has none.
    image: the CT: a NIfTI file, an npz, or a folder or list file of DICOM.
    report: the whole text; empty where there is none.
    sentences: where the set gives them by organ or region; else they are mined (`training.mining`).
    labels: of the set's vocabulary, True present, False absent; what is unknown is left out.
    notes: other columns that a protocol asks for (e.g. ``"reconstruction"``), never identity.
    """

    name: str
    patient: str
    split: Split
    image: Path
    report: str = ""
    sentences: tuple[OrganSentence, ...] = ()
    labels: Mapping[str, bool] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One CT with all that its set says of it.

    Attributes
    ----------
    record: what is known without voxels.
    volume: HU float32, canonical (`core_model.volume.canonical`): axis 0 from the feet; LPS mm.
    organs: (slices, rows, columns) uint8, reading organ labels, 0 where none of them is and
        `training.phantoms.tissues.IGNORE` where the set does not say; None where it has no organ masks.
    organs_silent: reading organs of which `organs` says nothing although it is a map of the others: what is
        0 may be one of them.
    tumours: (slices, rows, columns) uint8, 1 + index of the abnormality in the dictionary, 0 where none of
        `tumours_labelled` is; None where the set outlines none.
    tumours_labelled: abnormalities of the dictionary that the set outlines wherever they are.
    finding_masks: (findings, slices, rows, columns) bool, of the set's own findings, which may overlap.
    snippets: sentences with their places.
    """

    record: Record
    volume: hd.Volume
    organs: npt.NDArray[np.uint8] | None = None
    tumours: npt.NDArray[np.uint8] | None = None
    tumours_labelled: frozenset[str] = frozenset()
    finding_masks: npt.NDArray[np.bool_] | None = None
    snippets: tuple[SliceSnippet, ...] = ()
    organs_silent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Problem:
    """What is wrong with one entry of a set, found without reading its voxels.

    Attributes
    ----------
    name: of the sample or file.
    kind, detail: as in `UnusableSampleError`.
    """

    name: str
    kind: str
    detail: str = ""


class DataSet(Protocol):
    """A set on disk, opened.

    Attributes
    ----------
    name: e.g. ``"CT-RATE"``.
    vocabulary: the names that `Record.labels` may hold; empty where the set has no labels.
    """

    name: str
    vocabulary: tuple[str, ...]

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether a path has this set's layout. Looks at names alone."""
        ...

    def records(self) -> Sequence[Record]:
        """All samples that are listed and have a CT on disk, in the set's order."""
        ...

    def problems(self) -> Sequence[Problem]:
        """What was left out of `records`, and why: listed without a file, a file that nothing lists, ..."""
        ...

    def load(self, record: Record) -> Sample:
        """The sample of one of `records`; raises `UnusableSampleError` where it cannot be used."""
        ...


__all__ = [
    "DataSet",
    "OrganSentence",
    "Problem",
    "Record",
    "Sample",
    "SliceSnippet",
    "Split",
    "UnusableSampleError",
]
