"""Sentence embeddings of all wordings that training uses, computed once: the text tower is frozen.

Sentences of reports are embedded when they are met, and the last ones are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.model import SightlineModel
from training.prompts import texts_against, texts_for, texts_of_normal, texts_of_organ

KEPT = 20_000  # report sentences: 30 MB at a width of 384


class TextMemo:
    """Embeddings of report sentences, the last `KEPT` of them kept.

    Parameters
    ----------
    tower: texts -> (T, width).
    """

    def __init__(self, tower: Callable[[Sequence[str]], torch.Tensor]) -> None:
        self._tower = tower
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """(T, width) on the CPU."""
        new = [t for t in dict.fromkeys(texts) if t not in self._kept]
        if new:
            self._kept |= dict(zip(new, self._tower(new).detach().cpu(), strict=True))
        for text in texts:
            self._kept.move_to_end(text)
        found = torch.stack([self._kept[t] for t in texts])
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found


@dataclass(frozen=True)
class TextBank:
    """Embeddings by what they speak of, each (W, width) for its W wordings.

    Attributes
    ----------
    present, absent: per abnormality; organ: an organ's name, normal: that nothing is wrong with
        it, per organ.
    memo: of the sentences of reports.
    """

    present: tuple[torch.Tensor, ...]
    absent: tuple[torch.Tensor, ...]
    organ: tuple[torch.Tensor, ...]
    normal: tuple[torch.Tensor, ...]
    memo: TextMemo = field(compare=False)

    @property
    def width(self) -> int:
        """Of an embedding."""
        return int(self.present[0].shape[1])

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """(T, width) of any texts, on the CPU."""
        return self.memo.read(texts)

    @classmethod
    def of(cls, model: SightlineModel) -> TextBank:
        """Embed all wordings of the dictionary and the organ table."""
        return cls(
            present=tuple(model.text(texts_for(a)) for a in abnormalities()),
            absent=tuple(model.text(texts_against(a)) for a in abnormalities()),
            organ=tuple(model.text(texts_of_organ(o)) for o in organs()),
            normal=tuple(model.text(texts_of_normal(o)) for o in organs()),
            memo=TextMemo(model.text),
        )


def draw(bank: tuple[torch.Tensor, ...], rng: np.random.Generator) -> torch.Tensor:
    """One wording of each: (N, width)."""
    return torch.stack([wordings[int(rng.integers(len(wordings)))] for wordings in bank])
