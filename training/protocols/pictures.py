"""A protocol's result in pictures: ROC curves, recall at K, error along the axis.

Each function draws on axes that it is given; no state of pyplot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from training.plots import COLOURS, DASHES
from training.protocols.classification import Scored
from training.protocols.curves import Floats, area


def draw(pictures: Mapping[str, Callable[[Axes], None]], folder: Path) -> list[Path]:
    """Draw pictures as PNG into a folder."""
    paths = []
    for name, paint in pictures.items():
        figure = Figure(figsize=(8.4, 5.4), layout="constrained", dpi=110)
        axes = figure.add_subplot()
        axes.grid(alpha=0.3)
        paint(axes)
        path = folder / f"{name}.png"
        figure.savefig(path)
        paths.append(path)
    return paths


def roc(axes: Axes, scored: Scored, title: str) -> None:
    """A curve per label that has positives and negatives, the best area first."""
    ones = np.ones(len(scored.scores))
    curves = []
    for name, curve in scored.curves().items():
        true, false = curve.sums(ones)
        value = area(true, false)
        if value is not None:
            curves.append((value, name, true / true[-1], false / false[-1]))
    for i, (value, name, true, false) in enumerate(sorted(curves, key=lambda c: (-c[0], c[1]))):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        axes.plot(false, true, dash, color=colour, label=f"{value:.2f} {name}")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    axes.set(
        title=f"ROC, items: {len(scored.scores)}; {title}",
        xlabel="1 - specificity",
        ylabel="sensitivity",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    if not curves:
        axes.text(0.62, 0.1, "no label has both present and absent items", ha="center")
    else:
        axes.legend(
            title="AUROC", fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False
        )


def recall(axes: Axes, ranks: Mapping[str, Floats], count: int) -> None:
    """Share of queries that are answered among the first K, of each direction, beside chance."""
    at = np.unique(np.geomspace(1, count, 60).astype(int))
    axes.plot(at, at / count, color="0.6", linewidth=1, label="chance")
    for (label, rank), colour, dash in zip(ranks.items(), COLOURS, DASHES, strict=False):
        axes.plot(at, [(rank <= k).mean() for k in at], dash, color=colour, label=label)
    axes.set(
        title=f"Retrieval among {count} volumes",
        xlabel="K",
        ylabel="recall at K",
        xscale="log",
        ylim=(-0.02, 1.02),
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="best", frameon=False)


def errors(axes: Axes, found: Mapping[str, Floats]) -> None:
    """Share of sentences that are placed at most so far off."""
    count = len(next(iter(found.values())))
    share = np.arange(1, count + 1) / count
    for (label, values), colour in zip(found.items(), COLOURS, strict=False):
        axes.step(np.sort(values), share, where="post", color=colour, label=label)
    for limit in (12, 24):
        axes.axvline(limit, color="0.7", linewidth=1, linestyle=":")
    axes.set(
        title=f"Axial position of {count} sentences",
        xlabel="distance from the centre of the finding (mm)",
        ylabel="share of sentences at most that far",
        ylim=(-0.02, 1.02),
    )
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")


def overlaps(axes: Axes, dice: Floats) -> None:
    """Share of findings whose mask reaches a Dice."""
    level = np.linspace(0, 1, 201)
    axes.step(level, [(dice >= x).mean() for x in level], where="post", color=COLOURS[0])
    axes.axvline(0.1, color="0.7", linewidth=1, linestyle=":", label="hit (0.1)")
    axes.set(
        title=f"Text-conditioned masks of {len(dice)} findings",
        xlabel="Dice",
        ylabel="share of findings with at least that Dice",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(loc="upper right", frameon=False)
