"""What is kept of a scan that was read: its features as a `StudyEncoding`. Finds nothing, writes no file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from core_model.inference import ScanFeatures
from core_model.model import SightlineModel
from core_model.reading import KnownPlace, ModelIdentity, SliceReference, StudyEncoding


def encode_study(
    model: SightlineModel,
    features: ScanFeatures,
    pooled: torch.Tensor,
    *,
    organ_present: npt.NDArray[np.bool_],
    places: tuple[KnownPlace, ...],
    slices: tuple[SliceReference, ...],
    identity: ModelIdentity,
    series_instance_uid: str | None,
) -> StudyEncoding:
    """The encoding of a scan.

    Parameters
    ----------
    model: whose features they are.
    pooled: (O, E) organ embeddings.
    organ_present: (O,), organs whose embedding is kept.
    places: that are known of the dictionary.
    slices: of the source series.
    identity: of the model.
    series_instance_uid: of the source, or None (NIfTI).
    """
    device = next(model.parameters()).device
    body = F.max_pool3d(features.body[None, None].float(), 2)[0, 0] > 0  # (d, h, w)
    unit = F.normalize(features.grid, dim=0) * body  # (E, d, h, w)
    whole = model.summarise(features.grid[None].to(device), body[None].to(device))
    shares = F.avg_pool3d(features.organ_probability[None], 2)[0]
    grid_organs = shares.argmax(0).to(torch.uint8) * body
    d, h, w = body.shape
    middle = np.array([[k, (h - 1) / 2, (w - 1) / 2] for k in range(d)])
    return StudyEncoding(
        global_feature=whole.volume[0].cpu().numpy().astype(np.float32),
        organ_features=(pooled * torch.from_numpy(organ_present)[:, None]).numpy().astype(np.float32),
        organ_present=organ_present,
        slab_features=whole.slabs[0].cpu().numpy().astype(np.float32),
        slab_centres_mm=features.grid_geometry.map_indices_to_reference(middle).astype(np.float32),
        grid=features.grid_geometry,
        grid_features=unit.permute(1, 2, 3, 0).numpy().astype(np.float16),
        grid_organs=grid_organs.numpy().astype(np.uint8),
        slices=slices,
        model=identity,
        series_instance_uid=series_instance_uid,
        known_places=places,
    )
