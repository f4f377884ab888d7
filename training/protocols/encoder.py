"""A checkpoint as protocols use it: a volume, a report and a prompt each as one vector.

The vectors that are compared are those the model was trained to compare: whole volumes with reports
(`Reader.embed_report`), organs with sentences (`Reader.embed_all`). Its own findings come along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core_model.checkpoint import load_checkpoint
from core_model.inference import choose_device, supports_bf16
from core_model.reader import Reader
from core_model.text_encoder import without_references
from training.datasets.sample import Sample, UnusableSampleError
from training.mining.text import sentences
from training.shared_encoder import SharedEncoder, share_encoder

Vectors = npt.NDArray[np.float32]
SECTIONS = ("findings", "impression")  # CT-CLIP compares volumes with findings and impression


@dataclass(frozen=True)
class Embedding:
    """What is kept of one volume.

    Attributes
    ----------
    volume: (E,) unit length, in the space of reports.
    organs: (36, E) unit length, in the space of sentences; rows of organs that are not in view are 0.
    findings: abnormality of the dictionary -> probability; those whose organ is not in view are left out.
    """

    volume: Vectors
    organs: Vectors
    findings: Mapping[str, float]


def report_sentences(report: str, sections: Sequence[str] = SECTIONS) -> list[str]:
    """The sentences of some sections of a report, of all where it has no headings, without references."""
    every = sentences(report)
    headed = any(s.section for s in every)
    texts = [without_references(s.text) for s in every if not headed or s.section in sections]
    return [text for text in texts if text]


class Encoder:
    """Makes the vectors of one checkpoint on one device.

    Attributes
    ----------
    reader: of the checkpoint; its image encoder sees each tile of a volume once, until `forget`.
    volume_scale, organ_scale: learned factors of the cosines of volumes with reports and of organs with
        prompts, which a softmax of CT-CLIP's or HLIP's kind takes.
    """

    def __init__(self, checkpoint: Path | None = None, device: str | None = None) -> None:
        loaded = load_checkpoint(checkpoint)
        where = choose_device(device)
        self._shared: SharedEncoder = share_encoder([loaded.model])
        self.reader = Reader(loaded, where, supports_bf16(where))
        self.volume_scale = float(loaded.model.global_scale.detach())
        self.organ_scale = float(loaded.model.prompt_scale.detach())

    def embed(self, sample: Sample) -> Embedding:
        """The vectors of a volume.

        Raises
        ------
        UnusableSampleError: if the reader refuses the volume.
        """
        try:
            reading = self.reader.read(sample.volume)
        except ValueError as error:
            raise UnusableSampleError("the reader refuses the volume", str(error)) from error
        finally:
            self.forget()
        said = {f.abnormality: f.probability for f in reading.findings if f.probability is not None}
        return Embedding(reading.encoding.global_feature, reading.encoding.organ_features, said)

    def forget(self) -> None:
        """Drop what is known of the last volume."""
        self._shared.forget()

    def prompts(self, texts: Sequence[str]) -> Vectors:
        """(T, E) unit length, each text in the space of whole volumes."""
        return np.stack([self.reader.embed_report([text]) for text in texts])

    def sentences(self, texts: Sequence[str]) -> Vectors:
        """(T, E) unit length, each text in the space of organs."""
        return self.reader.embed_all(texts)

    def report(self, texts: Sequence[str]) -> Vectors:
        """(E,) unit length: the sentences of a report in the space of whole volumes."""
        return self.reader.embed_report(texts)
