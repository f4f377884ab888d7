"""Organ masks that were drawn for a set (`training.organ_masks`), put into its samples.

Masks that a set has itself stand: they were drawn for it or by a person. Not the drawing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from core_model.anatomy import organ, organs, structures
from training.datasets.files import read_mask, relabelled
from training.datasets.sample import Sample, UnusableSampleError
from training.datasets.silence import V2_SILENT

LABELS = "labels.json"
SCHEMA = "sightline-organ-masks/1"


class DrawnMasks:
    """A folder of drawn masks.

    Parameters
    ----------
    folder: of ``python -m training.organ_masks``.

    Raises
    ------
    ValueError: if it is none, or its labels name no organ.
    """

    def __init__(self, folder: Path) -> None:
        try:
            said = json.loads((folder / LABELS).read_text(encoding="utf-8"))
            if said["schema"] != SCHEMA:
                raise ValueError(f"schema {said['schema']!r}; this version reads {SCHEMA!r}")
            names = {int(value): str(name) for value, name in said["labels"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder} holds no organ masks ({error}); draw them: python -m training.organ_masks SET "
                f"--out {folder} --with own"
            ) from error
        known = {o.name: o.label for o in organs()}
        known |= {s.name: organ(s.reading_organ).label for s in structures() if s.reading_organ}
        self._table = {value: known[name] for value, name in names.items() if name in known}
        if not self._table:
            raise ValueError(f"{folder / LABELS} names no organ that is read; draw the task 'total'")
        self.folder = folder
        self._silent = V2_SILENT - {o.name for o in organs() if o.label in self._table.values()}

    def added(self, sample: Sample) -> Sample:
        """A sample with the organs that were drawn for it.

        Raises
        ------
        UnusableSampleError: if none were drawn, or they lie on another grid.
        """
        if sample.organs is not None:
            return sample
        path = self.folder / f"{sample.record.name}.nii.gz"
        if not path.is_file():
            raise UnusableSampleError("no organ mask was drawn")
        drawn = relabelled(read_mask(path, sample.volume, "organ mask"), self._table, "organ mask")
        return replace(sample, organs=drawn, organs_silent=self._silent)


__all__ = ["DrawnMasks"]
