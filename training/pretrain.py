"""Grounded pretraining on phantoms: ``python -m training.pretrain --out runs/first``.

The loop only: data is `training.samples`, the objective is `training.objective`. Saves a
resumable state and a checkpoint (moving average of the weights) every few minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from core_model.abnormality import abnormalities
from core_model.checkpoint import save_checkpoint
from core_model.inference import supports_bf16
from core_model.model import ModelConfig, SightlineModel
from training.lesion_boxes import lesion_objective
from training.objective import TextBank, objective
from training.phantoms.labelmaps import LabelMapAnatomy, load_folder
from training.phantoms.procedural import procedural_anatomy
from training.phantoms.tissues import Anatomy
from training.samples import AnatomySource, PhantomCrops, Sample, collate
from training.text_tower import load_public_encoder

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "pretrain.toml"
SAVE_EVERY_S = 120.0
# What a later stage keeps of the stages before it, in its card.
STAGE_KEYS = ("steps", "batch", "hours", "hardware", "losses", "settings")


@dataclass(frozen=True)
class Settings:
    """The content of a training config (see ``training/configs/pretrain.toml``)."""

    name: str
    version: str
    model: dict[str, Any]
    data: dict[str, Any]
    optimiser: dict[str, Any]
    loss: dict[str, float]
    lesion_boxes: dict[str, int] | None = None

    @classmethod
    def from_file(cls, path: Path) -> Settings:
        """Read a TOML file.

        Raises
        ------
        ValueError: if a section is unknown or missing; the message names it.
        """
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        wrong = (set(values) ^ set(cls.__dataclass_fields__)) - {"lesion_boxes"}
        if wrong:
            raise ValueError(f"config {path}: section {sorted(wrong)[0]!r} is unknown or missing")
        return cls(**values)


def _sample_label_map(anatomy: LabelMapAnatomy, height_mm: float, rng: np.random.Generator) -> Anatomy:
    return anatomy.sample(rng, height_mm)


def _sample_procedural(height_mm: float, rng: np.random.Generator) -> Anatomy:
    return procedural_anatomy(rng, spacing_mm=3.0, height_mm=height_mm)


def anatomy_sources(settings: Settings, folders: Sequence[Path]) -> list[tuple[AnatomySource, float]]:
    """Sources with their shares: the label maps in `folders`, and the procedural body."""
    data = settings.data
    maps = load_folder(folders, data["label_map_spacing_mm"]) if folders else []
    share = data["label_map_share"] if maps else 0.0
    sources: list[tuple[AnatomySource, float]] = [
        (partial(_sample_label_map, m, data["height_mm"]), share / len(maps)) for m in maps
    ]
    sources.append((partial(_sample_procedural, data["height_mm"]), 1.0 - share))
    return sources


def new_model(settings: Settings) -> SightlineModel:
    """An untrained model around the pretrained text tower."""
    torch.manual_seed(settings.data["seed"])
    text_config, tokenizer, state = load_public_encoder()
    config = ModelConfig.from_dict({**settings.model, "text": text_config})
    model = SightlineModel(config, tokenizer)
    model.text.bert.load_state_dict(state)
    model.channels_last()
    return model


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine to a hundredth of the peak."""
    o = settings.optimiser
    if step < o["warmup_steps"]:
        return float(o["learning_rate"] * (step + 1) / o["warmup_steps"])
    progress = (step - o["warmup_steps"]) / max(1, o["steps"] - o["warmup_steps"])
    return float(o["learning_rate"] * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))))


class Run:
    """One training run: model, moving average, optimiser, log; saved and resumed as a whole."""

    def __init__(
        self,
        settings: Settings,
        out: Path,
        label_maps: Sequence[Path],
        device: str,
        init: Path | None = None,
    ) -> None:
        self.settings, self.out, self.label_maps = settings, out, list(label_maps)
        self.earlier: list[dict[str, Any]] = []
        self.device = torch.device(device)
        self.model = new_model(settings)
        if init is not None:
            self._start_from(init)
        self.model.freeze(settings.optimiser.get("freeze", ()))
        self.model = self.model.to(self.device)
        self.average = copy.deepcopy(self.model)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, weight_decay=settings.optimiser["weight_decay"])
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    def _start_from(self, checkpoint: Path) -> None:
        """Take the parts of an earlier checkpoint, each whole; one that does not fit stays new."""
        tensors = load_file(checkpoint / "model.safetensors")
        own = self.model.state_dict()
        new = {k.split(".")[0] for k, v in own.items() if k not in tensors or tensors[k].shape != v.shape}
        fitting = {k: v.float() for k, v in tensors.items() if k in own and k.split(".")[0] not in new}
        if not fitting:
            raise ValueError(f"checkpoint {checkpoint} has no tensor that fits this model; name another")
        self.model.load_state_dict(fitting, strict=False)
        card = json.loads((checkpoint / "card.json").read_text(encoding="utf-8"))
        self.earlier = [*card.get("earlier_stages", []), {k: card[k] for k in STAGE_KEYS if k in card}]

    @property
    def state_file(self) -> Path:
        """Where the resumable state lies."""
        return self.out / "state.pt"

    def resume(self) -> bool:
        """Load the state of an interrupted run; False if there is none."""
        if not self.state_file.exists():
            return False
        state = torch.load(self.state_file, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
        return True

    def save(self) -> None:
        """Write the resumable state (atomically) and the checkpoint."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        part = self.state_file.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.state_file)
        save_checkpoint(self.average, self.card(), self.out / "checkpoint")

    def card(self) -> dict[str, Any]:
        """What the checkpoint says of itself."""
        s = self.settings
        return {
            "name": s.name,
            "version": s.version,
            "description": "Research model trained on synthetic CT only. Not a medical device.",
            "data": {
                "phantoms": "label maps" if self.label_maps else "procedural",
                "label_map_share": s.data["label_map_share"] if self.label_maps else 0.0,
                "seed": s.data["seed"],
                "real_images": 0,
            },
            "abnormalities": [a.name for a in abnormalities()],
            "steps": self.step,
            "batch": s.optimiser["batch"],
            "hours": round(self.seconds / 3600, 2),
            "hardware": f"{self.device.type}, {torch.get_num_threads()} threads",
            "losses": self.history[-1] if self.history else {},
            "earlier_stages": self.earlier,
            "text_encoder": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), ASCII vocabulary, frozen",
            "settings": {"data": s.data, "optimiser": s.optimiser, "loss": s.loss},
        }

    def train(self, progress: Progress) -> None:
        """Train to the configured number of steps."""
        s = self.settings
        batch_size = int(s.optimiser["batch"])
        bank = TextBank.of(self.model)
        stream = PhantomCrops(
            anatomy_sources(s, self.label_maps),
            self.model.config.window,
            self.model.config.spacing_mm,
            seed=s.data["seed"],
            # Phantoms already seen before an interruption are not painted again.
            start=self.step * batch_size // int(s.data["crops"]),
            crops=s.data["crops"],
        )
        loader = DataLoader(
            stream,
            batch_size=batch_size,
            num_workers=s.data["workers"],
            collate_fn=collate,
            prefetch_factor=4 if s.data["workers"] else None,
        )
        task = progress.add_task("training", total=s.optimiser["steps"], completed=self.step, note="")
        running: dict[str, float] = {}
        last = last_save = time.monotonic()
        self.model.train()
        for batch in loader:
            if self.step >= s.optimiser["steps"]:
                break
            rng = np.random.default_rng([s.data["seed"], 99, self.step])
            losses = self._update(bank, batch, rng)
            now = time.monotonic()
            self.seconds += now - last
            last = now
            self.step += 1
            for key, value in losses.items():
                running[key] = 0.97 * running.get(key, value) + 0.03 * value
            note = " ".join(f"{k} {v:.3f}" for k, v in running.items())
            progress.update(task, completed=self.step, note=note)
            if self.step % 20 == 0:
                self.history.append({"step": float(self.step), **running})
                with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps({**self.history[-1], "seconds": self.seconds}) + "\n")
            if now - last_save > SAVE_EVERY_S:
                self.save()
                last_save = time.monotonic()
        self.save()

    def _update(self, bank: TextBank, batch: Sample, rng: np.random.Generator) -> dict[str, float]:
        s = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, s)
        batch = batch.to(self.device)
        # Without hardware for it bfloat16 is emulated, and a step takes minutes.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=supports_bf16(self.device)):
            if s.lesion_boxes is not None:
                losses = lesion_objective(
                    self.model, bank, batch, rng, n=s.lesion_boxes["count"], side=s.lesion_boxes["side"]
                )
            else:
                losses = objective(self.model, bank, batch, rng, s.optimiser["texts_per_step"])
        total = sum(
            (losses[name] * weight for name, weight in s.loss.items() if name in losses),
            torch.zeros((), device=self.device),
        )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), s.optimiser["clip"])
        self.optimiser.step()
        decay = min(s.optimiser["ema"], (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - decay)
        return {name: float(value.detach()) for name, value in losses.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.pretrain",
        description="Pretrain the model on phantoms. Interrupt it at will: the same command goes on.",
        epilog="example: python -m training.pretrain --out runs/first --label-maps path/to/label_maps",
    )
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="TOML file (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log and checkpoint")
    parser.add_argument(
        "--label-maps",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of TotalSegmentator v2 label maps (*.nii.gz); may be repeated",
    )
    parser.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from an earlier stage")
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the config's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    settings = Settings.from_file(args.config)
    if args.steps is not None:
        settings.optimiser["steps"] = args.steps
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(settings, args.out, args.label_maps, args.device, args.init)
    resumed = run.resume()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        progress.console.print(
            f"{'resumed at step ' + str(run.step) if resumed else 'new run'} in {args.out}"
        )
        run.train(progress)


if __name__ == "__main__":
    main()
