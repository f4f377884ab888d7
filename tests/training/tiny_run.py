"""Training runs small enough for tests: the tests' text tower, an anatomy of boxes, a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn
from torch import nn
from transformers import BertConfig, BertModel

from tests.tiny import tiny_config, tiny_text, tiny_tokenizer
from tests.training.small_anatomy import small_anatomy
from training import phantom_data, pretrain, start
from training.run import Run
from training.settings import Settings

CONFIGS = Path(pretrain.__file__).parent / "configs"


def tiny_public_encoder() -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What `load_public_encoder` gives, with a tower of the tests' size instead of the public one."""
    config, _ = tiny_text()
    bert = BertModel(BertConfig(**config), add_pooling_layer=False)
    return config, tiny_tokenizer(), bert.state_dict()


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `training.pretrain` start from the small tower and paint the anatomy of boxes."""
    monkeypatch.setattr(start, "load_public_encoder", tiny_public_encoder)
    # The procedural body takes seconds at 3 mm, and is tested by itself.
    monkeypatch.setattr(phantom_data, "procedural_anatomy", lambda rng, **_: small_anatomy(rng))


def small(settings: Settings, steps: int, **changes: Any) -> Settings:
    """A config with the tests' network and few steps; what it trains and how stays as it is."""
    kept = ("pooling", "projectors", "decoder_organs")
    forms = {k: v for k, v in settings.model.items() if k in kept}
    voxels = {"memory": 3, "first": 2, "per_update": 400, "updates": 2} if settings.lesion_voxels else {}
    return replace(
        settings,
        model={**tiny_config(), "spacing_mm": 6.0, **forms},
        data={**settings.data, "crops": 2, "workers": 0},
        optimiser={**settings.optimiser, "steps": steps, "warmup_steps": 2, "texts_per_step": 3},
        lesion_voxels=voxels,
        **changes,
    )


def small_config(name: str, steps: int, **changes: Any) -> Settings:
    """A committed config, made small."""
    return small(Settings.from_file(CONFIGS / name), steps, **changes)


def go(run: Run, stop_at: int | None = None) -> Run:
    """Resume and train without a terminal."""
    run.out.mkdir(parents=True, exist_ok=True)
    run.resume()
    with Progress(TextColumn("{task.fields[note]}"), console=Console(quiet=True)) as progress:
        run.train(progress, stop_at)
    return run


def descend(model: nn.Module, loss_of: Callable[[], torch.Tensor], steps: int, rate: float) -> list[float]:
    """The losses of some AdamW steps on what is trained of a model."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    totals = []
    for _ in range(steps):
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        totals.append(float(loss.detach()))
    return totals
