"""The verdict on a checkpoint: how it did beside another one on the same held-out patients, and what follows.

``verdict.json`` in the checkpoint's folder. Not the evaluation (whoever trains makes that) and not a
signature: it holds a checksum and the digests and cards of both checkpoints, so that a change of any of
them is noticed; who may write the folder may also write another verdict. Imports no torch, so that a command
that only looks stays quick.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "verdict.json"
SCHEMA = "sightline-verdict/1"
CARD = "card.json"
RULE = (
    "Promoted only if enough held-out patients were measured, no measure is worse by more than chance "
    "(the whole interval of its difference below zero), and not every measure that moved got worse."
)


class VerdictError(ValueError):
    """A verdict is missing, damaged, or about other checkpoints."""


@dataclass(frozen=True)
class Measured:
    """One measure of two checkpoints on the same patients. More is better in all.

    Attributes
    ----------
    name: e.g. ``"lesion Dice"``.
    base, new: the values.
    low, high: bounds of the patient bootstrap's interval of new - base.
    patients: how many it is measured on.
    """

    name: str
    base: float
    new: float
    low: float
    high: float
    patients: int

    def __post_init__(self) -> None:
        numbers = (self.base, self.new, self.low, self.high)
        if not all(math.isfinite(n) for n in numbers) or self.low > self.high:
            raise VerdictError(f"measure {self.name!r} is {numbers}; all must be finite and low <= high")

    @property
    def difference(self) -> float:
        """new - base."""
        return self.new - self.base

    @property
    def is_worse(self) -> bool:
        """Whether it is worse by more than its interval allows."""
        return self.high < 0


@dataclass(frozen=True)
class Judged:
    """Which checkpoint was measured.

    Attributes
    ----------
    name, version: of the card.
    digest: of tensors, configuration and tokenizer (`core_model.checkpoint.digest`).
    card_sha256: of the bytes of ``card.json``, which holds the thresholds.
    """

    name: str
    version: str
    digest: str
    card_sha256: str

    @classmethod
    def of(cls, folder: Path) -> Judged:
        """What a checkpoint's folder says of itself; that its tensors have the digest is not verified.

        Raises
        ------
        VerdictError: its card cannot be read.
        """
        try:
            content = (folder / CARD).read_bytes()
            card = json.loads(content)
            found = cls(
                str(card["name"]),
                str(card["version"]),
                str(card["digest"]),
                hashlib.sha256(content).hexdigest(),
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise VerdictError(f"checkpoint {folder} has no readable {CARD}; copy it again") from None
        return found


@dataclass(frozen=True)
class Verdict:
    """What was measured, of which checkpoints, and whether the new one may take the base's place.

    Attributes
    ----------
    base, new: the checkpoints.
    measures: at least one.
    patients: held-out patients that took part.
    patients_needed: fewer than these decide nothing.
    about: what they were measured on, in words, without any identity.
    """

    base: Judged
    new: Judged
    measures: tuple[Measured, ...]
    patients: int
    patients_needed: int
    about: str

    @property
    def objections(self) -> tuple[str, ...]:
        """Why the new checkpoint is not to be promoted; none where it may be. The rule is `RULE`."""
        found = []
        if self.patients < self.patients_needed:
            found.append(f"only {self.patients} held-out patients, {self.patients_needed} are needed")
        if not self.measures:
            found.append("nothing was measured")
        found += [
            f"{one.name} fell from {one.base:.3f} to {one.new:.3f} "
            f"(difference {one.difference:.3f}, interval {one.low:.3f} to {one.high:.3f})"
            for one in self.measures
            if one.is_worse
        ]
        moved = [one.difference for one in self.measures if one.difference != 0]
        if moved and max(moved) < 0 and not any(one.is_worse for one in self.measures):
            found.append("nothing became better, and something worse")
        return tuple(found)

    @property
    def promote(self) -> bool:
        """Whether the new checkpoint may be promoted."""
        return not self.objections


def write_verdict(verdict: Verdict, folder: Path) -> Path:
    """Keep a verdict in the folder of the new checkpoint; returns the file."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "promote": verdict.promote,
        "objections": list(verdict.objections),
        "rule": RULE,
        **asdict(verdict),
    }
    path = folder / FILE
    path.write_text(json.dumps({**content, "checksum": _checksum(content)}, indent=1) + "\n", "utf-8")
    return path


def read_verdict(folder: Path) -> Verdict:
    """The verdict in a checkpoint's folder.

    Raises
    ------
    VerdictError: there is none, it was changed, or it is about another checkpoint than that of the folder.
    """
    path = folder / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema, checksum = document["schema"], document.pop("checksum")
    except FileNotFoundError:
        raise VerdictError(
            f"checkpoint {folder} has no {FILE}; have it compared with the one in use (training.finetune)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise VerdictError(f"{path} cannot be read; compare the checkpoints again") from None
    if schema != SCHEMA:
        raise VerdictError(f"{path} has schema {schema!r}; this version reads {SCHEMA!r}")
    if checksum != _checksum(document):
        raise VerdictError(f"{path} was changed after it was written; compare the checkpoints again")
    try:
        verdict = Verdict(
            base=Judged(**document["base"]),
            new=Judged(**document["new"]),
            measures=tuple(Measured(**one) for one in document["measures"]),
            patients=int(document["patients"]),
            patients_needed=int(document["patients_needed"]),
            about=str(document["about"]),
        )
    except (KeyError, TypeError, ValueError):
        raise VerdictError(f"{path} lacks a part; compare the checkpoints again") from None
    if verdict.new != Judged.of(folder):
        raise VerdictError(
            f"checkpoint {folder} was changed after its verdict was written; compare the checkpoints again"
        )
    return verdict


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


__all__ = ["FILE", "RULE", "Judged", "Measured", "Verdict", "VerdictError", "read_verdict", "write_verdict"]
