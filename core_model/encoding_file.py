"""`StudyEncoding` on disk: one safetensors file, arrays as tensors, the rest as JSON metadata.

Only cells inside the body are stored. Holds no patient identity besides the UIDs of the images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from core_model.reading import KnownPlace, ModelIdentity, SliceReference, StudyEncoding, point_lps

FORMAT = "sightline-encoding/3"  # 2: with what is known of the dictionary's abnormalities; 3: its sizes


class EncodingError(ValueError):
    """A file is not a study encoding, or not of this version."""


def save_encoding(encoding: StudyEncoding, path: Path) -> None:
    """Write `encoding` to `path` (a few MB for a study)."""
    inside = np.abs(encoding.grid_features.astype(np.float32)).max(-1) > 0
    tensors: dict[str, npt.NDArray[Any]] = {
        "global_feature": encoding.global_feature,
        "organ_features": encoding.organ_features,
        "organ_present": encoding.organ_present.astype(np.uint8),
        "slab_features": encoding.slab_features,
        "slab_centres_mm": encoding.slab_centres_mm,
        "grid_affine": np.asarray(encoding.grid.affine, dtype=np.float64),
        "grid_inside": np.packbits(inside),
        "grid_features": encoding.grid_features[inside],
        "grid_organs": encoding.grid_organs,
        "slice_positions_mm": np.array([s.position_lps_mm for s in encoding.slices], dtype=np.float64),
        "known_positions_mm": np.array(
            [p.position_lps_mm for p in encoding.known_places], dtype=np.float64
        ).reshape(-1, 3),
        "known_scores": np.array([p.score for p in encoding.known_places], dtype=np.float64),
        "known_diameters_mm": np.array([p.diameter_mm or 0.0 for p in encoding.known_places]),
    }
    if encoding.slices and encoding.slices[0].normal_lps is not None:  # all slices of a series have the same
        tensors["slice_normal"] = np.array(encoding.slices[0].normal_lps, dtype=np.float64)
    metadata = {
        "format": FORMAT,
        "slice_uids": json.dumps([s.sop_instance_uid for s in encoding.slices]),
        "known_abnormalities": json.dumps([p.abnormality for p in encoding.known_places]),
        "model": json.dumps([encoding.model.name, encoding.model.version, encoding.model.digest]),
        "series_instance_uid": encoding.series_instance_uid or "",
        "frame_of_reference_uid": str(encoding.grid.frame_of_reference_uid or ""),
    }
    # safetensors writes an array's memory as it lies: columns first would come back scrambled.
    in_order = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(in_order, path, metadata=metadata)


def load_encoding(path: Path) -> StudyEncoding:
    """Read what `save_encoding` wrote.

    Raises
    ------
    EncodingError: if the file is something else, damaged, or of another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise EncodingError(f"{path} is not a readable encoding.safetensors: {error}") from error
    if metadata.get("format") != FORMAT:
        raise EncodingError(
            f"{path} has format {metadata.get('format')!r}, needed is {FORMAT!r}; read the study again"
        )
    try:
        return _encoding_of(tensors, metadata)
    except (KeyError, ValueError) as error:
        raise EncodingError(f"{path} is damaged ({error}); read the study again") from error


def _encoding_of(tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, str]) -> StudyEncoding:
    shape = tensors["grid_organs"].shape
    inside = np.unpackbits(tensors["grid_inside"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    features = np.zeros((*shape, tensors["grid_features"].shape[-1]), dtype=np.float16)
    features[inside] = tensors["grid_features"]
    normal = tensors.get("slice_normal")
    slices = tuple(
        SliceReference(point_lps(p), uid, None if normal is None else point_lps(normal))
        for p, uid in zip(tensors["slice_positions_mm"], json.loads(metadata["slice_uids"]), strict=True)
    )
    known = zip(
        json.loads(metadata["known_abnormalities"]),
        tensors["known_positions_mm"],
        tensors["known_scores"].tolist(),
        tensors["known_diameters_mm"].tolist(),
        strict=True,
    )
    name, version, digest = json.loads(metadata["model"])
    return StudyEncoding(
        global_feature=tensors["global_feature"],
        organ_features=tensors["organ_features"],
        organ_present=tensors["organ_present"].astype(bool),
        slab_features=tensors["slab_features"],
        slab_centres_mm=tensors["slab_centres_mm"],
        grid=hd.VolumeGeometry(
            tensors["grid_affine"],
            spatial_shape=shape,
            coordinate_system="PATIENT",
            frame_of_reference_uid=metadata["frame_of_reference_uid"] or None,
        ),
        grid_features=features,
        grid_organs=tensors["grid_organs"],
        slices=slices,
        model=ModelIdentity(name, version, digest),
        series_instance_uid=metadata["series_instance_uid"] or None,
        known_places=tuple(KnownPlace(name, point_lps(p), score, mm or None) for name, p, score, mm in known),
    )
