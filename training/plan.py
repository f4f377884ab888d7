"""What of the objective is computed in a step, and what chance decides of it. Nothing is computed here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from training.text_bank import TextBank, draw

LOSSES = frozenset(
    {
        "organs",
        "coarse_organs",
        "masks",
        "findings",
        "organ_text",
        "abnormality_text",
        "localization",
        "snippets",
        "report",
    }
)


@dataclass(frozen=True)
class Plan:
    """What of the objective is computed.

    Attributes
    ----------
    losses: names, of `LOSSES`.
    n_texts: abnormalities whose masks and findings are judged; those present come first.
    dictionary: the abnormality dictionary supplies extra texts for abnormality-text alignment.
    correct: false-negative correction in all contrastive losses.

    Raises
    ------
    ValueError: if there is no loss of a name.
    """

    losses: frozenset[str] = LOSSES
    n_texts: int = 6
    dictionary: bool = True
    correct: bool = True

    def __post_init__(self) -> None:
        unknown = sorted(self.losses - LOSSES)
        if unknown:
            raise ValueError(f"loss {unknown[0]!r} is unknown; choose of {', '.join(sorted(LOSSES))}")


@dataclass(frozen=True)
class Draw:
    """What chance decides of one step, for all its crops at once.

    Attributes
    ----------
    chosen: (T,) int64, abnormalities whose masks and findings are judged.
    present, absent: (A, width) one wording per abnormality; names: (O, width) one per organ.
    row_seeds: (B,) of each crop, so that what is drawn for it depends on no other crop.
    """

    chosen: torch.Tensor
    present: torch.Tensor
    absent: torch.Tensor
    names: torch.Tensor
    row_seeds: npt.NDArray[np.int64]

    def of_rows(self, first: int, count: int) -> Draw:
        """The same for some crops of the step."""
        return replace(self, row_seeds=self.row_seeds[first : first + count])


def draw_step(bank: TextBank, findings: torch.Tensor, rng: np.random.Generator, plan: Plan) -> Draw:
    """Draw a step.

    Parameters
    ----------
    findings: (B, A) of all crops of the step, wherever they are.
    """
    chosen = _choose(findings, plan.n_texts, rng)
    present, absent, names = (draw(texts, rng) for texts in (bank.present, bank.absent, bank.organ))
    return Draw(chosen, present, absent, names, rng.integers(2**62, size=len(findings)))


def _choose(findings: torch.Tensor, n: int, rng: np.random.Generator) -> torch.Tensor:
    """Indices of `n` abnormalities: present ones first, the rest at random."""
    score = (findings == 1).any(0).float() * 2
    score = score + torch.from_numpy(rng.random(findings.shape[1])).to(score.device)
    return score.topk(min(n, findings.shape[1])).indices


__all__ = ["LOSSES", "Draw", "Plan", "draw_step"]
