"""Checkpoints: what was saved comes back, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from core_model.checkpoint import (
    CheckpointError,
    digest,
    load_checkpoint,
    read_weights,
    save_checkpoint,
)
from tests.tiny import CARD, tiny_checkpoint, tiny_model

WORDS = "text.bert.embeddings.word_embeddings.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_round_trip_gives_the_same_outputs_at_half_precision(folder: Path) -> None:
    original = tiny_model()
    with torch.no_grad():
        for p in original.parameters():
            p.copy_(p.half().float())
        # Words are in bytes: the next test.
        original.text.load_state_dict(load_checkpoint(folder).model.text.state_dict())
    loaded = load_checkpoint(folder)
    torch.manual_seed(1)
    x = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        for a, b in (
            (original.encode_image(x).organ_logits, loaded.model.encode_image(x).organ_logits),
            (original.encode_image(x).grid, loaded.model.encode_image(x).grid),
            (
                original.encode_text(["Liver cyst."]).embedding,
                loaded.model.encode_text(["Liver cyst."]).embedding,
            ),
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_words_are_kept_in_bytes(folder: Path) -> None:
    rows = tiny_model().text.bert.embeddings.word_embeddings.weight
    with safe_open(folder / "model.safetensors", "pt") as held:
        assert held.get_tensor(WORDS).dtype == torch.int8
    loaded = read_weights(folder)[WORDS]
    step = (rows.abs().amax(1, keepdim=True) / 127).clamp_min(1e-6)  # the row of padding is zero
    assert float(((loaded - rows).abs() / step).max()) <= 0.51
    assert not torch.equal(loaded, rows)


def test_words_in_half_precision_are_read_as_well(folder: Path) -> None:
    """As Sightline wrote them before 0.6.0."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    before = read_weights(folder)
    step = tensors.pop(f"{WORDS}.step")
    tensors[WORDS] = (tensors[WORDS].float() * step.float()).half()
    save_file(tensors, file)
    after = read_weights(folder)
    assert before.keys() == after.keys()
    torch.testing.assert_close(after[WORDS], before[WORDS], rtol=1e-3, atol=0)


def test_saved_again_it_has_the_same_digest(folder: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(folder)
    again = save_checkpoint(loaded.model, loaded.card, tmp_path / "again")
    assert again == loaded.identity
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


def test_identity_comes_from_the_card(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert (loaded.identity.name, loaded.identity.version) == (CARD["name"], CARD["version"])
    assert loaded.identity.digest == loaded.card["digest"] == digest(folder)


def test_other_weights_have_another_digest(folder: Path, tmp_path: Path) -> None:
    assert tiny_checkpoint(tmp_path / "other", seed=1).digest != digest(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_changed_byte_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    at = next(i for i in range(len(content) - 5, 0, -1) if chr(content[i]).isdigit() or "safe" in name)
    content[at] = ord("7") if content[at] != ord("7") else ord("3")
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="damaged") as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "card.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name) as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": "x"}'])
def test_a_card_that_is_no_card(folder: Path, content: str) -> None:
    (folder / "card.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match="checkpoint"):
        load_checkpoint(folder)


def test_config_of_another_version(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "depth": 9}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="'depth'"):
        load_checkpoint(folder)


def test_weights_of_another_form_of_the_network(tmp_path: Path) -> None:
    model = tiny_model()
    del model.text_to_mask
    save_checkpoint(model, CARD, tmp_path)
    with pytest.raises(CheckpointError, match=r"tiny 0\.0\.1.*another form of the network"):
        load_checkpoint(tmp_path)


def test_card_needs_name_and_version(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'name' and 'version'"):
        save_checkpoint(tiny_model(), {"name": "x"}, tmp_path)


def test_there_is_no_pickle_in_it(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    header = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    tensors = json.loads(header[8 : 8 + length])
    assert {v["dtype"] for k, v in tensors.items() if k != "__metadata__"} <= {"F16", "I64", "I8"}
    for path in folder.iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK")), path.name
