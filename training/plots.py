"""An evaluation in pictures: ROC, reliability, FROC and localization error, as PNG.

Drawn from `training.summary` on a canvas of its own: no display and no global state of pyplot.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from core_model.abnormality import abnormality
from training.metrics import froc, reliability
from training.summary import Question, Summary

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")  # Paul Tol, bright
DASHES = ("-", "--", ":", "-.")


def write_plots(summary: Summary, folder: Path) -> list[Path]:
    """Draw what the figures allow into `folder`; a plot without data is left out."""
    drawings: dict[str, Callable[[Summary, Axes], bool]] = {
        "roc_findings": partial(_roc, section="findings", title="Findings"),
        "roc_zero_shot": partial(_roc, section="zero_shot", title="Zero-shot prompts, organ embedding"),
        "reliability": _reliability,
        "froc": _froc,
        "localization": _localization,
    }
    drawn = []
    for name, draw in drawings.items():
        figure = Figure(figsize=(7.2, 5.4), layout="constrained", dpi=110)
        axes = figure.add_subplot()
        axes.grid(alpha=0.3)
        if draw(summary, axes):
            path = folder / f"{name}.png"
            figure.savefig(path)
            drawn.append(path)
    return drawn


def _roc(summary: Summary, axes: Axes, *, section: str, title: str) -> bool:
    ones = np.ones(len(summary.records))
    curves = [
        (name, q, area)
        for name, q in summary.questions[section].items()
        if (area := q.figures(ones)["auc"]) is not None
    ]
    for i, (name, question, area) in enumerate(sorted(curves, key=lambda c: -c[2])):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        _curve(axes, question, f"{area:.2f} {abnormality(name).display}", colour, dash)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    axes.set(
        title=f"{title}: ROC, {len(summary.records)} patients",
        xlabel="1 - specificity",
        ylabel="sensitivity",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    if curves:
        axes.legend(
            title="AUC", fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False
        )
    return bool(curves)


def _curve(axes: Axes, question: Question, label: str, colour: str, dash: str) -> None:
    a = question.answered
    false, true, _ = roc_curve(question.truth[a], question.scores[a])
    axes.plot(false, true, dash, label=label, color=colour)


def _reliability(summary: Summary, axes: Axes) -> bool:
    probability, truth, _ = summary.answers()
    if len(probability) == 0:
        return False
    bins = reliability(probability, truth, np.ones(len(probability)))
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfect")
    axes.bar(bins.said, bins.share, width=0.03, color="#bbbbbb", label="share of all findings")
    axes.plot(bins.said, bins.true, "o-", color=COLOURS[0], label="observed")
    axes.set(
        title=f"Reliability of {len(probability)} findings",
        xlabel="probability said",
        ylabel="frequency",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(loc="upper left")
    return True


def _froc(summary: Summary, axes: Axes) -> bool:
    lesions = summary.lesions
    if len(lesions.hits) == 0:
        return False
    kinds = [k for k in dict.fromkeys(lesions.kind) if isinstance(k, str)]
    furthest = 1.0
    for i, kind in enumerate(["", *sorted(kinds)]):
        own = lesions.kind == kind if kind else np.ones(len(lesions.hits), bool)
        false = lesions.false[lesions.false_kind == kind] if kind else lesions.false
        rate, found = froc(lesions.hits[own], false, lesions.studies)
        name = abnormality(kind).display if kind else "all tumours"
        colour = COLOURS[(i - 1) % len(COLOURS)] if kind else "black"
        axes.plot(
            rate,
            found,
            DASHES[(i - 1) // len(COLOURS) % len(DASHES)] if kind else "-",
            drawstyle="steps-post",
            label=f"{name} (n = {int(own.sum())})",
            color=colour,
            linewidth=1.4 if kind else 2.4,
        )
        furthest = max(furthest, float(rate.max()))
    axes.axvline(1, color="0.6", linewidth=1, linestyle=":")
    axes.set(
        title=f"Tumours of 10 mm and more: FROC, {lesions.studies} patients",
        xlabel="false lesions per study",
        ylabel="sensitivity",
        xlim=(-0.02 * min(furthest, 8), 1.02 * min(furthest, 8)),
        ylim=(-0.02, 1.02),
    )
    axes.legend(loc="lower right", fontsize="small")
    return True


def _localization(summary: Summary, axes: Axes) -> bool:
    errors = summary.localization.errors
    count = len(summary.localization.patient)
    if count == 0:
        return False
    share = np.arange(1, count + 1) / count
    labels = {"localize": "the reader", "slab": "best slab", "middle_slice": "middle slice"}
    for colour, (key, label) in zip(COLOURS, labels.items(), strict=False):
        axes.step(np.sort(errors[key]), share, where="post", color=colour, label=label)
    axes.axvline(
        float(errors["random_slice"].mean()), color="0.4", linestyle="--", label="random slice, mean error"
    )
    for limit in (12, 24):
        axes.axvline(limit, color="0.7", linewidth=1, linestyle=":")
    axes.set(
        title=f"Localization error of {count} snippets",
        xlabel="distance to the sentence's slice (mm)",
        ylabel="share of snippets at most that far",
        ylim=(-0.02, 1.02),
    )
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
    return True
