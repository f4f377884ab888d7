"""A training config: the content of a TOML file in ``training/configs``, checked. No training here."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_model.abnormality import abnormalities
from training.plan import Plan

OPTIONAL = {"lesion_voxels", "switches"}


@dataclass(frozen=True)
class Switches:
    """Parts of the objective that an ablation turns off; each is on unless a config says otherwise.

    Attributes
    ----------
    dictionary: the abnormality dictionary's extra texts in abnormality-text alignment (CT-GLIP).
    attention_pooling: without, organ pooling is the mean alone, whatever ``[model] pooling`` says.
    false_negative_correction: in all contrastive losses (fVLM, RADAR).
    prompt_supervision: the loss "findings" (RadFinder).
    localization: the losses "localization" and "snippets" (RadFinder).
    """

    dictionary: bool = True
    attention_pooling: bool = True
    false_negative_correction: bool = True
    prompt_supervision: bool = True
    localization: bool = True


@dataclass(frozen=True)
class Settings:
    """The content of a training config (see ``training/configs/grounded.toml``).

    Raises
    ------
    ValueError: if a loss, switch or abnormality has no meaning.
    """

    name: str
    version: str
    model: dict[str, Any]
    data: dict[str, Any]
    optimiser: dict[str, Any]
    loss: dict[str, float]
    lesion_voxels: dict[str, int] = field(default_factory=dict)
    switches: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.switches) - set(Switches.__dataclass_fields__))
        if unknown:
            known = ", ".join(Switches.__dataclass_fields__)
            raise ValueError(f"switch {unknown[0]!r} is unknown; choose of {known}")
        Plan(losses=frozenset(self.loss))  # names are checked there
        known_names = [a.name for a in abnormalities()]
        wrong = [n for n in self.data.get("abnormalities", ()) if n not in known_names]
        if wrong:
            raise ValueError(f"abnormality {wrong[0]!r} is not in the dictionary; choose of {known_names}")

    @classmethod
    def from_file(cls, path: Path) -> Settings:
        """Read a TOML file.

        Raises
        ------
        ValueError: if a section, loss or switch is unknown or a section is missing; the message
            names it.
        """
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        wrong = (set(values) ^ set(cls.__dataclass_fields__)) - OPTIONAL
        if wrong:
            raise ValueError(f"config {path}: section {sorted(wrong)[0]!r} is unknown or missing")
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"config {path}: {error}") from error

    @property
    def switched(self) -> Switches:
        """The switches with their defaults."""
        return Switches(**self.switches)

    def weights(self) -> dict[str, float]:
        """Loss weights that count: positive, and not switched off."""
        off: set[str] = set()
        if not self.switched.prompt_supervision:
            off |= {"findings"}
        if not self.switched.localization:
            off |= {"localization", "snippets"}
        return {name: weight for name, weight in self.loss.items() if weight > 0 and name not in off}

    def plan(self) -> Plan:
        """What `training.objective.objective` computes; chosen voxels are not its part."""
        names = set(self.weights())
        if self.lesion_voxels:
            names -= {"masks"}
        return Plan(
            losses=frozenset(names),
            n_texts=self.optimiser.get("texts_per_step", Plan.n_texts),
            dictionary=self.switched.dictionary,
            correct=self.switched.false_negative_correction,
        )

    def model_config(self) -> dict[str, Any]:
        """`ModelConfig` keyword arguments, with the switches."""
        if self.switched.attention_pooling:
            return dict(self.model)
        return {**self.model, "pooling": "mean"}


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine to a hundredth of the peak."""
    o = settings.optimiser
    if step < o["warmup_steps"]:
        return float(o["learning_rate"] * (step + 1) / o["warmup_steps"])
    progress = (step - o["warmup_steps"]) / max(1, o["steps"] - o["warmup_steps"])
    return float(o["learning_rate"] * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))))
