"""Sentence embeddings of all wordings that training uses, computed once: the text tower is frozen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.model import SightlineModel
from training.prompts import texts_against, texts_for, texts_of_normal, texts_of_organ


@dataclass(frozen=True)
class TextBank:
    """Embeddings by what they speak of, each (W, width) for its W wordings.

    Attributes
    ----------
    present, absent: per abnormality; organ: an organ's name, normal: that nothing is wrong with
        it, per organ.
    """

    present: tuple[torch.Tensor, ...]
    absent: tuple[torch.Tensor, ...]
    organ: tuple[torch.Tensor, ...]
    normal: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, model: SightlineModel) -> TextBank:
        """Embed all wordings of the dictionary and the organ table."""
        return cls(
            present=tuple(model.text(texts_for(a)) for a in abnormalities()),
            absent=tuple(model.text(texts_against(a)) for a in abnormalities()),
            organ=tuple(model.text(texts_of_organ(o)) for o in organs()),
            normal=tuple(model.text(texts_of_normal(o)) for o in organs()),
        )


def draw(bank: tuple[torch.Tensor, ...], rng: np.random.Generator) -> torch.Tensor:
    """One wording of each: (N, width)."""
    return torch.stack([wordings[int(rng.integers(len(wordings)))] for wordings in bank])
