"""Train the second look: ``python -m training.second_look CHECKPOINT --patients DIR --out DIR``.

A stage of its own on whole patients (`training.stored_patients`), after all others: whatever changes encoder
or first masks changes what it reads. Cross entropy over all abnormalities and "none", and Dice of each that a
batch shows. Interrupt it at will: the same command goes on, with the same crops and weights as without.
Thresholds are set afterwards (`training.calibrate`). Fine-tuning (`training.finetune`) leaves the second look
as it is, and has what it taught keep its first masks.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

from core_model.anatomy import organ, organs
from core_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core_model.inference import choose_device, describe_device
from core_model.memory import keep_memory
from core_model.model import SightlineModel
from core_model.reader import searched
from core_model.second_look import FOLD, SecondLook, corner_of, look_channels
from training.logbook import LogBook
from training.look_settings import LookSettings
from training.parallel import trains_in_bf16
from training.patient_crops import PatientCrops, first_logits
from training.phantoms.tissues import IGNORE
from training.run_state import load_module_state, load_optimiser_state, module_state, optimiser_state
from training.step_progress import step_columns
from training.stored_patients import patient_files
from training.whole_files import whole_file

CONFIG = Path(__file__).parent / "configs" / "second_look.toml"
STATE = "state.pt"
LOG_EVERY, SAVE_EVERY_S = 20, 120.0
# Of the card before, what is no longer true of a model that draws its masks again.
LEFT_OUT = ("thresholds", "calibration", "metrics", "digest")


def look_losses(
    logits: torch.Tensor, kind: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy and Dice loss.

    Parameters
    ----------
    logits: (B, 1 + K, D, H, W) of `SecondLook`.
    kind: (B, D, H, W) 0 none, 1 + k.
    weight: (B, D, H, W) how much each voxel counts in the cross entropy; 0: it is not known, and counts in
        neither.

    Returns
    -------
    The mean of the weighted cross entropy, and the mean over the abnormalities that the batch shows of one
    minus their Dice (with squares, as V-Net's); 0 where it shows none.
    """
    classes = logits.shape[1]
    true = kind.long()[:, None]  # (B, 1, D, H, W)
    # A softmax over a few channels that lie side by side takes three times as long on a CPU.
    log = logits.contiguous().float().log_softmax(1)  # (B, 1 + K, D, H, W)
    own = log.gather(1, true)[:, 0]
    entropy = -(own * weight).mean()
    known = (weight > 0).to(log)  # (B, D, H, W)
    count = log.new_zeros(classes).index_add(0, true.flatten(), known.flatten())  # (1 + K,)
    shared = log.new_zeros(classes).index_add(0, true.flatten(), (own.exp() * known).flatten())
    drawn = (log.exp().square() * known[:, None]).sum((0, 2, 3, 4))
    missed = 1 - (2 * shared + 1) / (drawn + count + 1)
    shown = count > 0
    shown[0] = False
    return entropy, (missed * shown).sum() / shown.sum().clamp_min(1)


class LookRun:
    """One training of a second look.

    Parameters
    ----------
    checkpoint: whose first masks it reads.
    out: folder that keeps the run.

    Raises
    ------
    ValueError: if the patients are another checkpoint's, or there are none.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        patients: Sequence[Path],
        out: Path,
        settings: LookSettings,
        device: torch.device,
    ) -> None:
        self.checkpoint, self.out, self.settings, self.device = checkpoint, out, settings, device
        kinds = searched(checkpoint.card)
        self.files = [file for folder in patients for file in patient_files(folder, checkpoint)]
        names = [a.name for a in kinds]
        unknown = sorted(set(settings.kinds) - set(names))
        if unknown:
            raise ValueError(
                f"kinds has {unknown[0]!r}, which the checkpoint does not know; it knows {names}"
            )
        self.crops = PatientCrops(
            self.files,
            settings.crops,
            kinds=[names.index(name) for name in settings.kinds],
            tumours={i for i, a in enumerate(kinds) if a.tumour},
            organs=sorted({organ(a.organ).label for a in kinds if a.tumour and a.name in settings.kinds}),
            seed=settings.seed,
        )
        torch.manual_seed(settings.seed)
        look: Any = SecondLook(
            len(settings.kinds),
            len(organs()),
            organs_again=settings.organs > 0,
            mirrored=settings.crops.mirrored > 0,
        )
        if settings.go_on:
            start_from(look, checkpoint, settings.kinds)
        look = look.to(device)
        self.look: SecondLook = look.to(memory_format=torch.channels_last_3d)
        self.average = copy.deepcopy(self.look)
        decayed = [p for p in self.look.parameters() if p.ndim > 1]
        others = [p for p in self.look.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
        )
        self.step = 0
        self.seconds = 0.0
        self.running: dict[str, float] = {}
        self.bf16 = settings.precision == "bf16" or (settings.precision == "auto" and trains_in_bf16(device))

    def resume(self) -> bool:
        """Go on where the folder's run stopped; False if it holds none.

        Raises
        ------
        ValueError: if it is a run with other settings or abnormalities.
        """
        file = self.out / STATE
        if not file.exists():
            return False
        state = torch.load(file, map_location="cpu", weights_only=True)
        if state["settings"] != self.settings.plain():
            raise ValueError(
                f"{self.out} holds a run with other settings; name its config, "
                "or another folder for a new run"
            )
        load_module_state(self.look, state["look"])
        load_module_state(self.average, state["average"])
        load_optimiser_state(self.look, self.optimiser, state["optimiser"])
        self.step, self.seconds, self.running = state["step"], state["seconds"], state["running"]
        return True

    def save(self) -> None:
        """Write the state that `resume` reads, and the checkpoint of the mean weights."""
        state = {
            "settings": self.settings.plain(),
            "look": module_state(self.look),
            "average": module_state(self.average),
            "optimiser": optimiser_state(self.look, self.optimiser),
            "step": self.step,
            "seconds": self.seconds,
            "running": self.running,
        }
        with whole_file(self.out / STATE) as part:
            torch.save(state, part)
        save_checkpoint(
            with_look(self.checkpoint, self.settings.kinds, self.average),
            self.card(),
            self.out / "checkpoint",
        )

    def card(self) -> dict[str, Any]:
        """The checkpoint's card with this stage."""
        stage = {
            "patients": len(self.files),
            "lesions": self.crops.lesions,
            "steps": self.step,
            "settings": self.settings.plain(),
            "hours": round(self.seconds / 3600, 2),
            "hardware": describe_device(self.device, self.bf16),
            "losses": {k: round(v, 4) for k, v in self.running.items()},
        }
        if self.settings.go_on:
            stage["before"] = self.checkpoint.card.get("second_look")
        old = {k: v for k, v in self.checkpoint.card.items() if k not in LEFT_OUT}
        return old | {"second_look": stage}

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """The batches that are left."""
        first, last = self.step * self.settings.batch, self.settings.steps * self.settings.batch
        loader: Iterable[dict[str, torch.Tensor]] = DataLoader(
            self.crops,
            batch_size=self.settings.batch,
            sampler=range(first, last),
            num_workers=1,
            prefetch_factor=4,
        )
        return iter(loader)

    def train(self, progress: Progress | None = None) -> None:
        """Make the steps that are left, and save."""
        self.out.mkdir(parents=True, exist_ok=True)
        task = None
        if progress is not None:
            task = progress.add_task("second look", total=self.settings.steps, completed=self.step, note="")
        with LogBook(self.out, self.step) as log:
            saved = last = time.monotonic()
            for batch in self.batches():
                for name, value in self.update(batch).items():
                    self.running[name] = 0.97 * self.running.get(name, value) + 0.03 * value
                self.step += 1
                now = time.monotonic()
                self.seconds += now - last
                last = now
                if progress is not None and task is not None:
                    note = " ".join(f"{k} {v:.4f}" for k, v in self.running.items())
                    progress.update(task, completed=self.step, note=note)
                if self.step % LOG_EVERY == 0 or self.step == self.settings.steps:
                    rate = self.settings.rate(self.step)
                    log.write(self.step, self.running, seconds=self.seconds, learning_rate=rate)
                if now - saved > SAVE_EVERY_S:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def update(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """What one batch teaches."""
        s = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = s.rate(self.step)
        batch = {name: value.to(self.device) for name, value in batch.items()}
        first = first_logits(batch)
        x = look_channels(batch["hu"], batch["label"], first, batch["medians"])
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            cells = self.look.cells(x)
            logits = self.look.masks(cells, first)
        entropy, dice = look_losses(logits, batch["kind"], batch["weight"])
        loss = s.cross_entropy * entropy + s.dice * dice
        losses = {"cross_entropy": float(entropy.detach()), "dice": float(dice.detach())}
        if s.organs:
            corner = self.step % FOLD**3  # one voxel of every cell, for an eighth of the time
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                drawn = self.look.organs(cells, x, batch["label"], corner)
            true = corner_of(batch["organs"], corner)  # (B, d, h, w)
            known = true != IGNORE
            organ_entropy, organ_dice = look_losses(drawn, true * known, known.float())
            loss = loss + s.organs * (organ_entropy + organ_dice)
            losses |= {"organs": float(organ_entropy.detach()), "organ_dice": float(organ_dice.detach())}
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.look.parameters(), s.clip)
        self.optimiser.step()
        decay = min(s.ema, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.look.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return losses


def start_from(look: SecondLook, checkpoint: Checkpoint, kinds: tuple[str, ...]) -> None:
    """Take over what a checkpoint's second look has learnt.

    Raises
    ------
    ValueError: if it has none, or one of other abnormalities.
    """
    own = checkpoint.model.second_look
    if own is None or checkpoint.model.config.second_look != kinds:
        raise ValueError(
            f"go_on: the checkpoint's second look draws {list(checkpoint.model.config.second_look)}, "
            f"not {list(kinds)}; leave go_on out to train one from the start"
        )
    held = own.state_dict()
    look.load_state_dict({name: held.get(name, value) for name, value in look.state_dict().items()})


def with_look(checkpoint: Checkpoint, kinds: tuple[str, ...], look: SecondLook) -> SightlineModel:
    """The checkpoint's model with another second look."""
    config = replace(
        checkpoint.model.config,
        second_look=kinds,
        organs_again=look.organ_hidden is not None,
        look_mirrored=look.mirrored,
    )
    model = SightlineModel(config, checkpoint.model.text.tokenizer_json)
    own = {k: v for k, v in checkpoint.model.state_dict().items() if not k.startswith("second_look.")}
    drawn = {f"second_look.{k}": v.cpu() for k, v in look.state_dict().items()}
    model.load_state_dict(own | drawn)
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.second_look",
        description="Train the U-Net that draws a checkpoint's masks again, on stored patients. The same "
        "command goes on after an interruption.",
        epilog="example: python -m training.second_look runs/judge/checkpoint --patients runs/patients "
        "--out runs/look; then python -m training.calibrate runs/look/checkpoint",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument(
        "--patients",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of training.stored_patients",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--config", type=Path, default=CONFIG, help="TOML file (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="instead of the config's")
    parser.add_argument("--version", help="of the new checkpoint (default: that of the old one)")
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    keep_memory()
    try:
        settings = LookSettings.from_file(args.config)
        if args.steps is not None:
            settings = replace(settings, steps=args.steps)
        checkpoint = load_checkpoint(args.checkpoint)
        if args.version:
            checkpoint = replace(checkpoint, card=checkpoint.card | {"version": args.version})
        run = LookRun(checkpoint, args.patients, args.out, settings, choose_device(args.device))
        resumed = run.resume()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    console = Console(stderr=True)
    console.print(f"{'resumed at step ' + str(run.step) if resumed else 'new run'} in {run.out}")
    with Progress(*step_columns(), console=console) as progress:
        run.train(progress)


if __name__ == "__main__":
    main()
