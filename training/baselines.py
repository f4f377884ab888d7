"""Vanilla CLIP, the baseline: global report-volume alignment and nothing else.

``python -m training.baselines --config CONFIG --out FOLDER`` trains the encoder, data, steps and
seed of a config with that one loss, in the very loop of `training.pretrain`. No organ masks, no
masks of lesions, no dictionary, no prompts, no localization; every batch and its order are those of
the grounded run. With ``--init CHECKPOINT --windows DIR`` both stand on one frozen encoder (an
advantage that plain CLIP does not have: that encoder has learnt organs), which is a comparison that
two CPU cores can make. SigLIP stands for CLIP's softmax, because it is the grounded run's own global loss
(our choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from training.pretrain import run_command
from training.settings import Settings, Switches


def vanilla_clip(settings: Settings, frozen: bool = False) -> Settings:
    """The baseline of a config: its "report" loss alone.

    Slabs and organs are means in the space of whole volumes, the only one that it learns: so its
    prompts and snippets are compared with what was trained.

    Parameters
    ----------
    frozen: on the encoder that the grounded run leaves as it is, instead of one that is trained.

    Raises
    ------
    ValueError: if the config has no weight for "report", so that there is nothing to compare with.
    """
    if settings.loss.get("report", 0) <= 0:
        raise ValueError(
            f"config {settings.name!r} gives no weight to the loss 'report'; "
            "the baseline of a run is its global alignment, so name a config that has one"
        )
    parts = ["encoder"] if frozen else []
    return replace(
        settings,
        name=f"{settings.name}-clip",
        model={**settings.model, "pooling": "mean", "projectors": "shared"},
        optimiser={**settings.optimiser, "freeze": parts, "take": parts},
        # The only loss: its weight would only scale gradients, which AdamW undoes and clipping not.
        loss={"report": 1.0},
        data={**settings.data, "abnormalities": []},  # it draws no masks to search in
        lesion_voxels={},
        switches=dict.fromkeys(Switches.__dataclass_fields__, False),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    run_command(
        arguments,
        prog="python -m training.baselines",
        description="Train vanilla CLIP (global alignment only) with a config's encoder, data and steps.",
        change=vanilla_clip,
    )


if __name__ == "__main__":
    main()
