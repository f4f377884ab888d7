"""The lesion stage of retraining: corrected outlines teach the lesion decoder, voxel by voxel.

As `training.finetune` on a labelled set, with all tumours labelled at once. What outlines do not speak of
(findings that are no tumours) is held by the base checkpoint's own answers on the same voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from core_model.abnormality import abnormalities
from core_model.checkpoint import Checkpoint
from training.finetune import FineTuning, fine_tuning_settings
from training.labelled import LabelledCase, LabelledCrops
from training.retraining.cases import UNKNOWN
from training.samples import Crop


class CorrectedCrops(LabelledCrops):
    """Crops of corrected studies; of findings nothing is said here (`training.retraining.findings`)."""

    def _sample(self, n: int) -> Crop:
        made = super()._sample(n)
        return replace(made, findings=torch.full_like(made.findings, UNKNOWN))


class LesionRetraining(FineTuning):
    """A resumable run.

    Parameters
    ----------
    cases: at least one.
    kinds: names of the abnormalities that outlines decide.
    changes: as of `training.finetune.fine_tuning_settings`.
    """

    def __init__(
        self,
        out: Path,
        device: str,
        *,
        source: Checkpoint,
        cases: Sequence[LabelledCase],
        kinds: Sequence[str],
        **changes: Any,
    ) -> None:
        names = [a.name for a in abnormalities()]
        self.kinds = list(kinds)
        self._taught = tuple(names.index(kind) for kind in kinds)
        settings = fine_tuning_settings(source, **changes)
        super().__init__(settings, out, device, source=source, cases=cases, target=None, about={})

    @property
    def taught(self) -> tuple[int, ...]:
        """Indices of what outlines decide."""
        return self._taught

    def data(self) -> IterableDataset[Crop]:
        """Crops of the cases that have not been read yet."""
        return CorrectedCrops(
            self.cases,
            self.model.config.window,
            self.model.config.spacing_mm,
            abnormality=self._taught[0],
            seed=self.settings.data["seed"],
            start=self.read_batches,
            batch=int(self.settings.optimiser["batch"]),
        )

    def about_data(self) -> dict[str, Any]:
        """What the card says of the data."""
        return {"outlined_studies": len(self.cases), "outlined": self.kinds}
