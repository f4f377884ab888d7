"""Fine-tune a checkpoint on a labelled tumour set of real CT, or on a node's corrections.

``python -m training.finetune CHECKPOINT SET --tumour liver_tumour --label 2 --organ-label 1 --out runs/x``
trains the lesion decoder and the text's mask classifier on chosen voxels, on a frozen encoder. A set
labels one kind of tumour and is silent about all others: what the checkpoint says of those is kept by
comparing with its own answers (our choice). Thresholds must be set anew (`training.calibrate`); organs,
language heads and a second look stay as they are, and what was labelled is not looked at again. With
``--archive`` it retrains on a node's archive instead (`training.retraining.command`,
``python -m training.finetune --archive DIR --help``).
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch.utils.data import IterableDataset

from core_model.abnormality import abnormalities, abnormality
from core_model.anatomy import organ
from core_model.checkpoint import Checkpoint, load_checkpoint
from core_model.inference import encode_scan, supports_bf16
from core_model.model import SightlineModel
from core_model.reader import searched
from core_model.thresholds import Thresholds
from training.labelled import LabelledCase, LabelledCrops, LabelledFiles, labelled_files, load_case
from training.lesion_voxels import text_logits
from training.losses import lesion_voxel_loss
from training.run import Run, follow
from training.samples import Crop
from training.settings import Settings
from training.start import STAGE_KEYS
from training.text_bank import TextBank, draw

KEEP_WEIGHT = 1.0  # of the agreement with the checkpoint on other abnormalities; our choice


@dataclass(frozen=True)
class Target:
    """What a set labels.

    Attributes
    ----------
    tumour: name in the abnormality dictionary.
    label: its value in the set's label maps.
    organ_label: the value of its organ there, or None: the checkpoint's own organ mask is taken.
    """

    tumour: str
    label: int
    organ_label: int | None = None

    @property
    def index(self) -> int:
        """Of the abnormality in the dictionary."""
        return [a.name for a in abnormalities()].index(self.tumour)


def prepare(
    files: Sequence[LabelledFiles], target: Target, model: SightlineModel, device: torch.device
) -> list[LabelledCase]:
    """The cases of a set on the model's grid, with what is searched.

    Raises
    ------
    ValueError: if a case cannot be read, or no case shows the tumour.
    """
    entry, cases = abnormality(target.tumour), []
    organ_label = organ(entry.organ).label
    for one in track(files, description="preparing cases", console=Console(stderr=True)):
        hu, labels, geometry = load_case(one, model.config.spacing_mm)
        tumour = torch.from_numpy(labels == target.label)  # (D, H, W)
        if target.organ_label is not None:
            where = torch.from_numpy(labels == target.organ_label)
        else:
            where = _predicted_organ(model, hu, geometry, device, organ_label)
        cases.append(
            LabelledCase(
                hu=hu[0, 0].round().short(),
                organs=((where | tumour) * organ_label).byte(),
                lesions=(tumour * (target.index + 1)).byte(),
            )
        )
    if not any(bool(c.lesions.any()) for c in cases):
        raise ValueError(
            f"no case has label {target.label}; name the value that dataset.json gives the tumour"
        )
    return cases


def _predicted_organ(
    model: SightlineModel, hu: torch.Tensor, geometry: Any, device: torch.device, label: int
) -> torch.Tensor:
    """(D, H, W) bool on `hu`'s grid: where the model sees the organ."""
    found = encode_scan(model, hu, geometry, device, supports_bf16(device))
    inside = found.organ_probability.argmax(0) == label
    offset = np.rint(
        geometry.map_reference_to_indices(found.geometry.map_indices_to_reference(np.zeros((1, 3))))[0]
    ).astype(int)
    whole = torch.zeros(hu.shape[2:], dtype=torch.bool)
    # The encoder evens odd sides by one layer, which the scan itself does not have.
    ends = [min(n, int(o) + m) for n, o, m in zip(whole.shape, offset, inside.shape, strict=True)]
    box = tuple(slice(int(o), e) for o, e in zip(offset, ends, strict=True))
    whole[box] = inside[tuple(slice(0, s.stop - s.start) for s in box)]
    return whole


class FineTuning(Run):
    """A run that starts from a checkpoint and learns from labelled cases.

    Parameters
    ----------
    settings: its ``[model]`` is not read: the checkpoint has its own.
    source: the checkpoint that is fine-tuned.
    cases: of `prepare`.
    target: what is labelled; None where `taught` says it.
    about: the set's ``dataset.json``.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        device: str,
        *,
        source: Checkpoint,
        cases: Sequence[LabelledCase],
        target: Target | None,
        about: dict[str, Any],
    ) -> None:
        self.source, self.cases, self.target, self.about = source, list(cases), target, about
        super().__init__(settings, out, [], device)
        self.teacher = copy.deepcopy(source.model).requires_grad_(False).to(self.device)
        card = source.card
        self.earlier = [*card.get("earlier_stages", []), {k: card[k] for k in STAGE_KEYS if k in card}]

    def start_model(self) -> SightlineModel:
        """The checkpoint's model, in which only lesions are learned."""
        model = copy.deepcopy(self.source.model).requires_grad_(False)
        for part in (model.lesion_decoder, model.text_to_mask):
            part.requires_grad_(True)
        model.channels_last()
        return model

    @property
    def taught(self) -> tuple[int, ...]:
        """Indices in the dictionary of what the set labels; of all else the source's answers are kept."""
        if self.target is None:
            raise ValueError("target is None; say what is labelled")
        return (self.target.index,)

    def data(self) -> IterableDataset[Crop]:
        """Crops of the cases that have not been read yet."""
        return LabelledCrops(
            self.cases,
            self.model.config.window,
            self.model.config.spacing_mm,
            abnormality=self.taught[0],
            seed=self.settings.data["seed"],
            start=self.read_batches,
            batch=int(self.settings.optimiser["batch"]),
        )

    def losses(self, bank: TextBank, batch: Crop, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """ "masks" of what is labelled, plus agreement with the checkpoint on all else."""
        voxels = self.voxels.draw(rng, self.settings.lesion_voxels["per_update"])
        wording = draw(bank.present, rng)  # (A, width)
        with torch.no_grad():
            before = text_logits(self.teacher, self.teacher.project_text(wording), voxels.read).sigmoid()
        logits = text_logits(self.model, self.model.project_text(wording), voxels.read)  # (N, A)
        own = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        own[list(self.taught)] = True
        kept = F.binary_cross_entropy_with_logits(logits[:, ~own], before[:, ~own])
        labelled = lesion_voxel_loss(logits[:, own], voxels.target[:, own], voxels.judged[:, own])
        return {"masks": labelled + KEEP_WEIGHT * kept}

    def about_data(self) -> dict[str, Any]:
        """What the card says of the data, besides the number of images."""
        found = {k: self.about[k] for k in ("name", "licence", "release") if k in self.about}
        return {"fine_tuned_on": found} | ({} if self.target is None else {"tumour": self.target.tumour})

    def card(self) -> dict[str, Any]:
        """What the checkpoint says of itself: its source's card, and the set."""
        left_out = {"thresholds", "calibration", "metrics", "digest"}
        card = {k: v for k, v in self.source.card.items() if k not in left_out} | super().card()
        card["description"] = (
            "Research model, fine-tuned on real CT with labelled tumours. Not a medical device."
        )
        card["data"] = {**self.about_data(), "real_images": len(self.cases)}
        labelled = {abnormalities()[index].name for index in self.taught}
        known = {a.name for a in searched(self.source.card)} | labelled
        card["abnormalities"] = [a.name for a in abnormalities() if a.name in known]
        card["text_encoder"] = self.source.card.get("text_encoder", card["text_encoder"])
        card["fine_tuned_from"] = self.source.identity.digest
        again = self.source.model.config.second_look
        if again:
            # A second look was taught by phantoms alone, and would not say what the set has.
            earlier = Thresholds.from_card(self.source.card).first_masks
            card["thresholds"] = {"first_masks": sorted({*earlier, *(labelled & set(again))})}
        return card


def fine_tuning_settings(source: Checkpoint, **changes: Any) -> Settings:
    """Settings of a fine-tuning run; values are our choice.

    Parameters
    ----------
    changes: "steps", "batch", "learning_rate" and "seed".
    """
    values = {"steps": 1000, "batch": 1, "learning_rate": 3e-4, "seed": 1, **changes}
    return Settings(
        name=f"{source.card['name']}-finetuned",
        version=str(source.card["version"]),
        model={},
        data={"seed": values["seed"], "workers": 0, "label_map_share": 0.0},
        optimiser={
            "steps": values["steps"],
            "batch": values["batch"],
            "learning_rate": values["learning_rate"],
            "warmup_steps": min(50, values["steps"]),
            "weight_decay": 1e-4,
            "clip": 5.0,
            "ema": 0.995,
        },
        loss={"masks": 1.0},
        lesion_voxels={"memory": 128, "first": 8, "per_update": 4096, "updates": 4},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if any(one.partition("=")[0] == "--archive" for one in given):
        from training.retraining.command import main as retrain  # noqa: PLC0415 - it needs this module

        retrain(given)
        return
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune",
        description="Fine-tune a checkpoint on a labelled tumour set: a folder with dataset.json, imagesTr "
        "and labelsTr (Medical Segmentation Decathlon). Interrupt it at will: the same command goes on.",
        epilog="example: python -m training.finetune runs/a/checkpoint Task03_Liver --tumour liver_tumour "
        "--label 2 --organ-label 1 --out runs/liver. On a node's archive and its radiologists' corrections: "
        "python -m training.finetune --archive ARCHIVE --out runs/ours (--archive ARCHIVE --help says more)",
    )
    tumours = [a.name for a in abnormalities() if a.tumour]
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder to start from")
    parser.add_argument("set", type=Path, help="folder of the set")
    parser.add_argument("--tumour", choices=tumours, required=True, help="what the set labels")
    parser.add_argument("--label", type=int, required=True, help="value of the tumour in the label maps")
    parser.add_argument("--organ-label", type=int, help="value of its organ there (default: predicted)")
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log and checkpoint")
    parser.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=1, help="crops per step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(given)
    target = Target(args.tumour, args.label, args.organ_label)
    device = torch.device(args.device)
    try:
        source = load_checkpoint(args.checkpoint)
        about, files = labelled_files(args.set)
        cases = prepare(files, target, source.model.to(device), device)
    except ValueError as error:
        parser.error(str(error))
    chosen = {k: getattr(args, k) for k in ("steps", "batch", "learning_rate", "seed")}
    settings = fine_tuning_settings(source, **chosen)
    args.out.mkdir(parents=True, exist_ok=True)
    follow(
        FineTuning(settings, args.out, args.device, source=source, cases=cases, target=target, about=about)
    )


if __name__ == "__main__":
    main()
