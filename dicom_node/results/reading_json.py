"""``reading.json``: a reading as numbers and names, for programs that do not speak DICOM.

Not a DICOM object and without patient identity: of the source only SOP Instance UIDs appear.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from core_model.reading import Finding, Lesion, OrganReading, PointLPS, Reading
from dicom_node.results.geometry import nearest_plane

SCHEMA = "sightline-reading/1"


def reading_document(reading: Reading) -> dict[str, Any]:
    """The document as JSON types.

    Returns
    -------
    ``schema``, ``model``, ``device``, ``seconds`` (per stage), ``organs`` (36, in label order),
    ``findings`` (one per abnormality of the dictionary) and ``lesions``. Positions are LPS mm,
    volumes ml, diameters mm, probabilities 0..1. ``sop_instance_uid`` is the source slice
    nearest to the position, None where the source was not DICOM or there is no position. Where another
    than the model drew organs, ``organs_by`` says who (name, version, digest) and which ``organs``.

    Raises
    ------
    ValueError: if `reading` holds a number that is not finite; the message names it.
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "model": {
            "name": reading.model.name,
            "version": reading.model.version,
            "digest": reading.model.digest,
        },
        "device": reading.device,
        "seconds": {stage: _number(seconds) for stage, seconds in reading.seconds.items()},
        "organs": [_organ(organ) for organ in reading.organs],
        "findings": [_finding(finding, reading) for finding in reading.findings],
        "lesions": [_lesion(lesion) for lesion in reading.lesions],
    }
    if reading.organs_by is not None:
        document["organs_by"] = {**asdict(reading.organs_by.model), "organs": list(reading.organs_by.organs)}
    _refuse_not_finite(document, "reading")
    return document


def write_reading_json(reading: Reading, path: Path) -> Path:
    """Write the document as UTF-8 with a line break at the end; returns `path`.

    Raises
    ------
    ValueError: as `reading_document`.
    OSError: if `path` cannot be written.
    """
    text = json.dumps(reading_document(reading), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _organ(organ: OrganReading) -> dict[str, Any]:
    return {
        "name": organ.name,
        "label": organ.label,
        "present": bool(organ.present),
        "volume_ml": _number(organ.volume_ml),
        "truncated": bool(organ.truncated),
    }


def _finding(finding: Finding, reading: Reading) -> dict[str, Any]:
    return {
        "organ": finding.organ,
        "abnormality": finding.abnormality,
        "probability": None if finding.probability is None else _number(finding.probability),
        "status": finding.status,
        "position_lps_mm": _point(finding.position_lps_mm),
        "sop_instance_uid": slice_uid(reading, finding.position_lps_mm),
    }


def _lesion(lesion: Lesion) -> dict[str, Any]:
    return {
        "organ": lesion.organ,
        "type": lesion.type,
        "probability": _number(lesion.probability),
        "volume_ml": _number(lesion.volume_ml),
        "long_axis_mm": _number(lesion.long_axis_mm),
        "short_axis_mm": _number(lesion.short_axis_mm),
        "centroid_lps_mm": _point(lesion.centroid_lps_mm),
        "segment_number": int(lesion.label),
    }


def slice_uid(reading: Reading, position: PointLPS | None) -> str | None:
    """SOP Instance UID of the source slice nearest to a position, None where there is none."""
    slices = reading.encoding.slices
    if position is None or not slices:
        return None
    # The first axis of the masks runs across the slices, unless the volume was resampled from them.
    normal = np.asarray(slices[0].normal_lps or reading.organ_mask.direction[:, 0], dtype=np.float64)
    return slices[nearest_plane([s.position_lps_mm for s in slices], normal, position)].sop_instance_uid


def _point(point: PointLPS | None) -> list[float] | None:
    return None if point is None else [_number(value, 3) for value in point]


def _number(value: float, digits: int = 4) -> float:
    """A plain float, also from numpy, without digits that carry nothing."""
    return round(float(value), digits)


def _refuse_not_finite(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_not_finite(item, f"{name}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_not_finite(item, f"{name}[{index}]")
    elif isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"{name} is {value}; JSON has no such number, and a reading should have none")
