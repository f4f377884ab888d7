"""Texts as questions: their embedding, and what of the dictionary they mean.

The frozen sentence encoder tells which entry is meant (of report sentences it was never asked before,
98 in 100); what is learned behind it tells where. Needs no image; answers nothing itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from core_model.abnormality import Abnormality, abnormality
from core_model.anatomy import organs
from core_model.model import SightlineModel
from core_model.stated_site import Site, stated_site
from core_model.stated_size import stated_size_mm
from core_model.text_encoder import TextEncoder
from core_model.wordings import Wordings

Kind = Literal["abnormality", "organ"]


@dataclass(frozen=True)
class Meaning:
    """An entry of the dictionary, or an organ.

    Attributes
    ----------
    kind: which of the two.
    name: of the abnormality or the reading organ.
    similarity: cosine of the text with the nearest wording of it.
    """

    kind: Kind
    name: str
    similarity: float


@dataclass(frozen=True)
class Question:
    """A text that can be looked for in any encoding of the same model.

    Attributes
    ----------
    text: as it was asked.
    embedding: (E,) unit length, in the space of cells and slabs.
    meaning: None where the text means nothing that the dictionary knows.
    size_mm: the size that the text states, if it states one.
    site: the part of its organ that the text names, if it means an abnormality and names one.
    """

    text: str
    embedding: npt.NDArray[np.float32]
    meaning: Meaning | None = None
    size_mm: float | None = None
    site: Site | None = None

    @property
    def abnormality(self) -> str | None:
        """The abnormality that the text means; None where it means an organ, or nothing."""
        return self.meaning.name if self.meaning and self.meaning.kind == "abnormality" else None


class Asker:
    """Makes questions of texts.

    Parameters
    ----------
    model: whose encodings are asked.
    searched: abnormalities that texts can mean, those that the model was trained on. Without any
        (vanilla CLIP) texts mean nothing: such a model is asked in words alone.
    bf16: read texts in bfloat16, a third less work; embeddings differ by a cosine of 0.0001.
    """

    def __init__(self, model: SightlineModel, searched: Sequence[Abnormality], *, bf16: bool = False) -> None:
        self._model = model
        self._searched = tuple(searched)
        self._bf16 = bf16

    @cached_property
    def _text(self) -> TextEncoder:
        """The tower of the model, or a copy: prompts and reports are read in single precision as ever."""
        return copy.deepcopy(self._model.text).bfloat16() if self._bf16 else self._model.text

    def questions(self, texts: Sequence[str]) -> list[Question]:
        """The questions that some texts are; together they cost little more than one.

        Raises
        ------
        ValueError: if there is no text or one is blank.
        """
        with torch.inference_mode():
            sentences = self._text(texts)  # (T, W)
            embeddings = self._model.project_text(sentences).embedding.float().cpu().numpy()  # (T, E)
            meanings = self._meanings(sentences)
            sizes = [stated_size_mm(text) for text in texts]
            sites = [self._site(text, meaning) for text, meaning in zip(texts, meanings, strict=True)]
        return [Question(*one) for one in zip(texts, embeddings, meanings, sizes, sites, strict=True)]

    @staticmethod
    def _site(text: str, meaning: Meaning | None) -> Site | None:
        if meaning is None or meaning.kind != "abnormality":
            return None
        return stated_site(text, abnormality(meaning.name).organ)

    def _meanings(self, sentences: torch.Tensor) -> list[Meaning | None]:
        if not self._searched:
            return [None] * len(sentences)
        found = self._wordings.nearest(sentences)
        return [Meaning(*one[0], similarity=one[1]) if one else None for one in found]

    @cached_property
    def _wordings(self) -> Wordings[tuple[Kind, str]]:
        """Of what is searched and of the organs."""
        said: list[tuple[tuple[Kind, str], str]] = []
        for entry in self._searched:
            said += [(("abnormality", entry.name), w) for w in (entry.display, *entry.present)]
        said += [(("organ", organ.name), organ.display) for organ in organs()]
        return Wordings(self._text, said)
