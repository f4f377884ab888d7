"""What the search over all studies keeps of one study, in a file beside its results.

Its landmarks with their hits, and of each finding the probability and the hit at its evidence. Derived from
the encoding and ``reading.json``: it is made anew where it is missing, damaged or of another model.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from core_model.encoding_file import load_encoding
from core_model.landmarks import landmarks
from core_model.localization import Searchable, place_at
from core_model.reading import point_lps
from dicom_node.reading_files import ENCODING, READING
from dicom_node.service.models import Hit

LANDMARKS = "landmarks.safetensors"
FORMAT = "sightline-landmarks/2"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SearchedFinding:
    """A finding whose organ is in view: its probability, and where its evidence is."""

    probability: float
    hit: Hit


@dataclass(frozen=True)
class Landmarked:
    """What is compared of a study.

    Attributes
    ----------
    vectors: (M, E) float32.
    probability: of each finding whose organ is in view, by abnormality.
    """

    vectors: Floats
    probability: dict[str, float] = field(default_factory=dict)


def make_landmarks(folder: Path, digest: str, *, by_slab: bool) -> Landmarked:
    """Choose the landmarks of the reading in a results folder and keep them beside it.

    Raises
    ------
    EncodingError: the encoding is missing or damaged.
    ValueError: another model made it, it shows no body, or ``reading.json`` is damaged.
    OSError: ``reading.json`` cannot be read.
    """
    encoding = load_encoding(folder / ENCODING)
    if encoding.model.digest != digest:
        raise ValueError("another model read this study")
    study = Searchable(encoding)
    chosen = landmarks(study, by_slab=by_slab)
    hits = [Hit.of(place_at(study, "", cell, 0.0)) for cell in chosen.cells]
    document = json.loads((folder / READING).read_text(encoding="utf-8"))
    findings = {f["abnormality"]: found for f in document["findings"] if (found := _finding(study, f))}
    save_landmarks(folder, chosen.vectors, hits, digest, findings)
    vectors = chosen.vectors.astype(np.float16).astype(np.float32)
    return Landmarked(vectors, {name: f.probability for name, f in findings.items()})


def _finding(study: Searchable, finding: Mapping[str, Any]) -> SearchedFinding | None:
    """Of an entry of ``reading.json``; None where its organ is not in view or it has no place."""
    probability, position = finding["probability"], finding["position_lps_mm"]
    if probability is None or position is None:
        return None
    point = point_lps(np.array(position, dtype=np.float64))
    place = place_at(study, "", study.cell_at(point), probability, position_lps_mm=point)
    return SearchedFinding(float(probability), Hit.of(place))


def save_landmarks(
    folder: Path,
    vectors: Floats,
    hits: Sequence[Hit],
    digest: str,
    findings: Mapping[str, SearchedFinding] | None = None,
) -> None:
    """Write the file; it appears whole or not at all."""
    metadata = {
        "format": FORMAT,
        "digest": digest,
        "hits": json.dumps([hit.model_dump(mode="json") for hit in hits]),
        "findings": json.dumps(
            {
                name: {"probability": found.probability, "hit": found.hit.model_dump(mode="json")}
                for name, found in (findings or {}).items()
            }
        ),
    }
    part = folder / f"{LANDMARKS}.{uuid.uuid4().hex}.part"
    save_file({"vectors": vectors.astype(np.float16)}, part, metadata=metadata)
    part.rename(folder / LANDMARKS)


def stored_landmarks(folder: Path, digest: str) -> Landmarked | None:
    """Of a stored file; None where there is none that this model made."""
    try:
        with safe_open(folder / LANDMARKS, framework="numpy") as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("digest")) != (FORMAT, digest):
                return None
            vectors: Floats = file.get_tensor("vectors").astype(np.float32)
            findings = json.loads(metadata["findings"])
            # Ten thousand studies have the same names.
            found = {sys.intern(name): float(f["probability"]) for name, f in findings.items()}
            return Landmarked(vectors, found)
    except (SafetensorError, OSError, ValueError, LookupError):
        return None


def hit_of(folder: Path, which: int | str) -> Hit | None:
    """The hit of a landmark, by its row, or of a finding, by its abnormality; None where the file is gone."""
    try:
        with safe_open(folder / LANDMARKS, framework="numpy") as file:
            metadata = file.metadata() or {}
            if isinstance(which, int):
                return Hit.model_validate(json.loads(metadata["hits"])[which])
            return Hit.model_validate(json.loads(metadata["findings"])[which]["hit"])
    except (SafetensorError, OSError, ValueError, LookupError):
        return None
