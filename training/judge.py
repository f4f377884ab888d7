"""Grow the judge of places: ``python -m training.judge CHECKPOINT --places DIR --out DIR``.

Boosted trees (LightGBM) on places of whole patients (`training.stored_places`), added to a share of what the
tumours' own masks say. The last stage of a checkpoint: whatever changes its encoder or masks changes what a
judge reads, so it is grown anew then, in minutes. Prints and keeps in the card how many tumours it
finds in patients that were left out; the benchmark says the rest. Thresholds are set afterwards
(`training.calibrate`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from core_model.boosted_trees import BoostedTrees
from core_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core_model.model import EVIDENCE, SightlineModel
from training.stored_places import PatientPlaces, place_files, weights

FOLDS = 5
LARGE_MM = 10.0  # tumours that must be found; smaller ones count as neither found nor missed
SHARE = 0.5  # a tumour with n places counts n ** SHARE, our choice: large ones have many
LEAVES = 16
PARAMETERS: dict[str, Any] = {  # of LightGBM; by development patients, our choice
    "objective": "binary",
    "num_leaves": LEAVES,
    "learning_rate": 0.05,
    "feature_fraction": 0.1,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "min_child_samples": 20,
    "min_sum_hessian_in_leaf": 0.5,
    "lambda_l2": 5.0,
    "boost_from_average": False,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
START = -4.0  # logit of a place before anything is seen of it: one in fifty is a tumour


@dataclass(frozen=True)
class Examples:
    """Places of several patients, the first axis counts them.

    Attributes
    ----------
    features: (N, F); evidence: (N,), as `PatientPlaces`.
    true: (N,) bool.
    weight: (N,) how much each counts.
    """

    features: npt.NDArray[np.float32]
    evidence: npt.NDArray[np.float32]
    true: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]

    @classmethod
    def of(cls, patients: Sequence[PatientPlaces]) -> Examples:
        """Of all that have places.

        Raises
        ------
        ValueError: if no place is a tumour, or all are.
        """
        seen = [p for p in patients if len(p.kind)]
        true = np.concatenate([p.lesion > 0 for p in seen]) if seen else np.zeros(0, dtype=bool)
        if not true.any() or true.all():
            raise ValueError(
                f"{int(true.sum())} of {len(true)} places are tumours; both kinds are needed: "
                "store more patients"
            )
        return cls(
            np.concatenate([p.features for p in seen]),
            np.concatenate([p.evidence for p in seen]),
            true,
            np.concatenate([weights(p) * _shares(p) for p in seen]),
        )


def _shares(patient: PatientPlaces) -> npt.NDArray[np.float32]:
    """(N,) weights that let a tumour with many places count for less than so many tumours."""
    share = np.ones(len(patient.kind), dtype=np.float32)
    for kind, value in set(zip(patient.kind.tolist(), patient.lesion.tolist(), strict=True)):
        if value:
            own = (patient.kind == kind) & (patient.lesion == value)
            share[own] = own.sum() ** (SHARE - 1)
    return share


def grow(examples: Examples, rounds: int, seed: int = 0) -> BoostedTrees:
    """Trees that say which places are tumours, beside `core_model.model.EVIDENCE` of their masks."""
    import lightgbm  # noqa: PLC0415 - only here: the rest of training needs none of it

    data = lightgbm.Dataset(
        examples.features,
        examples.true.astype(np.int8),
        weight=examples.weight,
        init_score=START + EVIDENCE * examples.evidence,
    )
    grown = lightgbm.train({**PARAMETERS, "seed": seed}, data, num_boost_round=rounds)
    return trees_of(grown.dump_model()["tree_info"], LEAVES)


def trees_of(dumped: Sequence[dict[str, Any]], leaves: int) -> BoostedTrees:
    """Trees of ``lightgbm.Booster.dump_model``, and `START` as the first one.

    Raises
    ------
    ValueError: if a tree has more leaves than `leaves`.
    """
    trees = BoostedTrees(1 + len(dumped), leaves)
    trees.value[0] = START
    for number, tree in enumerate(dumped, start=1):
        if tree["num_leaves"] > leaves:
            raise ValueError(f"tree {number - 1} has {tree['num_leaves']} leaves; {leaves} are the most")
        if "split_index" in tree["tree_structure"]:
            _take(trees, number, tree["tree_structure"])
        else:  # a tree of one leaf asks nothing
            trees.value[number] = tree["tree_structure"]["leaf_value"]
    # As the checkpoint keeps them.
    trees.threshold.copy_(trees.threshold.half())
    trees.value.copy_(trees.value.half())
    return trees


def _take(trees: BoostedTrees, number: int, node: dict[str, Any]) -> int:
    """Take over a node and all below it; its index, below 0 for a leaf."""
    if "split_index" not in node:
        trees.value[number, node["leaf_index"]] = node["leaf_value"]
        return -1 - int(node["leaf_index"])
    index = int(node["split_index"])
    trees.feature[number, index] = node["split_feature"]
    trees.threshold[number, index] = node["threshold"]
    for side, name in enumerate(("left_child", "right_child")):
        trees.child[number, index, side] = _take(trees, number, node[name])
    return index


def judged(trees: BoostedTrees, patient: PatientPlaces) -> npt.NDArray[np.float32]:
    """(N,) logits of a patient's places."""
    if not len(patient.kind):
        return np.zeros(0, dtype=np.float32)
    said = trees(torch.from_numpy(patient.features)).numpy()
    return np.asarray(said + EVIDENCE * patient.evidence, dtype=np.float32)


def found_share(
    patients: Sequence[PatientPlaces], logits: Sequence[npt.NDArray[np.float32]], false_per_study: float
) -> float:
    """Share of the tumours of `LARGE_MM` and more that are found at so many false places in each patient.

    One threshold for all kinds. NaN where there is no such tumour.
    """
    false = [x[p.lesion == 0] for p, x in zip(patients, logits, strict=True)]
    worst = np.sort(np.concatenate(false))[::-1]
    allowed = false_per_study * len(patients)
    level = worst[int(allowed)] if allowed < len(worst) else -np.inf
    found = []
    for patient, logit in zip(patients, logits, strict=True):
        for one in patient.planted:
            if one.value and one.diameter_mm >= LARGE_MM:
                own = logit[patient.lesion == one.value]
                found.append(bool((own > level).any()))
    return float(np.mean(found)) if found else float("nan")


def cross_validated(patients: Sequence[PatientPlaces], rounds: int, console: Console) -> dict[str, float]:
    """What trees of the other patients find in each fold; more tumours than usual are in them."""
    logits: list[npt.NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * len(patients)
    for fold in track(range(FOLDS), description="folds", console=console):
        trees = grow(Examples.of([p for i, p in enumerate(patients) if i % FOLDS != fold]), rounds)
        for i in range(fold, len(patients), FOLDS):
            logits[i] = judged(trees, patients[i])
    masks = [p.evidence for p in patients]
    return {
        "found_at_1": round(found_share(patients, logits, 1.0), 4),
        "found_by_masks_at_1": round(found_share(patients, masks, 1.0), 4),
        "places_on": round(found_share(patients, masks, np.inf), 4),
    }


def with_judge(checkpoint: Checkpoint, trees: BoostedTrees) -> SightlineModel:
    """The checkpoint's model with other trees."""
    config = replace(checkpoint.model.config, trees=(len(trees), trees.value.shape[1]))
    model = SightlineModel(config, checkpoint.model.text.tokenizer_json)
    own = {k: v for k, v in checkpoint.model.state_dict().items() if not k.startswith("place_judge.")}
    model.load_state_dict(own | {f"place_judge.{k}": v for k, v in trees.state_dict().items()})
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.judge",
        description="Grow the trees that say which places of a scan are tumours, on stored patients.",
        epilog="example: python -m training.judge runs/heads/checkpoint --places runs/places "
        "--out runs/judge; then python -m training.calibrate runs/judge",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--places", type=Path, required=True, metavar="DIR", help="of training.stored_places")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the new checkpoint"
    )
    parser.add_argument("--rounds", type=int, default=500, help="number of trees (default: %(default)s)")
    parser.add_argument("--version", help="of the new checkpoint (default: that of the old one)")
    args = parser.parse_args(arguments)
    console = Console()
    try:
        checkpoint = load_checkpoint(args.checkpoint)
        patients = [PatientPlaces.load(file) for file in place_files(args.places, checkpoint)]
        if args.rounds < 1 or len(patients) < FOLDS:
            parser.error(
                f"--rounds is {args.rounds} with {len(patients)} patients; 1 and {FOLDS} are the least"
            )
        figures = cross_validated(patients, args.rounds, console)
        examples = Examples.of(patients)
        trees = grow(examples, args.rounds)
    except ValueError as error:
        parser.error(str(error))
    left_out = ("thresholds", "calibration", "metrics", "digest")
    card = {k: v for k, v in checkpoint.card.items() if k not in left_out}
    card["judge"] = {
        "patients": len(patients),
        "places": len(examples.true),
        "tumour_places": int(examples.true.sum()),
        "rounds": args.rounds,
        "parameters": {k: v for k, v in PARAMETERS.items() if k != "verbose"},
        "left_out_patients": figures,
    }
    save_checkpoint(
        with_judge(checkpoint, trees), card | {"version": args.version or card["version"]}, args.out
    )
    console.print_json(data=card["judge"])


if __name__ == "__main__":
    main()
