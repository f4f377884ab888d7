"""Texts as questions: their embedding, and what of the dictionary they mean.

The frozen sentence encoder tells which entry is meant (of report sentences it was never asked before,
98 in 100); what is learned behind it tells where. Needs no image; answers nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from core_model.abnormality import Abnormality
from core_model.anatomy import organs
from core_model.model import SightlineModel

# Cosine of sentence embeddings from which a text means an entry. Our choice: paraphrases ("pulmonary
# nodule in the right lower lobe") lie above 0.7, texts about something else below 0.5.
MEANT = 0.6


@dataclass(frozen=True)
class Meaning:
    """An entry of the dictionary, or an organ.

    Attributes
    ----------
    kind: which of the two.
    name: of the abnormality or the reading organ.
    similarity: cosine of the text with the nearest wording of it.
    """

    kind: Literal["abnormality", "organ"]
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
    """

    text: str
    embedding: npt.NDArray[np.float32]
    meaning: Meaning | None = None


class Asker:
    """Makes questions of texts.

    Parameters
    ----------
    model: whose encodings are asked.
    searched: abnormalities that texts can mean, those that the model was trained on. Without any
        (vanilla CLIP) texts mean nothing: such a model is asked in words alone.
    """

    def __init__(self, model: SightlineModel, searched: Sequence[Abnormality]) -> None:
        self._model = model
        self._searched = tuple(searched)

    def question(self, text: str) -> Question:
        """The question that a text is.

        Raises
        ------
        ValueError: if the text is blank.
        """
        with torch.inference_mode():
            sentence = self._model.text([text])  # (1, W)
            embedding = self._model.project_text(sentence).embedding[0]
            return Question(text, _array(embedding), self._meaning(sentence))

    def _meaning(self, sentence: torch.Tensor) -> Meaning | None:
        if not self._searched:
            return None
        meanings, wordings = self._dictionary
        similarity, nearest = (wordings @ sentence[0]).max(0)
        kind, name = meanings[int(nearest)]
        return Meaning(kind, name, float(similarity)) if similarity >= MEANT else None

    @cached_property
    def _dictionary(self) -> tuple[list[tuple[Literal["abnormality", "organ"], str]], torch.Tensor]:
        """What each wording means, and (N, W) the wordings' sentence embeddings."""
        meanings: list[tuple[Literal["abnormality", "organ"], str]] = []
        wordings: list[str] = []
        for entry in self._searched:
            for wording in (entry.display, *entry.present):
                meanings.append(("abnormality", entry.name))
                wordings.append(wording)
        for organ in organs():
            meanings.append(("organ", organ.name))
            wordings.append(organ.display)
        return meanings, self._model.text(wordings)


def _array(embedding: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(embedding.float().cpu().numpy(), dtype=np.float32)
