"""One patient in words: what texts say of its encoding, beside what is true.

Zero-shot organ recognition, zero-shot abnormalities, snippet localization and the two
vectors that retrieval compares. Prompts are averaged over templates (`training.prompts`).
Needs no image: everything comes out of the `StudyEncoding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from core_model.localization import nearest_slice
from core_model.reader import Reader
from core_model.reading import StudyEncoding
from core_model.text_encoder import without_references
from training.benchmark import Case
from training.judging import MIN_ORGAN_VOXELS
from training.phantoms.reports import Report, write_report
from training.prompts import texts_against, texts_for, texts_of_organ

Vector = npt.NDArray[np.float32]
EmbedAll = Callable[[Sequence[str]], Vector]


@dataclass(frozen=True)
class PromptBank:
    """Averaged prompts of everything that is asked, unit length.

    Attributes
    ----------
    organ: (36, E); present, absent: (A, E) in dictionary order; scan: (A, E) those for minus those
        against in the space of whole scans, which is another one where projectors are separate.
    """

    organ: Vector
    present: Vector
    absent: Vector
    scan: Vector

    @classmethod
    def of(cls, reader: Reader) -> PromptBank:
        """Embed every wording once."""
        return cls(
            organ=np.stack([mean_text(texts_of_organ(o), reader.embed_all) for o in organs()]),
            present=np.stack([mean_text(texts_for(a), reader.embed_all) for a in abnormalities()]),
            absent=np.stack([mean_text(texts_against(a), reader.embed_all) for a in abnormalities()]),
            scan=np.stack(
                [
                    reader.embed_report(texts_for(a)) - reader.embed_report(texts_against(a))
                    for a in abnormalities()
                ]
            ),
        )


def mean_text(texts: Sequence[str], embed_all: EmbedAll) -> Vector:
    """(E,) unit length mean of the embeddings of several texts."""
    total = embed_all(texts).mean(0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), dtype=np.float32)


@dataclass(frozen=True)
class SnippetRecord:
    """A sentence of the report, the slice it is about and the slices it was localized on.

    Attributes
    ----------
    true_slice: index along the volume's first axis.
    found_slice: of `Reader.localize`.
    slab_slice: of the middle of the slab with the highest cosine (RadFinder's read-out, model.md 2.2).
    slices, spacing_mm: of the volume.
    """

    text: str
    abnormality: str
    true_slice: int
    found_slice: int
    slab_slice: int
    slices: int
    spacing_mm: float


@dataclass(frozen=True)
class WordRecord:
    """What texts say of one patient.

    Attributes
    ----------
    recognised: organ that the truth shows -> organ whose text is nearest ("" where the reader
        did not find the organ).
    organ_scores, scan_scores: abnormality -> cosine with the texts for it minus cosine with those
        against it, of its organ's embedding (organs in view only) and of the whole scan's.
    snippets: sentences that name a slice.
    report: the report's sentences without image references; equal for equal reports.
    stated: what the reader takes the report to state, abnormality -> whether it is there.
    report_feature: (E,) of `Reader.embed_report`; scan_feature: (E,) of the scan.
    """

    recognised: dict[str, str]
    organ_scores: dict[str, float]
    scan_scores: dict[str, float]
    snippets: tuple[SnippetRecord, ...]
    report: str
    stated: dict[str, bool]
    report_feature: tuple[float, ...]
    scan_feature: tuple[float, ...]


def ask(case: Case, encoding: StudyEncoding, bank: PromptBank, reader: Reader) -> WordRecord:
    """Ask a patient's encoding, which `reader` made, everything that the benchmark asks."""
    count = case.volume.spatial_shape[0]
    report = write_report(case.phantom, np.random.default_rng([case.seed, 4]), n_images=count)
    sentences = [without_references(s.text) for s in report.sentences]
    difference = bank.present - bank.absent  # (A, E)
    scan = bank.scan @ encoding.global_feature  # (A,)
    rows = np.array([organ(a.organ).label - 1 for a in abnormalities()])
    per_organ = (difference * encoding.organ_features[rows]).sum(1)  # (A,)
    return WordRecord(
        recognised=_recognise(case, encoding, bank.organ),
        organ_scores={
            a.name: float(s)
            for a, s, r in zip(abnormalities(), per_organ, rows, strict=True)
            if encoding.organ_present[r]
        },
        scan_scores={a.name: float(s) for a, s in zip(abnormalities(), scan, strict=True)},
        snippets=_snippets(case, encoding, report, reader),
        report=" ".join(sentences),
        stated=reader.stated(sentences),
        report_feature=tuple(map(float, reader.embed_report(sentences))),
        scan_feature=tuple(map(float, encoding.global_feature)),
    )


def _recognise(case: Case, encoding: StudyEncoding, texts: Vector) -> dict[str, str]:
    counts = np.bincount(case.organs.ravel(), minlength=256)
    nearest = (encoding.organ_features @ texts.T).argmax(1)  # (36,)
    return {
        o.name: organs()[int(nearest[i])].name if encoding.organ_present[i] else ""
        for i, o in enumerate(organs())
        if counts[o.label] >= MIN_ORGAN_VOXELS
    }


def _snippets(
    case: Case, encoding: StudyEncoding, report: Report, reader: Reader
) -> tuple[SnippetRecord, ...]:
    count = case.volume.spatial_shape[0]
    records = []
    for snippet in report.snippets:
        slab = int((encoding.slab_features @ reader.embed(snippet.text)).argmax())
        records.append(
            SnippetRecord(
                text=snippet.text,
                abnormality=snippet.abnormality,
                true_slice=count - snippet.image_number,  # image 1 is the most superior
                found_slice=reader.localize(encoding, snippet.text).slice_index,
                slab_slice=nearest_slice(encoding.slices, encoding.slab_centres_mm[slab])[0],
                slices=count,
                spacing_mm=float(case.volume.spacing[0]),
            )
        )
    return tuple(records)
