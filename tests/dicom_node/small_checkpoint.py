"""A real but untrained checkpoint, small enough to be made in a second.

For tests of everything round the model: what it says is noise, how it says it is the contract.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from core_model.abnormality import abnormalities
from core_model.checkpoint import save_checkpoint
from core_model.model import ModelConfig, SightlineModel

_SPECIAL = ["[PAD]", "[UNK]"]


def write_small_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Write the checkpoint into `folder` and return it."""
    words = {w for a in abnormalities() for text in (*a.present, *a.absent) for w in text.lower().split()}
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *sorted(words)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    torch.manual_seed(seed)
    model = SightlineModel(
        ModelConfig(spacing_mm=8.0, window=(32, 32, 32), channels=(8, 16, 24, 32, 32), text=text),
        tokenizer.to_str(),
    )
    save_checkpoint(model, {"name": "untrained", "version": "0"}, folder)
    return folder
