"""Shards of a few painted bodies with reports, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from core_model.anatomy import organ
from tests.tiny import body_volume
from training.datasets.sample import Record
from training.own_words import OrganWords, OwnWords
from training.snippets import CropSnippet
from training.volume_shards import StoredSample, describe, write_shard

SPACING_MM = 6.0
REPORTS = (
    ("The liver is normal.", True),
    ("There is a hypodense liver lesion.", False),
    ("The liver is of low density.", False),
)


def small_sample(number: int, shape: tuple[int, int, int] = (20, 36, 36)) -> StoredSample:
    """A body with a liver; every third has a tumour in it, and each says something else of it."""
    rng = np.random.default_rng(number)
    hu = torch.from_numpy(body_volume(shape).array) + float(rng.normal(0, 5))
    organs = torch.zeros(shape, dtype=torch.uint8)
    organs[2:14, 8:26, 6:20] = organ("liver").label
    lesions = torch.zeros(shape, dtype=torch.uint8)
    findings = torch.full((29,), -1.0)
    text, normal = REPORTS[number % len(REPORTS)]
    findings[0] = float(number % len(REPORTS) == 1)
    if findings[0] == 1:
        lesions[6:9, 12:15, 10:13] = 1
        hu[6:9, 12:15, 10:13] -= 60
    return StoredSample(
        name=f"sample-{number}",
        hu=hu.round().short(),
        organs=organs,
        lesions=lesions,
        outlined=True,
        findings=findings,
        words=OwnWords((OrganWords("liver", text, normal),), (text, f"Study {number} of the chest.")),
        snippets=(CropSnippet(text, 7),),
    )


def small_shards(folder: Path, count: int = 8, per_shard: int = 3) -> Path:
    """Write them."""
    records = [Record(f"sample-{n}", f"patient-{n}", "train", folder) for n in range(count)]
    describe(folder, source="small", spacing_mm=SPACING_MM, records=records, per_shard=per_shard)
    for k in range(-(-count // per_shard)):
        numbers = range(k * per_shard, min(count, (k + 1) * per_shard))
        write_shard(folder, k, [small_sample(n) for n in numbers], [])
    return folder
