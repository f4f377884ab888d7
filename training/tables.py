"""An evaluation's figures for people: a Markdown table, with intervals.

Only formatting; the figures come from `training.summary`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from training.bootstrap import Estimate

# (what is measured, figure's name, "share", "mm" or "")
HEADLINES = (
    ("organ recognition, top-1 of 36", "organ_recognition/top1", "share"),
    ("the same, of organs that the reader drew", "organ_recognition/top1_of_drawn", "share"),
    ("organ Dice, mean over organs", "organ_dice/mean", ""),
    ("findings: AUC, mean over abnormalities", "findings/macro/auc", ""),
    ("the same, thresholds of development patients: F1", "detection/macro/f1", ""),
    ("the same: sensitivity", "detection/macro/sensitivity", "share"),
    ("the same: specificity", "detection/macro/specificity", "share"),
    ("findings reported as present: F1", "findings/macro/f1", ""),
    ("the same: positive predictive value", "findings/macro/ppv", "share"),
    ("the same: sensitivity", "findings/macro/sensitivity", "share"),
    ("the same: specificity", "findings/macro/specificity", "share"),
    ("zero-shot, organ embedding: AUC", "zero_shot/macro/auc", ""),
    ("zero-shot, organ embedding: F1", "zero_shot/macro/f1", ""),
    ("zero-shot, whole scan: AUC", "zero_shot_scan/macro/auc", ""),
    ("zero-shot, whole scan: F1", "zero_shot_scan/macro/f1", ""),
    ("tumour detection: AUC, any tumour", "tumour_detection/any/auc", ""),
    ("tumour detection: AUC, mean over types", "tumour_detection/macro/auc", ""),
    ("tumour Dice per patient, mean over types", "tumour_segmentation/macro/dice", ""),
    ("tumours >= 10 mm: sensitivity", "lesions/all/sensitivity", "share"),
    ("false lesions per study", "lesions/all/false_per_study", ""),
    ("tumours >= 10 mm: sensitivity at 1 false per study", "lesions/all/sensitivity_at_1_false", "share"),
    ("report to scan: R@1", "retrieval/text_to_volume/r1", "share"),
    ("report to scan: R@5", "retrieval/text_to_volume/r5", "share"),
    ("report to scan: R@10", "retrieval/text_to_volume/r10", "share"),
    ("scan to report: R@1", "retrieval/volume_to_text/r1", "share"),
    ("scan to report: R@5", "retrieval/volume_to_text/r5", "share"),
    ("scan to report: R@10", "retrieval/volume_to_text/r10", "share"),
    (
        "the same by one vector of each: report to scan, R@10",
        "retrieval_embedding/text_to_volume/r10",
        "share",
    ),
    ("the same: scan to report, R@10", "retrieval_embedding/volume_to_text/r10", "share"),
    ("snippet localization: mean absolute error", "localization/localize/mae_mm", "mm"),
    ("the same by the best slab", "localization/slab/mae_mm", "mm"),
    ("the same, middle slice", "localization/middle_slice/mae_mm", "mm"),
    ("the same, random slice", "localization/random_slice/mae_mm", "mm"),
    ("localization error / best baseline's", "localization/mae_of_best_baseline", ""),
    ("snippets within 12 mm", "localization/localize/within_12_mm", "share"),
    ("snippets within 24 mm", "localization/localize/within_24_mm", "share"),
    ("calibration of findings: ECE", "calibration/ece", ""),
    ("calibration of findings: Brier score", "calibration/brier", ""),
)
DECISIONS = ("auc", "f1", "ppv", "sensitivity", "specificity")


def show(estimate: Estimate | None, unit: str = "") -> str:
    """A figure with its interval: "0.87 (0.81 to 0.92)", "87 % (81 to 92)", "-" where undefined.

    >>> show(Estimate(0.871, 0.812, 0.92), "share")
    '87 % (81 to 92)'
    """
    if estimate is None:
        return "-"
    factor, digits = (100, 0) if unit == "share" else (1, 1 if unit == "mm" else 2)
    mark = {"share": " %", "mm": " mm"}.get(unit, "")
    text = f"{factor * estimate.value:.{digits}f}{mark}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({factor * estimate.low:.{digits}f} to {factor * estimate.high:.{digits}f})"


def headlines(figures: Mapping[str, Estimate]) -> list[tuple[str, str]]:
    """(what, figure with interval) of the main figures."""
    return [(label, show(figures.get(name), unit)) for label, name, unit in HEADLINES]


def markdown(results: Mapping[str, Any], figures: Mapping[str, Estimate], plots: Iterable[str]) -> str:
    """The whole evaluation as Markdown.

    Parameters
    ----------
    results: what goes into the JSON; "model", "benchmark" (its "counts", "draws") and "real_ct".
    figures: by name, empty where no phantoms were read.
    plots: names of the picture files beside it.
    """
    model = results["model"]
    lines = [f"# {model['name']} {model['version']}", "", f"Checkpoint {model['digest'][:16]}.", ""]
    if figures:
        lines += _phantoms(results["benchmark"], figures)
        lines += [line for name in plots for line in (f"![{name}]({name})", "")]
    if "real_ct" in results:
        lines += _real(results["real_ct"])
    return "\n".join(lines)


def _phantoms(benchmark: Mapping[str, Any], figures: Mapping[str, Estimate]) -> list[str]:
    counts = benchmark["counts"]
    lines = [
        f"{counts['patients']} unseen phantoms ({benchmark['version']}); in brackets the 95 % interval of "
        f"{benchmark['draws']} bootstrap draws by patient. Thresholds come from development patients.",
        "",
        *_table(("measured", "figure"), headlines(figures)),
        f"Retrieval among {counts['patients']} scans with {counts['distinct_reports']} distinct reports; "
        f"{counts['snippets']} snippets; {counts['tumours']} tumours of 10 mm and more.",
        "",
    ]
    for section, title in (
        ("findings", "Findings, as reported"),
        ("detection", "Findings, at thresholds of development patients"),
        ("zero_shot", "Zero-shot prompts, organ embedding"),
        ("zero_shot_scan", "Zero-shot prompts, whole scan"),
    ):
        rows: list[tuple[str, ...]] = [
            (
                a.display,
                f"{counts['positives'].get(a.name, 0)} of {counts['answered'].get(a.name, 0)}",
                *(show(figures.get(f"{section}/{a.name}/{k}")) for k in DECISIONS),
            )
            for a in abnormalities()
        ]
        lines += [f"## {title}", "", *_table(("abnormality", "present in", *DECISIONS), rows)]
    keys = ("sensitivity", "false_per_study", "sensitivity_at_1_false")
    rows = [
        (
            a.display,
            *(show(figures.get(f"lesions/{a.name}/{k}")) for k in keys),
            show(figures.get(f"tumour_segmentation/{a.name}/dice")),
            show(figures.get(f"tumour_detection/{a.name}/auc")),
        )
        for a in abnormalities()
        if a.tumour
    ]
    columns = ("tumour >= 10 mm", "sensitivity", "false per study", "sensitivity at 1 false", "Dice", "AUC")
    lines += ["## Tumours", "", *_table(columns, rows)]
    rows = [
        (
            o.display,
            show(figures.get(f"organ_recognition/{o.name}")),
            show(figures.get(f"organ_dice/{o.name}")),
        )
        for o in organs()
    ]
    return [*lines, "## Organs", "", *_table(("organ", "recognised", "Dice"), rows)]


def _real(real: Mapping[str, Any]) -> list[str]:
    low_high = real.get("interval")
    interval = f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""
    rows = [(name, f"{value:.2f}") for name, value in real["organ_dice"].items()]
    return [
        f"## Real CT ({len(real['cases'])})",
        "",
        *_table(("organ", "Dice"), rows),
        f"Mean over {len(rows)} organs present: {real['mean_organ_dice']:.3f}{interval}.",
        "",
    ]


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns), *(" | ".join(row) for row in rows)]
    return [*(f"| {line} |" for line in lines), ""]
