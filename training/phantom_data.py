"""The phantoms of a training config: anatomy sources with their shares, and the stream of crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from training.phantoms.labelmaps import LabelMapAnatomy, load_folder
from training.phantoms.procedural import procedural_anatomy
from training.phantoms.tissues import Anatomy, AnatomySource
from training.samples import NOISE_HU, PhantomCrops
from training.settings import Settings


def _sample_label_map(anatomy: LabelMapAnatomy, height_mm: float, rng: np.random.Generator) -> Anatomy:
    return anatomy.sample(rng, height_mm)


def _sample_procedural(height_mm: float | None, coverage: str | None, rng: np.random.Generator) -> Anatomy:
    return procedural_anatomy(rng, spacing_mm=3.0, height_mm=height_mm, coverage=coverage)


def anatomy_sources(settings: Settings, folders: Sequence[Path]) -> list[tuple[AnatomySource, float]]:
    """Sources with their shares: the label maps in `folders`, and the procedural body."""
    data = settings.data
    maps = load_folder(folders, data["label_map_spacing_mm"]) if folders else []
    share = data["label_map_share"] if maps else 0.0
    sources: list[tuple[AnatomySource, float]] = [
        (partial(_sample_label_map, m, data["height_mm"]), share / len(maps)) for m in maps
    ]
    coverage = data.get("coverage")
    height_mm = data["height_mm"] if coverage is None else None
    sources.append((partial(_sample_procedural, height_mm, coverage), 1.0 - share))
    return sources


def phantom_crops(
    settings: Settings,
    folders: Sequence[Path],
    *,
    start: int,
    batch: int,
    stream: int = 0,
    part: tuple[int, int] = (0, 1),
) -> PhantomCrops:
    """The crops of a config, from batch number `start` on.

    Parameters
    ----------
    folders: of label maps.
    stream: another one for each process that makes crops of the same config on its own.
    part: number of this process and their count, of those that share a run.
    """
    data = settings.data
    return PhantomCrops(
        anatomy_sources(settings, folders),
        tuple(settings.model["window"]),
        settings.model["spacing_mm"],
        seed=data["seed"] + 1_000_003 * stream,
        start=start,
        batch=batch,
        crops=data["crops"],
        noise_hu=tuple(data.get("noise_hu", NOISE_HU)),
        part=part,
    )


__all__ = ["anatomy_sources", "phantom_crops"]
