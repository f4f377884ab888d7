"""One training run: the loop, its state, and what it saves.

Data is `training.samples` and its relatives, the objective is `training.objective`, processes and devices
are `training.parallel`. Saves a resumable state and a checkpoint (moving average of the weights) every few
minutes; a run that was interrupted and continued ends with the same weights as one that was not.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch.utils.data import DataLoader, IterableDataset

from core_model.abnormality import abnormalities
from core_model.checkpoint import save_checkpoint
from core_model.model import SightlineModel
from training.lesion_candidates import Candidates, candidate_objective, read_candidates
from training.lesion_voxels import Voxels, lesion_objective, read_voxels
from training.logbook import LogBook, NoLog, has_tensorboard
from training.mask_evidence import evidence_for
from training.parallel import Placement, Team, share_of
from training.passes import losses_in_passes, whole_objective
from training.phantom_data import phantom_crops
from training.run_card import card_of
from training.run_state import load_module_state, load_optimiser_state, module_state, optimiser_state
from training.samples import Crop, collate
from training.settings import Settings, learning_rate
from training.shard_crops import ShardCrops
from training.start import new_model, parameter_groups, take_modules
from training.step_progress import step_columns
from training.stored_windows import StoredWindows, window_files
from training.text_bank import TextBank
from training.throughput import Throughput
from training.volume_shards import Shards
from training.whole_files import whole_file
from training.window_memory import WindowMemory

SAVE_EVERY_S = 120.0
LOG_EVERY = 20  # steps


class Run:
    """One training run: model, moving average, optimiser, log; saved and resumed as a whole.

    Other kinds of training (`training.finetune`) say what differs: the model, data and losses.

    Parameters
    ----------
    placement: a device for one process, or a `Placement`. Of several processes each is a `Run` of its own.
    init: checkpoint of an earlier stage. windows: of `training.stored_windows`. shards: of
        `training.volume_shards`; with them phantoms are not painted.

    Raises
    ------
    ValueError: if the config, the placement, `init`, `windows` or `shards` do not fit together.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        label_maps: Sequence[Path],
        placement: str | Placement,
        *,
        init: Path | None = None,
        windows: Path | None = None,
        shards: Path | None = None,
    ) -> None:
        self.settings, self.out, self.label_maps = settings, out, list(label_maps)
        self.earlier: list[dict[str, Any]] = []
        self.placement = Placement(placement) if isinstance(placement, str) else placement
        if self.placement.accumulate > 1 and settings.records:
            raise ValueError("a stage on records makes one pass for each update; leave --accumulate out")
        fabric = self.placement.fabric()
        fabric.launch()
        self.team = Team(fabric)
        self.device = fabric.device
        self.share = share_of(settings.optimiser["batch"], self.team.size, self.placement.accumulate)
        self.model = self.start_model()
        if init is not None:
            self.earlier = take_modules(self.model, init, settings)
        self.model.freeze(settings.optimiser.get("freeze", ()))
        if "organ_heads" in settings.optimiser:
            self.model.thaw_organ_heads(settings.optimiser["organ_heads"])
        average = copy.deepcopy(self.model).requires_grad_(False)
        self.forward = self.team.forward_module(self.model)
        self.average = average.to(self.device)
        if self.placement.divides:
            self.team.forward_module(average)
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
        self.shards = Shards(shards) if shards is not None else None
        self.throughput = Throughput(int(settings.optimiser["batch"]))
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
        """This process's share of the crops that have not been read yet."""
        s, part = self.settings, (self.team.rank, self.team.size)
        if self.shards is not None:
            return ShardCrops(
                self.shards,
                s.model["window"],
                s.model["spacing_mm"],
                seed=s.data["seed"],
                start=self.read_batches,
                batch=int(s.optimiser["batch"]),
                part=part,
            )
        if not self.windows:
            return phantom_crops(s, self.label_maps, start=self.read_batches, batch=self.share, part=part)
        return StoredWindows(
            self.windows,
            seed=s.data["seed"],
            start=self.read_batches,
            batch=int(s.optimiser["batch"]),
            fine=bool(s.lesion_candidates) or "organs" in self.plan.losses,
            evidence=self.evidence,
            part=part,
        )

    def precision(self) -> torch.autocast:
        """Around passes of the model and its losses."""
        return self.placement.autocast(self.device)

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
            found |= whole_objective(self, bank, batch, rng)
        return found

    def rng(self, step: int) -> np.random.Generator:
        """The generator of a step."""
        return np.random.default_rng([self.settings.data["seed"], 99, step])

    @property
    def state_file(self) -> Path:
        """Where the resumable state lies."""
        return self.out / "state.pt"

    @property
    def _records_file(self) -> Path:
        """What this process alone remembers of windows."""
        return self.out / f"records-{self.team.rank}-of-{self.team.size}.pt"

    def resume(self) -> bool:
        """Load the state of an interrupted run, of whatever strategy and number of processes.

        Returns
        -------
        False if there is none.

        Raises
        ------
        ValueError: if it is the state of another model.
        """
        if not self.state_file.exists():
            return False
        state = torch.load(self.state_file, weights_only=True, map_location="cpu")
        load_module_state(self.model, state["model"])
        load_module_state(self.average, state["average"])
        load_optimiser_state(self.model, self.optimiser, state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
        self.running = state["running"]
        self.read_batches = state["read_batches"]
        if self.settings.records and self._records_file.exists():
            records = torch.load(self._records_file, weights_only=True, map_location=self.device)
            if records["read_batches"] == self.read_batches:  # else of another run of so many processes
                self.voxels.load_state_dict(records["voxels"])
                self.candidates.load_state_dict(records["candidates"])
        return True

    def save(self) -> None:
        """Write the resumable state (atomically) and the checkpoint. All processes must ask."""
        state: dict[str, Any] = {
            "model": module_state(self.model),
            "average": module_state(self.average),
            "optimiser": optimiser_state(self.model, self.optimiser),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "running": self.running,
            "read_batches": self.read_batches,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        if self.settings.records:
            kept = {"voxels": self.voxels.state_dict(), "candidates": self.candidates.state_dict()}
            _save({**kept, "read_batches": self.read_batches}, self._records_file)
        self.team.fabric.barrier()
        if self.team.rank == 0:
            average = self.average
            if self.placement.divides:
                average = self.start_model()
                load_module_state(average, state["average"])
            save_checkpoint(average, self.card(), self.out / "checkpoint")
            _save(state, self.state_file)
        self.team.fabric.barrier()

    def card(self) -> dict[str, Any]:
        """What the checkpoint says of itself."""
        return card_of(self)

    def train(self, progress: Progress, stop_at: int | None = None) -> None:
        """Train to the configured number of steps.

        Parameters
        ----------
        stop_at: save and return after this step, as an interruption would; nothing else differs.
        """
        s = self.settings
        end = min(s.optimiser["steps"], s.optimiser["steps"] if stop_at is None else stop_at)
        bank = self.text_bank()
        masks_frozen = {"encoder", "lesions"} <= set(s.optimiser.get("freeze", ()))
        if self.windows and masks_frozen and "findings" in self.plan.losses:
            self.evidence = evidence_for(self.model, self.windows, progress)
        loader = DataLoader(
            self.data(),
            batch_size=self.share,
            num_workers=s.data["workers"],
            collate_fn=collate,
            prefetch_factor=4 if s.data["workers"] else None,
        )
        shown = self.team.rank == 0
        task = progress.add_task(
            "training", total=s.optimiser["steps"], completed=self.step, note="", visible=shown
        )
        last = last_save = time.monotonic()
        self.model.train()
        with LogBook(self.out, self.step) if shown else NoLog() as log:
            batches = iter(loader)
            # Updates on what one patient shows would undo what was learnt from many.
            first = s.records.get("first", 0) if self.step < end else 0
            while self.read_batches < first:
                self.read(bank, next(batches).to(self.device))
            while self.step < end:
                with self.throughput.waiting():
                    batch = next(batches)
                losses = self.update(bank, batch, self.rng(self.step))
                now = time.monotonic()
                self.seconds += now - last
                last = now
                self.step += 1
                for key, value in losses.items():
                    self.running[key] = 0.97 * self.running.get(key, value) + 0.03 * value
                self.throughput.step()
                note = " ".join(f"{k} {v:.3f}" for k, v in self.running.items())
                rate = self.throughput.note(self.device)
                progress.update(task, completed=self.step, note=f"{rate}  {note}" if rate else note)
                if self.step % LOG_EVERY == 0:
                    self.history.append({"step": float(self.step), **self.running})
                    figures = self.throughput.figures(self.device)
                    figures |= {"seconds": self.seconds, "learning_rate": learning_rate(self.step, s)}
                    log.write(self.step, self.running, **figures)
                if self._all_agree(now - last_save > SAVE_EVERY_S):
                    self.save()
                    last_save = time.monotonic()
        self.save()

    def update(self, bank: TextBank, batch: Crop, rng: np.random.Generator) -> dict[str, float]:
        """What one batch teaches: one update, in the lesion stages as many as the config says."""
        batch = batch.to(self.device)
        if batch.evidence is not None:
            batch.evidence[:, self._unlearnt] = torch.nan
        self.read(bank, batch)
        updates = self.settings.records.get("updates", 1)
        return [self._descend(bank, batch, rng) for _ in range(updates)][-1]

    def text_bank(self) -> TextBank:
        """The dictionary's wordings, read by the text tower."""
        held = []
        self.forward(lambda: held.append(TextBank.of(self.model)))
        return held[0]

    def _all_agree(self, wish: bool) -> bool:
        """The first process's wish: clocks differ, and all must save at the same step."""
        return bool(self.team.fabric.broadcast(wish, src=0)) if self.team.size > 1 else wish

    def _descend(self, bank: TextBank, batch: Crop, rng: np.random.Generator) -> dict[str, float]:
        s = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, s) * group["rate"]
        self.optimiser.zero_grad(set_to_none=True)
        if self.placement.accumulate > 1:
            losses = losses_in_passes(self, bank, batch, rng)
        else:
            with self.precision():
                losses = self.forward(partial(self.losses, bank, batch, rng))
            self.team.fabric.backward(self.total(losses))
        self.team.clip(self.model, s.optimiser["clip"])
        self.optimiser.step()
        decay = min(s.optimiser["ema"], (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - decay)
        return {name: float(value.detach()) for name, value in losses.items()}

    def total(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum of a step's losses."""
        return sum(
            (losses[name] * weight for name, weight in self.settings.weights().items() if name in losses),
            torch.zeros((), device=self.device),
        )


def _save(state: dict[str, Any], path: Path) -> None:
    with whole_file(path) as part:
        torch.save(state, part)


def follow(run: Run) -> None:
    """Resume and train a run with a progress bar on the terminal."""
    resumed = run.resume()
    with Progress(*step_columns()) as progress:
        console = progress.console
        console.print(f"{'resumed at step ' + str(run.step) if resumed else 'new run'} in {run.out}")
        if not has_tensorboard():
            console.print("no TensorBoard logs: the package tensorboard (extra 'train') is not installed")
        run.train(progress)


__all__ = ["Run", "follow"]
