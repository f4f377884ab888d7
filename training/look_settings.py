"""What a training of the second look is made by: a TOML file, checked. No training here."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core_model.second_look import STRIDE
from training.parallel import PRECISIONS
from training.patient_crops import CropPlan


@dataclass(frozen=True)
class LookSettings:
    """The content of ``training/configs/second_look.toml``.

    Attributes
    ----------
    kinds: names of the abnormalities that are drawn again: tumours, and what is mistaken for them.
    precision: "auto", "bf16" or "32" (`training.parallel`).
    steps, batch: crops are counted by the batch.
    learning_rate, warmup_steps, least_rate: `rate`; weight_decay, clip: as ever.
    ema: decay of the mean weights, which are saved as the checkpoint.
    cross_entropy, dice: weights of `look_losses`.
    organs: weight of the same two losses, added up, of the organs; 0 does not draw them again.
    go_on: whether the checkpoint's own second look, where it has one of the same abnormalities, is where
        training starts.
    crops: where they are cut.

    Raises
    ------
    ValueError: if a number makes no sense; the message names it.
    """

    kinds: tuple[str, ...] = ()
    precision: str = "auto"
    seed: int = 0
    steps: int = 3000
    batch: int = 4
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    least_rate: float = 0.02
    weight_decay: float = 2e-2
    clip: float = 5.0
    ema: float = 0.997
    cross_entropy: float = 10.0
    dice: float = 0.5
    organs: float = 0.0
    go_on: bool = False
    crops: CropPlan = field(default_factory=CropPlan)

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("kinds is empty; name the abnormalities that are to be drawn again")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose of {', '.join(PRECISIONS)}")
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps is {self.steps} and batch {self.batch}; 1 is the least")
        if self.organs < 0:
            raise ValueError(f"organs is {self.organs}; a weight is 0 or more")
        if any(n % STRIDE for n in self.crops.size):
            raise ValueError(f"crops size is {list(self.crops.size)}; needed are multiples of {STRIDE}")

    @classmethod
    def from_file(cls, path: Path) -> LookSettings:
        """Read a TOML file.

        Raises
        ------
        ValueError: if a key is unknown; the message names it.
        """
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        crops = values.pop("crops", {})
        for given, known in ((values, cls), (crops, CropPlan)):
            unknown = sorted(set(given) - set(known.__dataclass_fields__))
            if unknown:
                raise ValueError(f"config {path}: key {unknown[0]!r} is unknown")
        if "size" in crops:
            crops["size"] = tuple(crops["size"])
        values["kinds"] = tuple(values.get("kinds", ()))
        return cls(**values, crops=CropPlan(**crops))

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear at first, then a cosine."""
        rest = self.least_rate + (1 - self.least_rate) * 0.5 * (1 + np.cos(np.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps)) * float(rest)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        values = asdict(self)
        values["kinds"] = list(self.kinds)
        values["crops"]["size"] = list(self.crops.size)
        return values
