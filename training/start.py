"""What a run starts from: a new model, what an earlier stage learnt, and what of it is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core_model.checkpoint import read_weights
from core_model.model import ModelConfig, SightlineModel
from core_model.model_parts import modules_of
from training.settings import Settings
from training.text_tower import load_public_encoder

# What a later stage keeps of the stages before it, in its card.
STAGE_KEYS = ("steps", "batch", "hours", "hardware", "losses", "settings")


def new_model(settings: Settings) -> SightlineModel:
    """An untrained model around the pretrained text tower."""
    torch.manual_seed(settings.data["seed"])
    text_config, tokenizer, state = load_public_encoder()
    config = ModelConfig.from_dict({**settings.model_config(), "text": text_config})
    model = SightlineModel(config, tokenizer)
    model.text.bert.load_state_dict(state)
    model.channels_last()
    return model


def parameter_groups(model: nn.Module, scales: float) -> list[dict[str, Any]]:
    """What is trained, the learnable scales and biases of cosines apart.

    Adam moves every number by about the learning rate per step. That is a lot for a weight and nothing
    for a scale of 10 or a bias that starts at -10: in a short run cosines would stay as soft
    as they began. Our choice; CLIP learns the logarithm of its scale for far more steps.

    Parameters
    ----------
    scales: how many times as fast scales and biases are learnt; they do not decay.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim], "rate": 1.0},
        {"params": [p for p in trained if not p.ndim], "rate": scales, "weight_decay": 0.0},
    ]


def take_modules(model: SightlineModel, checkpoint: Path, settings: Settings) -> list[dict[str, Any]]:
    """Take the modules of an earlier checkpoint, each whole; one that does not fit stays new.

    A config's ``[optimiser] take`` names the parts to take; without it all are, but those of ``leave``,
    which begin anew.

    Returns
    -------
    The checkpoint's stages, as `training.run.Run.earlier` keeps them.

    Raises
    ------
    ValueError: if no tensor of the checkpoint fits.
    """
    tensors = read_weights(checkpoint)
    take = settings.optimiser.get("take")
    if take is not None:
        wanted = {"text", *modules_of(take)}
        tensors = {k: v for k, v in tensors.items() if k.split(".")[0] in wanted}
    anew = set(modules_of(settings.optimiser.get("leave", ())))
    tensors = {k: v for k, v in tensors.items() if k.split(".")[0] not in anew}
    own = model.state_dict()
    _keep_organ_head(model, tensors)
    new = {k.split(".")[0] for k, v in own.items() if k not in tensors or tensors[k].shape != v.shape}
    fitting = {k: v for k, v in tensors.items() if k in own and k.split(".")[0] not in new}
    if not fitting:
        raise ValueError(f"checkpoint {checkpoint} has no tensor that fits this model; name another")
    model.load_state_dict(fitting, strict=False)
    card = json.loads((checkpoint / "card.json").read_text(encoding="utf-8"))
    return [*card.get("earlier_stages", []), {k: card[k] for k in STAGE_KEYS if k in card}]


def _keep_organ_head(model: SightlineModel, tensors: dict[str, torch.Tensor]) -> None:
    """Give a model that keeps the organ head of its lesion decoder that of the checkpoint.

    Raises
    ------
    ValueError: if the checkpoint's decoder reads a kept head that the model has no place for.
    """
    kept = {k for k in tensors if k.startswith("kept_organ_head.")}
    if model.kept_organ_head is not None and not kept:
        head = "half_organ_head."
        tensors |= {k.replace(head, "kept_organ_head."): v for k, v in tensors.items() if k.startswith(head)}
    elif kept and model.kept_organ_head is None:
        raise ValueError(
            "the checkpoint's lesion decoder reads organs by a head of its own; "
            'set decoder_organs = "kept" in [model], or name "lesions" in [optimiser] leave to train it anew'
        )


__all__ = ["STAGE_KEYS", "new_model", "parameter_groups", "take_modules"]
