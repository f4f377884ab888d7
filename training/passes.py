"""One step of several processes, or of several passes of each: the losses are those of the full batch.

How processes meet is `training.parallel`; what is kept of a crop `training.views`; the losses
`training.objective`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from training.crop_views import view
from training.objective import losses_of, objective
from training.plan import Draw, draw_step
from training.samples import Crop, rows_of
from training.text_bank import TextBank
from training.views import as_leaves, join, surrogate

if TYPE_CHECKING:
    from training.run import Run


def whole_objective(
    run: Run, bank: TextBank, batch: Crop, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """The objective of the crops of all processes, which each of them sees whole."""
    if run.team.size == 1:
        return objective(run.model, bank, batch, rng, run.plan)
    drawn = _drawn(run, bank, batch, rng)
    own = drawn.of_rows(run.team.rank * run.share, run.share)
    views = run.team.gather(view(run.model, bank, batch, own, run.plan))
    return losses_of(run.model, bank, views, drawn, rng=rng, plan=run.plan)


def losses_in_passes(
    run: Run, bank: TextBank, batch: Crop, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """The losses and gradients of one batch, whose crops go through the model a few at a time.

    First all are looked at without keeping what a gradient needs; the losses are made of all their
    views; then each is looked at once more, and takes its part of the gradient.
    """
    passes, each = run.placement.accumulate, run.share // run.placement.accumulate
    parts = [rows_of(batch, i * each, each) for i in range(passes)]
    first = run.team.rank * run.share
    with run.precision():
        drawn = _drawn(run, bank, batch, rng)
        draws = [drawn.of_rows(first + i * each, each) for i in range(passes)]
        with torch.no_grad():
            looks = [
                run.forward(partial(view, run.model, bank, part, own, run.plan))
                for part, own in zip(parts, draws, strict=True)
            ]
        leaves = [as_leaves(one) for one in looks]
        del looks
        views = run.team.gather(join(leaves))
        work = partial(losses_of, run.model, bank, views, drawn, rng=rng, plan=run.plan)
        losses = run.forward(work)
    with run.team.quiet(run.forward, quiet=True):
        run.team.fabric.backward(run.total(losses))
    for i, (part, own) in enumerate(zip(parts, draws, strict=True)):
        with run.team.quiet(run.forward, quiet=i + 1 < passes):
            with run.precision():
                live = run.forward(partial(view, run.model, bank, part, own, run.plan))
            run.team.fabric.backward(surrogate(live, leaves[i]))
    return dict(losses)


def _drawn(run: Run, bank: TextBank, batch: Crop, rng: np.random.Generator) -> Draw:
    """The draw of a step, the same for all processes, because all know the findings of all."""
    return draw_step(bank, run.team.gather({"truth": batch.findings})["truth"], rng, run.plan)


__all__ = ["losses_in_passes", "whole_objective"]
