"""Volumes on the model's grid, in shards: what training reads of a data set, made once.

``python -m training.cache FOLDER --out DIR`` reads every sample of a set, resamples it, mines its report, and
writes shards: a safetensors file for the voxels of some samples and a JSON file for their words. A run then
opens one sample at a time, in an order that is random and yet reads shard by shard. Interrupt it at will:
whole shards are not made again. Not a format for exchange: another spacing needs other shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core_model.anatomy import organ
from core_model.volume import to_model_grid
from training.datasets.sample import Problem, Record, Sample, UnusableSampleError
from training.datasets.silence import BESIDE, within_reach
from training.datasets.what_is_said import what_is_said
from training.own_words import OrganWords, OwnWords
from training.phantoms.dicom import nearest
from training.phantoms.tissues import IGNORE
from training.snippets import CropSnippet
from training.whole_files import whole_file

SCHEMA = "sightline-shards/1"
INDEX = "index.json"
PER_SHARD = 32  # samples; at 4 mm some 80 MB of chests
POOL = 8  # shards whose samples are mixed
LONGEST_MM = 2500.0  # no scanner's table is longer: a spacing is wrong


@dataclass(frozen=True)
class StoredSample:
    """One sample as training reads it.

    Attributes
    ----------
    name: in its set.
    hu: (D, H, W) int16 on the model's grid, first axis from the feet.
    organs: (D, H, W) uint8 reading organ labels, `IGNORE` where unknown.
    lesions: (D, H, W) uint8, 1 + index in the dictionary, 0 where none.
    outlined: the set outlines lesions, so that 0 in `lesions` means none of those that it labels.
    findings: (A,) float32: 1 present, 0 absent, -1 unknown.
    words: the report's.
    snippets: sentences with their slice on the model's grid.
    """

    name: str
    hu: torch.Tensor
    organs: torch.Tensor
    lesions: torch.Tensor
    outlined: bool
    findings: torch.Tensor
    words: OwnWords
    snippets: tuple[CropSnippet, ...]


def prepare(sample: Sample, spacing_mm: float) -> StoredSample:
    """A sample on the model's grid, with what is said of it.

    Raises
    ------
    UnusableSampleError: if the grid cannot be that of a patient.
    """
    geometry = sample.volume.get_geometry()
    extent = max(n * s for n, s in zip(geometry.spatial_shape, geometry.spacing, strict=True))
    if extent > LONGEST_MM:
        raise UnusableSampleError("spacing is implausible", f"an axis of {extent / 1000:.1f} m")
    hu, target = to_model_grid(sample.volume, spacing_mm)  # (1, 1, D, H, W)

    def moved(labels: Any, fill: int) -> torch.Tensor:
        if labels is None:
            return torch.full(hu.shape[2:], fill, dtype=torch.uint8)
        values = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.uint8))
        return torch.from_numpy(nearest(values, geometry, target))

    organs = _without_silent(moved(sample.organs, IGNORE), sample.organs_silent, spacing_mm)
    said = what_is_said(sample)
    ratio = geometry.spacing[0] / spacing_mm
    snippets = tuple(
        CropSnippet(s.text, min(hu.shape[2] - 1, int((s.slice_index + 0.5) * ratio))) for s in sample.snippets
    )
    return StoredSample(
        name=sample.record.name,
        hu=hu[0, 0].round().clamp(-1024, 3071).short(),
        organs=organs,
        lesions=moved(sample.tumours, 0),
        outlined=sample.tumours is not None,
        findings=torch.tensor(said.findings),
        words=said.words,
        snippets=snippets,
    )


def _without_silent(labels: torch.Tensor, silent: frozenset[str], spacing_mm: float) -> torch.Tensor:
    """Labels of organs, `IGNORE` where one may be of which they say nothing."""
    unknown = np.zeros(labels.shape, dtype=bool)
    for name in silent:
        unknown |= within_reach(labels.numpy() == organ(BESIDE[name]).label, spacing_mm)
    return labels.masked_fill(torch.from_numpy(unknown) & (labels == 0), IGNORE)


def shard_name(number: int) -> str:
    """Of shard `number`, without its ending."""
    return f"{number:05d}"


def write_shard(
    folder: Path, number: int, samples: Sequence[StoredSample], skipped: Sequence[Problem]
) -> None:
    """Write one shard; its JSON file comes last and says that it is whole."""
    tensors, words = {}, []
    for i, sample in enumerate(samples):
        for key in ("hu", "organs", "lesions", "findings"):
            tensors[f"{i}.{key}"] = getattr(sample, key).contiguous()
        words.append(
            {
                "name": sample.name,
                "outlined": sample.outlined,
                "words": asdict(sample.words),
                "snippets": [asdict(s) for s in sample.snippets],
            }
        )
    stem = folder / shard_name(number)
    with whole_file(stem.with_suffix(".safetensors")) as part:
        save_file(tensors, part)
    write_json(stem.with_suffix(".json"), {"samples": words, "skipped": [asdict(p) for p in skipped]})


def write_json(path: Path, document: dict[str, Any]) -> None:
    """A JSON file that is there whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(document), encoding="utf-8")


def describe(
    folder: Path, *, source: str, spacing_mm: float, records: Sequence[Record], per_shard: int
) -> None:
    """Write the index, or check that the folder was begun for the same set and spacing.

    Raises
    ------
    ValueError: if it was begun for another.
    """
    about = {
        "schema": SCHEMA,
        "source": source,
        "spacing_mm": spacing_mm,
        "per_shard": per_shard,
        "records": len(records),
    }
    path = folder / INDEX
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        different = [key for key in about if known.get(key) != about[key]]
        if different:
            key = different[0]
            raise ValueError(
                f"{folder} holds shards with {key} {known.get(key)!r}, not {about[key]!r}; "
                "name another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, about)


class Shards:
    """A folder of shards, opened.

    Parameters
    ----------
    folder: of `training.cache`.

    Raises
    ------
    ValueError: if it holds no shards of this version.
    """

    def __init__(self, folder: Path) -> None:
        try:
            about = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if about["schema"] != SCHEMA:
                raise ValueError(f"schema {about['schema']!r}; this version reads {SCHEMA!r}")
            self.source, self.spacing_mm = str(about["source"]), float(about["spacing_mm"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder} holds no shards ({error}); make them: python -m training.cache SET --out {folder}"
            ) from error
        self.folder = folder
        if not self.places:
            raise ValueError(f"{folder} holds no sample that can be used; see python -m training.check SET")

    @cached_property
    def _documents(self) -> dict[int, dict[str, Any]]:
        files = sorted(self.folder.glob("[0-9]" * 5 + ".json"))
        return {int(f.stem): json.loads(f.read_text(encoding="utf-8")) for f in files}

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """(shard, number in it) of each sample."""
        return tuple((k, i) for k, d in self._documents.items() for i in range(len(d["samples"])))

    @property
    def real_images(self) -> int:
        """Count of samples."""
        return len(self.places)

    @property
    def skipped(self) -> dict[str, int]:
        """Why samples of the set were left out, and how many."""
        found: dict[str, int] = {}
        for document in self._documents.values():
            for problem in document["skipped"]:
                found[problem["kind"]] = found.get(problem["kind"], 0) + 1
        return found

    def load(self, place: tuple[int, int]) -> StoredSample:
        """One sample.

        Raises
        ------
        ValueError: if its shard is damaged.
        """
        number, i = place
        about = self._documents[number]["samples"][i]
        path = (self.folder / shard_name(number)).with_suffix(".safetensors")
        try:
            with safe_open(path, "pt") as opened:
                held = {k: opened.get_tensor(f"{i}.{k}") for k in ("hu", "organs", "lesions", "findings")}
        except (OSError, SafetensorError) as error:
            json_file = path.with_suffix(".json").name
            raise ValueError(
                f"{path} is damaged ({error}); delete it and {json_file}, and make it again"
            ) from error
        organs = tuple(OrganWords(**o) for o in about["words"]["organs"])
        return StoredSample(
            name=about["name"],
            outlined=about["outlined"],
            words=OwnWords(organs, tuple(about["words"]["report"])),
            snippets=tuple(CropSnippet(**s) for s in about["snippets"]),
            **held,
        )

    def order(self, seed: int, turn: int) -> Iterator[tuple[int, int]]:
        """All samples once, mixed within `POOL` shards at a time: random, and yet read shard by shard."""
        rng = np.random.default_rng([seed, 13, turn])
        shards = rng.permutation(sorted(self._documents))
        for first in range(0, len(shards), POOL):
            pool = set(shards[first : first + POOL].tolist())
            held = [p for p in self.places if p[0] in pool]
            yield from (held[i] for i in rng.permutation(len(held)))


__all__ = [
    "PER_SHARD",
    "Shards",
    "StoredSample",
    "describe",
    "prepare",
    "shard_name",
    "write_json",
    "write_shard",
]
