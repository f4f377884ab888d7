"""Wordings with what each stands for, and the nearest of them to a sentence.

The frozen sentence encoder compares; what a wording stands for is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch

from core_model.text_encoder import TextEncoder

# Cosine of sentence embeddings from which a text means an entry. Our choice: paraphrases ("pulmonary
# nodule in the right lower lobe") lie above 0.7, texts about something else below 0.5.
MEANT = 0.6

Entry = TypeVar("Entry")


class Wordings(Generic[Entry]):
    """Wordings, embedded once.

    Parameters
    ----------
    text: reads them; the same that embeds the sentences.
    said: what each wording stands for, and the wording; one at least.
    """

    def __init__(self, text: TextEncoder, said: Sequence[tuple[Entry, str]]) -> None:
        self._entries = [entry for entry, _ in said]
        with torch.inference_mode():
            self._embedded = text([wording for _, wording in said])  # (N, W)

    def nearest(self, sentences: torch.Tensor) -> list[tuple[Entry, float] | None]:
        """Of (T, W) sentence embeddings what each means, with its cosine; None below `MEANT`."""
        cosines, which = (sentences @ self._embedded.T).max(1)
        return [
            (self._entries[place], cosine) if cosine >= MEANT else None
            for cosine, place in zip(cosines.tolist(), which.tolist(), strict=True)
        ]
