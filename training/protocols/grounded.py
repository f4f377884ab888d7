"""What a checkpoint says of the sentences of one volume, beside their masks: ReXGroundingCT's samples.

Measures one volume after the other and keeps figures, not masks; over volumes it is `scenes`' to sum up.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core_model.localization import nearest_slice
from core_model.reading import StudyEncoding
from core_model.text_encoder import without_references
from training.datasets.sample import Sample, UnusableSampleError
from training.protocols.encoder import Encoder
from training.protocols.grounding import AxialTruth, Overlap, axial_truth, overlap
from training.protocols.store import Store, folder_of, read_json, write_json

NO_MASK = "no finding with a mask"


@dataclass(frozen=True)
class GroundedFinding:
    """One sentence of one volume.

    Attributes
    ----------
    truth: where its mask is.
    slab, localized: where the best slab and `Reader.localize` put it, in mm from the lowest slice.
    overlap: of its text-conditioned mask with the true one.
    """

    truth: AxialTruth
    slab: float
    localized: float
    overlap: Overlap


def ground(encoder: Encoder, sample: Sample) -> list[GroundedFinding]:
    """Ask a volume all sentences that have a mask.

    Raises
    ------
    UnusableSampleError: if no sentence has one, or the reader refuses the volume.
    """
    masks = sample.finding_masks
    asked = [
        (without_references(s.text), masks[s.finding])
        for s in sample.snippets
        if masks is not None and s.finding is not None and masks[s.finding].any()
    ]
    asked = [(text, mask) for text, mask in asked if text]
    if not asked:
        raise UnusableSampleError(NO_MASK)
    spacing = float(sample.volume.spacing[0])
    try:
        encoding = encoder.reader.read(sample.volume).encoding
        return [
            GroundedFinding(
                truth=axial_truth(mask, spacing),
                slab=_slab(encoder, encoding, text) * spacing,
                localized=encoder.reader.localize(encoding, text).slice_index * spacing,
                overlap=overlap(encoder.reader.segment(sample.volume, text).array > 0, mask),
            )
            for text, mask in asked
        ]
    except ValueError as error:
        raise UnusableSampleError("the reader refuses the volume", str(error)) from error
    finally:
        encoder.forget()


def _slab(encoder: Encoder, encoding: StudyEncoding, text: str) -> int:
    """Slice of the slab with the highest cosine (RadFinder: argmax over depth)."""
    best = int((encoding.slab_features @ encoder.reader.embed(text)).argmax())
    return nearest_slice(encoding.slices, np.asarray(encoding.slab_centres_mm[best]))[0]


def groundings(encoder: Encoder, root: Path) -> Store[list[GroundedFinding]]:
    """The findings that a checkpoint was asked for, per volume."""
    return Store(
        folder_of(root, encoder, "grounding", encoder.reader.thresholds.mask),
        lambda sample: ground(encoder, sample),
        lambda found, file: write_json([asdict(one) for one in found], file),
        lambda file: [_finding(one) for one in read_json(file)],
    )


def _finding(values: dict[str, Any]) -> GroundedFinding:
    return GroundedFinding(
        **{
            **values,
            "truth": AxialTruth(**values["truth"]),
            "overlap": Overlap(**values["overlap"]),
        }
    )
