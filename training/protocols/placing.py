"""Localization protocols on ReXGroundingCT: where along the axis a sentence is, and its mask.

Figures over the findings of the validation split; drawn by patient. One volume is measured by `grounded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from training.datasets.sample import Record
from training.metrics import mean, ratio
from training.protocols.curves import Figures, Floats
from training.protocols.grounded import GroundedFinding
from training.protocols.grounding import HIT, HIT_VOXTELL, INSTANCE
from training.protocols.outcome import Measured, PublicProtocol, Row, Run
from training.protocols.pictures import errors, overlaps

NEAR_MM = (12, 24)  # RadFinder: within one and two positions


def validation(records: Sequence[Record]) -> list[Record]:
    """The validation split, in the order of the names: annotated exhaustively, unlike the train split."""
    return sorted((r for r in records if r.split == "validation"), key=lambda r: r.name)


def _findings(run: Run) -> tuple[list[GroundedFinding], tuple[str, ...], int]:
    """All findings, the patient of each, and the number of volumes."""
    volumes = run.grounded()
    every = [(finding, record.patient) for record, found in volumes for finding in found]
    return [f for f, _ in every], tuple(p for _, p in every), len(volumes)


@dataclass(frozen=True, kw_only=True)
class AxialPosition(PublicProtocol):
    """Sentence to axial position, RadFinder's localization metrics."""

    dataset: str = "ReXGroundingCT"

    def select(self, records: Sequence[Record]) -> list[Record]:
        """See `validation`."""
        return validation(records)

    def check(self, record: Record) -> None:
        """Whether a record has masks is known when it is loaded."""

    def measure(self, run: Run) -> Measured:
        """Errors of both read-outs and of two baselines."""
        findings, patients, volumes = _findings(run)
        where = {
            "slab": np.array([f.slab for f in findings]),
            "localize": np.array([f.localized for f in findings]),
            "middle_slice": np.array([f.truth.length / 2 for f in findings]),
        }
        said = {
            "slab": "best slab",
            "localize": "own localization (not the protocol)",
            "middle_slice": "middle slice (baseline)",
        }
        found: dict[str, Floats] = {}
        for name, places in where.items():
            pairs = list(zip(findings, places.tolist(), strict=True))
            error = np.array([f.truth.error(x) for f, x in pairs])
            positions = np.array([f.truth.positions(x) for f, x in pairs])
            found[f"{name}/mae_mm"] = error
            found[f"{name}/outside_mm"] = np.array([f.truth.outside(x) for f, x in pairs])
            for limit in NEAR_MM:
                found[f"{name}/within_{limit}_mm"] = np.array(error <= limit, dtype=np.float64)
                near = positions <= limit // NEAR_MM[0]
                found[f"{name}/within_{limit}_mm_in_positions"] = np.array(near, dtype=np.float64)
        # Expected, not drawn: a slice anywhere in the scan.
        found["random_slice/mae_mm"] = np.array([_random_error(f) for f in findings])

        def figures(weights: Floats) -> Figures:
            return {name: mean(values, weights) for name, values in found.items()}

        rows = []
        for name, label in said.items():
            rows.append(Row(f"{label}: mean absolute error", f"{name}/mae_mm", "mm"))
            for n in NEAR_MM:
                rows.append(Row(f"{label}: within {n} mm", f"{name}/within_{n}_mm", "share"))
                exact = f"{name}/within_{n}_mm_in_positions"
                rows.append(Row(f"{label}: within {n} mm, in positions of 12 mm", exact, "share"))
            rows.append(Row(f"{label}: mean distance outside of the finding", f"{name}/outside_mm", "mm"))
        rows.append(Row("random slice (baseline): mean absolute error", "random_slice/mae_mm", "mm"))
        return Measured(
            figures=figures,
            patients=patients,
            rows=tuple(rows),
            facts={
                "volumes": volumes,
                "sentences": len(findings),
                "read-out": "middle of the slab (layer of the model's grid) with the highest cosine",
                "truth": "centre of the sentence's mask along the slice axis",
                "duplicates": "all sentences with a mask count (RadFinder: one per scan, of other data)",
            },
            pictures={"axial_error": partial(errors, found={said[k]: found[f"{k}/mae_mm"] for k in where})},
        )


def _random_error(finding: GroundedFinding) -> float:
    """Mean distance of the centre from a place that is uniform over the scan."""
    length, centre = finding.truth.length, finding.truth.centre
    return (centre**2 + (length - centre) ** 2) / (2 * length) if length else 0.0


@dataclass(frozen=True, kw_only=True)
class TextMasks(PublicProtocol):
    """Sentence to mask, ReXrank's metrics."""

    dataset: str = "ReXGroundingCT"

    def select(self, records: Sequence[Record]) -> list[Record]:
        """See `validation`."""
        return validation(records)

    def check(self, record: Record) -> None:
        """Whether a record has masks is known when it is loaded."""

    def measure(self, run: Run) -> Measured:
        """Dice, hits and instances."""
        findings, patients, volumes = _findings(run)
        seen = [f.overlap for f in findings]
        dice, instance = np.array([o.dice for o in seen]), np.array([o.instance_dice for o in seen])
        counts = np.array([(o.found, o.predicted, o.planted) for o in seen], dtype=np.float64).reshape(-1, 3)

        def figures(weights: Floats) -> Figures:
            found, predicted, planted = (weights @ counts).tolist()
            return {
                "dice": mean(dice, weights),
                "hit": mean(dice >= HIT, weights),
                "hit_5": mean(dice >= HIT_VOXTELL, weights),
                "instance_dice": mean(instance, weights),
                "instance_precision": ratio(found, predicted),
                "instance_recall": ratio(found, planted),
                "instance_f1": ratio(2 * found, predicted + planted),
            }

        rows = (
            Row("Dice, mean over findings", "dice"),
            Row(f"hit rate, Dice >= {HIT:g}", "hit", "share"),
            Row(f"hit rate, Dice >= {HIT_VOXTELL:g} (VoxTell)", "hit_5", "share"),
            Row("instance Dice, mean over findings", "instance_dice"),
            Row(f"instance precision, Dice >= {INSTANCE:g}", "instance_precision", "share"),
            Row("instance recall", "instance_recall", "share"),
            Row("instance F1", "instance_f1"),
        )
        return Measured(
            figures=figures,
            patients=patients,
            rows=rows,
            facts={
                "volumes": volumes,
                "findings": len(findings),
                "instances": int(counts[:, 2].sum()),
                "mask threshold": run.encoder.reader.thresholds.mask,
                "threshold source": "the checkpoint's card, set on its development patients",
                "instances are": "26-connected components, matched one to one (our reading)",
                "duplicates": "every finding with a mask counts once",
            },
            pictures={"dice": partial(overlaps, dice=dice)},
        )
