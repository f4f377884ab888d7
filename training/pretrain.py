"""Grounded pretraining on phantoms: ``python -m training.pretrain --out runs/first``.

The loop only: data is `training.samples`, the objective is `training.objective`. Saves a
resumable state and a checkpoint (moving average of the weights) every few minutes; a run that was
interrupted and continued ends with the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from core_model.abnormality import abnormalities
from core_model.checkpoint import save_checkpoint
from core_model.inference import supports_bf16
from core_model.model import ModelConfig, SightlineModel, modules_of
from training.lesion_candidates import Candidates, candidate_objective, read_candidates
from training.lesion_voxels import Voxels, lesion_objective, read_voxels
from training.logbook import LogBook, has_tensorboard
from training.mask_evidence import evidence_for
from training.objective import objective
from training.phantom_data import phantom_crops
from training.samples import Crop, collate
from training.settings import Settings, Switches, learning_rate
from training.stored_windows import StoredWindows, window_files
from training.text_bank import TextBank
from training.text_tower import load_public_encoder
from training.window_memory import WindowMemory

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "pretrain.toml"
SAVE_EVERY_S = 120.0
LOG_EVERY = 20  # steps
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


class Run:
    """One training run: model, moving average, optimiser, log; saved and resumed as a whole.

    Other kinds of training (`training.finetune`) say what differs: the model, data and losses.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        label_maps: Sequence[Path],
        device: str,
        *,
        init: Path | None = None,
        windows: Path | None = None,
    ) -> None:
        self.settings, self.out, self.label_maps = settings, out, list(label_maps)
        self.earlier: list[dict[str, Any]] = []
        self.device = torch.device(device)
        self.model = self.start_model()
        if init is not None:
            self._start_from(init)
        self.model.freeze(settings.optimiser.get("freeze", ()))
        self.model = self.model.to(self.device)
        self.average = copy.deepcopy(self.model)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.model, float(settings.optimiser.get("scales", 1.0))),
            weight_decay=settings.optimiser["weight_decay"],
        )
        kept = settings.records.get("memory", 0)
        self.voxels = WindowMemory(Voxels, kept)
        self.candidates = WindowMemory(Candidates, kept, per_draw=kept)
        self.read_batches = 0
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.running: dict[str, float] = {}
        self.plan = settings.plan()
        # What frozen masks have not learnt, the heads above them cannot weigh.
        self.learnt: list[str] = settings.data.get("abnormalities", [a.name for a in abnormalities()])
        self._unlearnt = [i for i, a in enumerate(abnormalities()) if a.name not in self.learnt]
        self.windows = self._own_windows(windows) if windows is not None else []
        self.evidence: dict[str, torch.Tensor] | None = None

    def start_model(self) -> SightlineModel:
        """The model before the first step, on the CPU."""
        return new_model(self.settings)

    def _own_windows(self, folder: Path) -> list[Path]:
        """The stored windows that the config's data section gives this stage."""
        s = self.settings
        if "encoder" not in s.optimiser.get("freeze", ()):
            raise ValueError(f"config {s.name!r} trains the encoder; stored windows need it frozen")
        files = window_files(folder, self.model)
        first, last = (round(len(files) * share) for share in s.data.get("windows", (0.0, 1.0)))
        if first >= last:
            raise ValueError(
                f"config {s.name!r} takes none of the {len(files)} windows in {folder}; store more"
            )
        return files[first:last]

    def data(self) -> IterableDataset[Crop]:
        """The samples that have not been read yet."""
        s, batch = self.settings, int(self.settings.optimiser["batch"])
        if not self.windows:
            return phantom_crops(s, self.label_maps, start=self.read_batches, batch=batch)
        return StoredWindows(
            self.windows,
            seed=s.data["seed"],
            start=self.read_batches,
            batch=batch,
            fine=bool(s.lesion_candidates),
            evidence=self.evidence,
        )

    def precision(self) -> torch.autocast:
        """bfloat16 where it is fast: without hardware for it a step takes minutes."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=supports_bf16(self.device))

    def read(self, bank: TextBank, batch: Crop) -> None:
        """What is done once with a batch before updates: voxels or candidates of it into the memory."""
        rng = np.random.default_rng([self.settings.data["seed"], 98, self.read_batches])
        with self.precision():
            if self.settings.lesion_voxels:
                self.voxels.add(read_voxels(self.model, bank, batch, rng))
            if self.settings.lesion_candidates:
                threshold = self.settings.lesion_candidates["threshold"]
                self.candidates.add(read_candidates(self.model, bank, batch, rng, threshold))
        self.read_batches += 1

    def losses(self, bank: TextBank, batch: Crop, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The losses of one update by name."""
        s, found = self.settings, {}
        if s.lesion_voxels:
            voxels = self.voxels.draw(rng, s.lesion_voxels["per_update"])
            found = lesion_objective(self.model, bank, voxels, rng)
        if s.lesion_candidates:
            candidates = self.candidates.draw(rng, s.lesion_candidates["per_update"])
            found = candidate_objective(self.model, bank, candidates, rng)
        if self.plan.losses:
            found |= objective(self.model, bank, batch, rng, self.plan)
        return found

    def rng(self, step: int) -> np.random.Generator:
        """The generator of a step."""
        return np.random.default_rng([self.settings.data["seed"], 99, step])

    def _start_from(self, checkpoint: Path) -> None:
        """Take the modules of an earlier checkpoint, each whole; one that does not fit stays new.

        A config's ``[optimiser] take`` names the parts to take; without it all are, but those of ``leave``,
        which begin anew.
        """
        tensors = load_file(checkpoint / "model.safetensors")
        take = self.settings.optimiser.get("take")
        if take is not None:
            wanted = {"text", *modules_of(take)}
            tensors = {k: v for k, v in tensors.items() if k.split(".")[0] in wanted}
        anew = set(modules_of(self.settings.optimiser.get("leave", ())))
        tensors = {k: v for k, v in tensors.items() if k.split(".")[0] not in anew}
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
        self.running = state["running"]
        self.voxels.load_state_dict(state["voxels"])
        self.candidates.load_state_dict(state["candidates"])
        self.read_batches = state["read_batches"]
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
            "running": self.running,
            "voxels": self.voxels.state_dict(),
            "candidates": self.candidates.state_dict(),
            "read_batches": self.read_batches,
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
            "limits": [
                "learnt from synthetic CT only; patients and scanners differ in more than was varied",
                f"reads voxels of {self.model.config.spacing_mm:g} mm: small lesions and thin structures are "
                "missed or coarse",
                "figures of phantoms say nothing of lesions on real CT",
            ],
            "abnormalities": self.learnt,
            "steps": self.step,
            "batch": s.optimiser["batch"],
            "hours": round(self.seconds / 3600, 2),
            "hardware": f"{self.device.type}, {torch.get_num_threads()} threads",
            "losses": self.history[-1] if self.history else {},
            "earlier_stages": self.earlier,
            "text_encoder": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), ASCII vocabulary, frozen",
            "settings": {"data": s.data, "optimiser": s.optimiser, "loss": s.loss, "switches": s.switches},
        }

    def train(self, progress: Progress, stop_at: int | None = None) -> None:
        """Train to the configured number of steps.

        Parameters
        ----------
        stop_at: save and return after this step, as an interruption would; nothing else differs.
        """
        s = self.settings
        end = min(s.optimiser["steps"], s.optimiser["steps"] if stop_at is None else stop_at)
        bank = TextBank.of(self.model)
        masks_frozen = {"encoder", "lesions"} <= set(s.optimiser.get("freeze", ()))
        if self.windows and masks_frozen and "findings" in self.plan.losses:
            self.evidence = evidence_for(self.model, self.windows, progress)
        loader = DataLoader(
            self.data(),
            batch_size=int(s.optimiser["batch"]),
            num_workers=s.data["workers"],
            collate_fn=collate,
            prefetch_factor=4 if s.data["workers"] else None,
        )
        task = progress.add_task("training", total=s.optimiser["steps"], completed=self.step, note="")
        last = last_save = time.monotonic()
        self.model.train()
        with LogBook(self.out, self.step) as log:
            batches = iter(loader)
            # Updates on what one patient shows would undo what was learnt from many.
            first = s.records.get("first", 0) if self.step < end else 0
            while self.read_batches < first:
                self.read(bank, next(batches).to(self.device))
            while self.step < end:
                losses = self._update(bank, next(batches), self.rng(self.step))
                now = time.monotonic()
                self.seconds += now - last
                last = now
                self.step += 1
                for key, value in losses.items():
                    self.running[key] = 0.97 * self.running.get(key, value) + 0.03 * value
                note = " ".join(f"{k} {v:.3f}" for k, v in self.running.items())
                progress.update(task, completed=self.step, note=note)
                if self.step % LOG_EVERY == 0:
                    self.history.append({"step": float(self.step), **self.running})
                    rate = learning_rate(self.step, s)
                    log.write(self.step, self.running, seconds=self.seconds, learning_rate=rate)
                if now - last_save > SAVE_EVERY_S:
                    self.save()
                    last_save = time.monotonic()
        self.save()

    def _update(self, bank: TextBank, batch: Crop, rng: np.random.Generator) -> dict[str, float]:
        """What one batch teaches: one update, in the lesion stages as many as the config says."""
        batch = batch.to(self.device)
        if batch.evidence is not None:
            batch.evidence[:, self._unlearnt] = torch.nan
        self.read(bank, batch)
        updates = self.settings.records.get("updates", 1)
        return [self._descend(bank, batch, rng) for _ in range(updates)][-1]

    def _descend(self, bank: TextBank, batch: Crop, rng: np.random.Generator) -> dict[str, float]:
        s = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, s) * group["rate"]
        with self.precision():
            losses = self.losses(bank, batch, rng)
        total = sum(
            (losses[name] * weight for name, weight in s.weights().items() if name in losses),
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


def run_command(
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    change: Callable[[Settings, bool], Settings] | None = None,
) -> None:
    """The command line of a run from a config.

    Parameters
    ----------
    change: what makes another run of the config's; told whether its encoder stays as it is.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{description} Interrupt it at will: the same command goes on.",
        epilog=f"example: {prog} --out runs/first --label-maps path/to/label_maps",
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
    parser.add_argument(
        "--windows",
        type=Path,
        metavar="DIR",
        help="of training.stored_windows, for a config that freezes the encoder of --init",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=list(Switches.__dataclass_fields__),
        help="turn a switch of the config off, for an ablation; may be repeated",
    )
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the config's")
    parser.add_argument("--seed", type=int, help="of weights and data, instead of the config's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    try:
        settings = Settings.from_file(args.config)
        settings = _without(settings, args.without)
        settings = settings if change is None else change(settings, args.windows is not None)
    except ValueError as error:
        parser.error(str(error))
    if args.steps is not None:
        settings = replace(settings, optimiser={**settings.optimiser, "steps": args.steps})
    if args.seed is not None:
        settings = replace(settings, data={**settings.data, "seed": args.seed})
    try:
        run = Run(settings, args.out, args.label_maps, args.device, init=args.init, windows=args.windows)
    except ValueError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    follow(run)


def _without(settings: Settings, switches: Sequence[str]) -> Settings:
    if not switches:
        return settings
    name = "-".join([settings.name, "without", *switches])
    return replace(settings, name=name, switches={**settings.switches, **dict.fromkeys(switches, False)})


def follow(run: Run) -> None:
    """Resume and train a run with a progress bar on the terminal."""
    resumed = run.resume()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        console = progress.console
        console.print(f"{'resumed at step ' + str(run.step) if resumed else 'new run'} in {run.out}")
        if not has_tensorboard():
            console.print("no TensorBoard logs: the package tensorboard (extra 'train') is not installed")
        run.train(progress)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    run_command(arguments, prog="python -m training.pretrain", description="Pretrain the model on phantoms.")


__all__ = ["DEFAULT_CONFIG", "Run", "Settings", "follow", "learning_rate", "run_command"]


if __name__ == "__main__":
    main()
