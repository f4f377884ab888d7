"""What the numbers of a set's own label maps mean: one organ, and the abnormalities outlined in it.

Not a reader of files. Sets of this kind (Decathlon, KiTS, LiTS) outline one organ or none, so that beyond it
nothing is known of organs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import highdicom as hd
import numpy as np
import numpy.typing as npt

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from training.datasets.files import OTHER_LABELS
from training.datasets.sample import Record, Sample, UnusableSampleError
from training.phantoms.tissues import IGNORE


@dataclass(frozen=True)
class LabelValues:
    """The values of a label map.

    Attributes
    ----------
    organ: reading organ that is outlined; None where none is.
    organ_values: all values that are of the organ, abnormalities in it included.
    abnormalities: value -> name in the abnormality dictionary.
    exhaustive: those of the abnormalities that are outlined wherever they are.
    other_values: values that the set has and nothing here has a name for; not of the organ.
    """

    organ: str | None = None
    organ_values: tuple[int, ...] = ()
    abnormalities: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    exhaustive: frozenset[str] = frozenset()
    other_values: tuple[int, ...] = ()

    @property
    def known(self) -> frozenset[int]:
        """All values that a label map of the set may hold."""
        return frozenset({0, *self.organ_values, *self.abnormalities, *self.other_values})

    def organs_of(self, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8] | None:
        """(slices, rows, columns) uint8 as `Sample.organs`; `IGNORE` beyond the organ, None without one."""
        if self.organ is None:
            return None
        inside = np.isin(labels, self.organ_values)
        return np.where(inside, organ(self.organ).label, IGNORE).astype(np.uint8)

    def tumours_of(self, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8] | None:
        """(slices, rows, columns) uint8 as `Sample.tumours`; None where none are outlined."""
        if not self.abnormalities:
            return None
        number = {a.name: n for n, a in enumerate(abnormalities(), start=1)}
        table = np.zeros(256, dtype=np.uint8)
        for value, name in self.abnormalities.items():
            table[value] = number[name]
        return table[labels.astype(np.uint8)]

    def sample(self, record: Record, volume: hd.Volume, labels: npt.NDArray[np.generic]) -> Sample:
        """A sample of an image and its label map.

        Parameters
        ----------
        labels: (slices, rows, columns) on the voxels of `volume`, in the set's own values.

        Raises
        ------
        UnusableSampleError: if the map holds values that the set does not have.
        """
        found = np.unique(labels)
        strange = sorted(set(found.tolist()) - self.known)
        if strange:
            raise UnusableSampleError(OTHER_LABELS, f"value {strange[0]:g} is none of {sorted(self.known)}")
        whole = labels.astype(np.int64)
        return Sample(
            record,
            volume,
            organs=self.organs_of(whole),
            tumours=self.tumours_of(whole),
            tumours_labelled=self.exhaustive,
        )


__all__ = ["LabelValues"]
