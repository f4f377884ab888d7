"""Checkpoints: a folder of safetensors, config, tokenizer and card; never pickle.

``model.safetensors`` (half precision; word embeddings, the largest tensor, in bytes),
``config.json`` (`ModelConfig`), ``tokenizer.json``, ``card.json`` (what it is, data, metrics,
calibration, thresholds, limits). The digest in the card covers tensors, config and tokenizer and
is verified on loading.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from core_model.model import ModelConfig, SightlineModel
from core_model.reading import ModelIdentity

# A third of all weights, of which a text reads a few rows: kept as steps of each row's greatest weight.
_IN_BYTES = "text.bert.embeddings.word_embeddings.weight"
_STEPS = 127
_DIGESTED = ("model.safetensors", "config.json", "tokenizer.json")


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes
    ----------
    model: in evaluation mode, on the CPU, float32.
    card: the content of ``card.json``.
    identity: name, version and verified digest.
    """

    model: SightlineModel
    card: dict[str, Any]
    identity: ModelIdentity


def default_checkpoint() -> Path:
    """The folder of the checkpoint that ships with the package."""
    return Path(str(resources.files("core_model") / "checkpoints" / "default"))


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of tensors, config and tokenizer."""
    total = hashlib.sha256()
    for name in _DIGESTED:
        total.update(name.encode())
        total.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()


def save_checkpoint(model: SightlineModel, card: dict[str, Any], folder: Path) -> ModelIdentity:
    """Write a checkpoint folder; half precision (word embeddings: bytes), the digest goes into the card.

    Parameters
    ----------
    card: needs the keys "name" and "version"; "digest" is set here.

    Raises
    ------
    ValueError: if the card lacks its name or version.
    """
    if not {"name", "version"} <= card.keys():
        raise ValueError(f"card has keys {sorted(card)}; it needs 'name' and 'version'")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_packed(model.state_dict()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1), encoding="utf-8")
    (folder / "tokenizer.json").write_text(model.text.tokenizer_json, encoding="utf-8")
    card = {**card, "digest": digest(folder)}
    (folder / "card.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    return ModelIdentity(card["name"], card["version"], card["digest"])


def _packed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as they are stored; packing what was unpacked gives the same again."""
    kept = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in weights.items()}
    if _IN_BYTES in weights:
        rows = weights[_IN_BYTES].float()
        step = (rows.abs().amax(1, keepdim=True) / _STEPS).half().clamp_min(torch.finfo(torch.half).tiny)
        kept[_IN_BYTES] = (rows / step.float()).round().clamp(-_STEPS, _STEPS).to(torch.int8)
        kept[f"{_IN_BYTES}.step"] = step
    return kept


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The float32 weights of a checkpoint folder by name, which is not verified.

    Checkpoints before 0.6.0 have their word embeddings in half precision.
    """
    kept = load_file(folder / "model.safetensors")
    weights = {k: v.float() if v.is_floating_point() else v for k, v in kept.items()}
    step = weights.pop(f"{_IN_BYTES}.step", None)
    if step is not None:
        weights[_IN_BYTES] = weights[_IN_BYTES].float() * step
    return weights


def load_checkpoint(folder: Path | None = None) -> Checkpoint:
    """Read and verify a checkpoint folder.

    Parameters
    ----------
    folder: None takes the shipped one.

    Raises
    ------
    CheckpointError: if a file is missing, not readable, or the digest does not match, or the weights are
        those of another form of the network.
    """
    folder = folder or default_checkpoint()
    missing = [n for n in (*_DIGESTED, "card.json") if not (folder / n).is_file()]
    if missing:
        raise CheckpointError(
            f"checkpoint {folder} lacks {', '.join(missing)}; name a folder that training.pretrain wrote"
        )
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        config = ModelConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except ValueError as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    if not isinstance(card, dict) or not {"name", "version"} <= card.keys():
        raise CheckpointError(f"checkpoint {folder}: card.json lacks 'name' or 'version'; copy it again")
    found = digest(folder)
    if card.get("digest") != found:
        raise CheckpointError(
            f"checkpoint {folder} is damaged: its files have digest {found[:12]}, its card says "
            f"{str(card.get('digest'))[:12]}; copy it again"
        )
    model = SightlineModel(config, (folder / "tokenizer.json").read_text(encoding="utf-8"))
    weights = read_weights(folder)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint {folder} ({card['name']} {card['version']}) was trained for another form of the "
            "network; use the Sightline that it came with, or train it anew (README)"
        ) from error
    model.eval()
    identity = ModelIdentity(str(card["name"]), str(card["version"]), found)
    return Checkpoint(model=model, card=card, identity=identity)
