"""A comparison for people: ``comparison.json``, ``comparison.md`` and ``comparison.png``. Decides nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure

from core_model.verdict import RULE, Measured, Verdict

COLOURS = {"base": "#bbbbbb", "better": "#228833", "worse": "#ee6677", "open": "#4477aa"}  # Paul Tol, bright


def write_report(verdict: Verdict, folder: Path) -> list[Path]:
    """Write all three into an existing folder."""
    files = [folder / f"comparison.{suffix}" for suffix in ("json", "md", "png")]
    document = {"promote": verdict.promote, "objections": verdict.objections, "rule": RULE, **asdict(verdict)}
    files[0].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    files[1].write_text(markdown(verdict), encoding="utf-8")
    picture(verdict).savefig(files[2])
    return files


def outcome(verdict: Verdict) -> str:
    """The decision in one line."""
    return "may be promoted" if verdict.promote else f"not promoted: {'; '.join(verdict.objections)}"


def markdown(verdict: Verdict) -> str:
    """The table, and what follows from it."""
    lines = [
        f"# {verdict.new.name} {verdict.new.version} beside {verdict.base.name} {verdict.base.version}",
        "",
        f"**{outcome(verdict)}**",
        "",
        f"{verdict.patients} held-out patients ({verdict.patients_needed} are needed); {verdict.about}.",
        f"Digests: new {verdict.new.digest[:12]}, before {verdict.base.digest[:12]}.",
        "",
        "| measured (more is better) | before | new | difference (95 % interval by patient) | patients |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {m.name} | {m.base:.3f} | {m.new:.3f} | {m.difference:+.3f} ({m.low:+.3f} to {m.high:+.3f}) "
        f"| {m.patients} |"
        for m in verdict.measures
    ]
    return "\n".join([*lines, "", RULE, ""])


def picture(verdict: Verdict) -> Figure:
    """Each measure before and after, and the interval of its difference."""
    measures = verdict.measures
    figure = Figure(figsize=(9.0, 1.6 + 0.7 * max(1, len(measures))), layout="constrained", dpi=110)
    figure.suptitle(_title(verdict), fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for row, m in enumerate(measures):
        colour = COLOURS[_kind(m)]
        left.plot([m.base, m.new], [row, row], color=colour, linewidth=2, zorder=1)
        left.scatter([m.base], [row], color=COLOURS["base"], edgecolor="black", s=60, zorder=2)
        left.scatter([m.new], [row], color=colour, edgecolor="black", s=60, zorder=3)
        right.plot([m.low, m.high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        right.scatter([m.difference], [row], color=colour, edgecolor="black", s=40, zorder=3)
    left.set_yticks(range(len(measures)), [f"{m.name}\npatients: {m.patients}" for m in measures])
    left.set_ylim(len(measures) - 0.5, -0.5)
    left.set_xlim(-0.03, 1.03)
    left.set_xlabel("before (grey) and new: better green, worse red, not decided blue")
    right.axvline(0, color="black", linewidth=1)
    right.set_xlabel("difference, 95 % interval by patient")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def _kind(measure: Measured) -> str:
    if measure.is_worse:
        return "worse"
    return "better" if measure.low > 0 else "open"


def _title(verdict: Verdict) -> str:
    said = "may be promoted" if verdict.promote else "not promoted"
    return f"{verdict.new.name} {verdict.new.version}: {said} (held-out patients: {verdict.patients})"
