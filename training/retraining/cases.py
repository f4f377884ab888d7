"""Corrected studies on the model's grid: what their outlines and verdicts say, and where organs are.

Organs are the base checkpoint's own, from its frozen encoder: radiologists correct lesions. What a study does
not speak of is unknown here, not absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch

from core_model.abnormality import Abnormality, abnormalities
from core_model.inference import ScanFeatures
from core_model.volume import canonical
from training.datasets.archive import CorrectedStudy
from training.datasets.sample import UnusableSampleError
from training.labelled import LabelledCase
from training.phantoms.dicom import nearest

UNKNOWN = -1.0


def lesion_labels(study: CorrectedStudy) -> npt.NDArray[np.uint8] | None:
    """(slices, rows, columns) uint8, 1 + index of the abnormality in the dictionary; None: nothing is said.

    Raises
    ------
    UnusableSampleError: a segment is neither an organ nor of the dictionary: what else its voxels are is
        not known, and so of no voxel whether it is healthy.
    """
    if study.labels is None:
        return None
    names = [a.name for a in abnormalities()]
    found = np.zeros(study.labels.shape, dtype=np.uint8)
    for segment in study.segments:
        if segment.abnormality is not None:
            found[study.labels == segment.label] = names.index(segment.abnormality) + 1
        elif segment.organ is None or segment.name == "unknown":
            raise UnusableSampleError("an outlined segment is of no kind that the dictionary knows")
    return found


def finding_truth(study: CorrectedStudy, said: Mapping[str, bool] | None = None) -> torch.Tensor:
    """(A,) float32: 1 present, 0 absent, `UNKNOWN`, of all abnormalities of the dictionary.

    A verdict counts most, then an outline (present; where all lesions were outlined, a tumour that has none
    is absent only if a verdict says so), then a report.

    Parameters
    ----------
    said: what a report says, by abnormality.
    """
    names = [a.name for a in abnormalities()]
    truth = torch.full((len(names),), UNKNOWN)
    for name, present in (said or {}).items():
        if name in names:
            truth[names.index(name)] = float(present)
    for segment in study.segments:
        if segment.abnormality is not None:
            truth[names.index(segment.abnormality)] = 1.0
    for verdict in study.verdicts:
        if verdict.presence in ("present", "absent") and verdict.abnormality in names:
            truth[names.index(verdict.abnormality)] = float(verdict.presence == "present")
    return truth


def labelled_case(
    hu: torch.Tensor,
    geometry: hd.VolumeGeometry,
    features: ScanFeatures,
    labels: npt.NDArray[np.uint8],
    volume: hd.Volume,
) -> LabelledCase:
    """A study's outlines on the model's grid, as `training.labelled` crops them.

    Parameters
    ----------
    hu, geometry: (1, 1, D, H, W) on the model's grid, and that grid (`core_model.volume.to_model_grid`).
    features: of the same scan, by the base checkpoint.
    labels: of `lesion_labels`, on the voxels of `volume`.
    """
    upright = canonical(volume.with_array(labels))
    lesions = nearest(torch.from_numpy(np.ascontiguousarray(upright.array)), upright.get_geometry(), geometry)
    organs = torch.zeros(hu.shape[2:], dtype=torch.uint8)
    first = features.geometry.map_indices_to_reference(np.zeros((1, 3)))
    offset = np.rint(geometry.map_reference_to_indices(first)[0]).astype(int)
    inside = features.organ_probability.argmax(0).byte()
    # The encoder evens odd sides by one layer, which the scan itself does not have.
    ends = [min(n, int(o) + m) for n, o, m in zip(organs.shape, offset, inside.shape, strict=True)]
    box = tuple(slice(int(o), e) for o, e in zip(offset, ends, strict=True))
    organs[box] = inside[tuple(slice(0, s.stop - s.start) for s in box)]
    return LabelledCase(hu=hu[0, 0].round().short(), organs=organs, lesions=torch.from_numpy(lesions))


def outlined_kinds(searched: Sequence[Abnormality], cases: Sequence[LabelledCase]) -> list[str]:
    """What the outlines of `cases` decide: every tumour that is searched, and whatever was outlined."""
    names = [a.name for a in abnormalities()]
    drawn = {names[int(v) - 1] for case in cases for v in np.unique(case.lesions.numpy()).tolist() if v}
    known = {a.name for a in searched if a.tumour}
    return [name for name in names if name in drawn | known]
