"""The text tower: a BERT-family encoder with mean pooling, and its tokenizer.

Frozen, as CT-GLIP freezes its clinical BERT (model.md 1.1); what is learned lies behind it, in
`core_model.model`. Weights and tokenizer come out of the checkpoint: no network is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel

MAX_TOKENS = 128
_IMAGE = r"(?:images?|ima|img|im)\.?"
# Two numbers with a separator, or the word "image" before the second (or only) one.
_REFERENCE = re.compile(
    rf"\(\s*(?:series|ser|se|{_IMAGE})?\.?\s*\d+\s*"
    rf"(?:(?:[,/;-]\s*(?:{_IMAGE})?|{_IMAGE})\s*\d+\s*(?:-\s*\d+\s*)?)\)"
    rf"|\(\s*{_IMAGE}\s*\d+\s*\)",
    re.I,
)


def without_references(text: str) -> str:
    """`text` without "(series 3, image 47)": where a finding lies must be seen, not read.

    >>> without_references("Cyst in segment 7 (series 3, image 47), unchanged.")
    'Cyst in segment 7, unchanged.'
    """
    return re.sub(r"\s+([.,;])", r"\1", re.sub(r"\s{2,}", " ", _REFERENCE.sub("", text))).strip()


class TextEncoder(nn.Module):
    """Sentence embeddings.

    Parameters
    ----------
    config: the keyword arguments of `transformers.BertConfig`.
    tokenizer: the content of a ``tokenizer.json``.
    """

    def __init__(self, config: dict[str, Any], tokenizer: str) -> None:
        super().__init__()
        self.config = dict(config)
        self.tokenizer_json = tokenizer
        self.bert = BertModel(BertConfig(**config), add_pooling_layer=False)
        self.bert.requires_grad_(False)
        self.bert.train(False)
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        self.width = int(config["hidden_size"])

    def train(self, mode: bool = True) -> TextEncoder:
        """Keep the frozen tower in evaluation mode (no dropout) whatever the model is in."""
        super().train(mode)
        self.bert.train(False)
        return self

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts.

        Parameters
        ----------
        texts: sentences; longer than 128 tokens is cut. Image references are taken out.

        Returns
        -------
        (N, width) float32, unit length.

        Raises
        ------
        ValueError: if there is no text or one is blank.
        """
        cleaned = [without_references(t) for t in texts]
        if not cleaned or not all(cleaned):
            raise ValueError("text is empty; give at least one word to look for")
        encoded = self._tokenizer.encode_batch(cleaned)
        device = self.bert.embeddings.word_embeddings.weight.device
        ids = torch.tensor([e.ids for e in encoded], device=device)  # (N, T)
        mask = torch.tensor([e.attention_mask for e in encoded], device=device)  # (N, T)
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (N, T, width)
        weights = mask[..., None].float()
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)  # (N, width)

    def mean(self, texts: Sequence[str]) -> torch.Tensor:
        """(1, width) unit length mean of several wordings (prompt averaging); raises as `forward`."""
        return F.normalize(self(texts).mean(0, keepdim=True), dim=-1)
