"""A model small enough for tests: every part is real, only the widths are small.

Weights are random, so what it says of a scan means nothing; shapes, geometry, files and errors
are those of a trained model. No network: the tokenizer is trained on the dictionary here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.checkpoint import save_checkpoint
from core_model.model import ModelConfig, SightlineModel
from core_model.reading import ModelIdentity

CARD: dict[str, Any] = {"name": "tiny", "version": "0.0.1", "description": "Untrained; for tests."}


def tiny_tokenizer() -> str:
    """A WordPiece ``tokenizer.json``: the dictionary's words, and letters for all others."""
    pre = pre_tokenizers.BertPreTokenizer()
    texts = [t for a in abnormalities() for t in (*a.present, *a.absent)] + [o.display for o in organs()]
    words = sorted({word for text in texts for word, _ in pre.pre_tokenize_str(text.lower())})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:()/%-"
    pieces = [*letters, *(f"##{c}" for c in letters)]
    vocabulary: dict[str, int] = {}
    for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces, *words):
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return str(tokenizer.to_str())


def tiny_text() -> tuple[dict[str, Any], str]:
    """(BertConfig keyword arguments, tokenizer.json text) of the tiny text tower."""
    tokenizer = tiny_tokenizer()
    config = {
        "vocab_size": Tokenizer.from_str(tokenizer).get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    }
    return config, tokenizer


def tiny_config() -> dict[str, Any]:
    """`ModelConfig` keyword arguments without the text tower."""
    return {
        "spacing_mm": 8.0,
        "window": [16, 32, 32],
        "channels": [8, 8, 16, 16],
        "width": 16,
        "dense_width": 8,
    }


def tiny_model(seed: int = 0, **config: Any) -> SightlineModel:
    """An untrained model in evaluation mode; the same seed gives the same weights.

    `config` replaces values of `tiny_config`.
    """
    text, tokenizer = tiny_text()
    torch.manual_seed(seed)
    model = SightlineModel(ModelConfig.from_dict({**tiny_config(), "text": text, **config}), tokenizer)
    with torch.no_grad():
        model.image.organ_head.weight.mul_(8)  # untrained logits hardly differ: let organs win by more
    model.train(False)
    return model


def tiny_checkpoint(folder: Path, seed: int = 0, **card: Any) -> ModelIdentity:
    """Save `tiny_model` as a checkpoint in `folder`."""
    return save_checkpoint(tiny_model(seed), {**CARD, **card}, folder)


def body_volume(
    shape: tuple[int, int, int] = (24, 30, 34), spacing_mm: tuple[float, float, float] = (8.0, 8.0, 8.0)
) -> hd.Volume:
    """HU of an elliptic cylinder of soft tissue with two dark lungs, in air, axes "HPL"."""
    depth, height, width = shape
    z, y, x = np.meshgrid(
        np.linspace(-1, 1, depth), np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"
    )
    hu = np.full(shape, -1000.0, dtype=np.float32)
    hu[(y / 0.7) ** 2 + (x / 0.85) ** 2 < 1] = 50
    for side in (-0.4, 0.4):
        hu[(y / 0.4) ** 2 + ((x - side) / 0.25) ** 2 + ((z - 0.6) / 0.5) ** 2 < 1] = -800
    hu += np.random.default_rng(5).normal(0, 8, shape).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) @ np.diag(spacing_mm)
    affine[:3, 3] = (-120.0, -90.0, -400.0)
    return hd.Volume(hu, affine, coordinate_system="PATIENT")
