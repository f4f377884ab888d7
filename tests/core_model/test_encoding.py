"""Stored encodings: the file, and finding a text in one."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core_model.anatomy import organ
from core_model.encoding_file import EncodingError, load_encoding, save_encoding
from core_model.localization import Searchable, nearest_slice
from core_model.question import Question
from core_model.ranking import localize
from core_model.reading import ModelIdentity, SliceReference, StudyEncoding

WIDTH = 6


def encoding_of(shape: tuple[int, int, int] = (5, 6, 7), seed: int = 0) -> StudyEncoding:
    """Random unit features in a body that fills all but the outer cells in plane."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(*shape, WIDTH))
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    features[:, [0, -1]] = features[:, :, [0, -1]] = 0
    labels = np.zeros(shape, dtype=np.uint8)
    labels[:, 1:-1, 1:3] = organ("liver").label
    affine = np.array([[0, 0, 8.0, -20], [0, 8.0, 0, -30], [8.0, 0, 0, -100], [0, 0, 0, 1]])
    slices = tuple(
        SliceReference((-20.0, -30.0, -104.0 + 4 * k), f"1.2.{k}" if k else None) for k in range(2 * shape[0])
    )
    return StudyEncoding(
        global_feature=rng.normal(size=WIDTH).astype(np.float32),
        organ_features=rng.normal(size=(36, WIDTH)).astype(np.float32),
        organ_present=rng.random(36) < 0.5,
        slab_features=rng.normal(size=(shape[0], WIDTH)).astype(np.float32),
        slab_centres_mm=rng.normal(size=(shape[0], 3)).astype(np.float32),
        grid=hd.VolumeGeometry(
            affine, spatial_shape=shape, coordinate_system="PATIENT", frame_of_reference_uid="1.2.3.4"
        ),
        grid_features=features.astype(np.float16),
        grid_organs=labels,
        slices=slices,
        model=ModelIdentity("tiny", "1", "ab" * 32),
        series_instance_uid="1.2.3.5",
    )


def assert_same(a: StudyEncoding, b: StudyEncoding) -> None:
    for field in fields(StudyEncoding):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, field.name
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        elif isinstance(x, hd.VolumeGeometry):
            np.testing.assert_array_equal(x.affine, y.affine)
            assert x.spatial_shape == y.spatial_shape
            assert x.frame_of_reference_uid == y.frame_of_reference_uid
        else:
            assert x == y, field.name


def test_file_round_trip(tmp_path: Path) -> None:
    encoding = encoding_of()
    save_encoding(encoding, tmp_path / "e.safetensors")
    assert_same(load_encoding(tmp_path / "e.safetensors"), encoding)


def test_file_round_trip_of_arrays_that_lie_columns_first(tmp_path: Path) -> None:
    encoding = encoding_of()
    turned = {
        f.name: np.asfortranarray(getattr(encoding, f.name))
        for f in fields(StudyEncoding)
        if isinstance(getattr(encoding, f.name), np.ndarray)
    }
    assert not turned["slab_centres_mm"].flags.c_contiguous
    save_encoding(replace(encoding, **turned), tmp_path / "e.safetensors")
    assert_same(load_encoding(tmp_path / "e.safetensors"), encoding)


def test_file_round_trip_without_dicom(tmp_path: Path) -> None:
    encoding = encoding_of((3, 4, 5))
    bare = hd.VolumeGeometry(encoding.grid.affine, spatial_shape=(3, 4, 5), coordinate_system="PATIENT")
    encoding = replace(encoding, series_instance_uid=None, grid=bare)
    save_encoding(encoding, tmp_path / "e.safetensors")
    assert_same(load_encoding(tmp_path / "e.safetensors"), encoding)


def test_file_round_trip_of_slices_with_a_normal_of_their_own(tmp_path: Path) -> None:
    encoding = encoding_of()
    normal = (0.0, -0.6, 0.8)
    slices = tuple(replace(one, normal_lps=normal) for one in encoding.slices)
    save_encoding(replace(encoding, slices=slices), tmp_path / "e.safetensors")
    back = load_encoding(tmp_path / "e.safetensors").slices
    assert back == slices
    # 40 mm further back and 30 mm further up lies in the same slice of this tilt.
    x, y, z = slices[3].position_lps_mm
    assert nearest_slice(back, (x, y + 40.0, z + 30.0))[0] == 3
    assert nearest_slice(encoding.slices, (x, y + 40.0, z + 30.0))[0] != 3


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no encoding", encoding="utf-8")
    with pytest.raises(EncodingError, match="not a readable"):
        load_encoding(tmp_path / "text")
    with pytest.raises(EncodingError, match="not a readable"):
        load_encoding(tmp_path / "missing")


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_encoding(encoding_of(), path)
    path.write_bytes(path.read_bytes().replace(b"sightline-encoding/3", b"sightline-encoding/9"))
    with pytest.raises(EncodingError, match=r"encoding/9.*read the study again"):
        load_encoding(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "e.safetensors"
    save_encoding(encoding_of(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(EncodingError, match=r"e\.safetensors"):
        load_encoding(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(8, 1600), value=st.integers(32, 126))
def test_a_damaged_header_is_refused_or_harmless(tmp_path: Path, at: int, value: int) -> None:
    path = tmp_path / "e.safetensors"
    save_encoding(encoding_of(), path)
    content = bytearray(path.read_bytes())
    content[min(at, 7 + int.from_bytes(content[:8], "little"))] = value
    path.write_bytes(bytes(content))
    try:
        loaded = load_encoding(path)
    except EncodingError:
        return
    assert loaded.grid_features.shape == (5, 6, 7, WIDTH)


def test_a_text_is_found_where_its_feature_lies() -> None:
    encoding = encoding_of((9, 10, 11))
    query = np.zeros(WIDTH, dtype=np.float32)
    query[2] = 1
    features = encoding.grid_features.copy()
    features[5:8, 3:6, 2:5] = query
    found = localize(Searchable(replace(encoding, grid_features=features)), Question("there", query))
    assert found.position_lps_mm == pytest.approx((-20 + 3 * 8, -30 + 4 * 8, -100 + 6 * 8))
    assert found.score == pytest.approx(1, abs=1e-2)
    assert found.slab_scores.argmax() in (5, 6, 7)
    assert found.slice.position_lps_mm[2] == pytest.approx(found.position_lps_mm[2], abs=2)
    assert found.organ == "liver"  # the nearest: the cell itself has none


def test_a_text_is_never_found_outside_of_the_body() -> None:
    encoding = encoding_of((4, 5, 6))
    query = -encoding.grid_features[1, 2, 2].astype(np.float32)
    found = localize(Searchable(encoding), Question("x", query))
    cell = encoding.grid.map_reference_to_indices(np.array([found.position_lps_mm]))[0].round().astype(int)
    assert np.abs(encoding.grid_features[tuple(cell)]).max() > 0


def test_organ_is_empty_where_the_study_shows_none() -> None:
    encoding = replace(encoding_of(), grid_organs=np.zeros((5, 6, 7), dtype=np.uint8))
    assert localize(Searchable(encoding), Question("x", np.ones(WIDTH, dtype=np.float32))).organ == ""


@given(st.integers(2, 30), st.floats(-0.6, 0.6), st.floats(0.5, 8), st.data())
def test_nearest_slice_on_tilted_stacks(n: int, tilt: float, step: float, data: st.DataObject) -> None:
    normal = np.array([0, np.sin(tilt), np.cos(tilt)])
    slices = tuple(SliceReference((p[0], p[1], p[2]), None) for p in (np.outer(np.arange(n), normal) * step))
    wanted = data.draw(st.integers(0, n - 1))
    in_plane = np.array([37.0, np.cos(tilt) * 50, -np.sin(tilt) * 50])
    point = np.array(slices[wanted].position_lps_mm) + in_plane + normal * 0.3 * step
    index, found = nearest_slice(slices, point)
    assert index == wanted
    assert found == slices[wanted]


def test_nearest_slice_of_one_and_of_none() -> None:
    only = SliceReference((0.0, 0.0, 0.0), "1.2")
    assert nearest_slice((only,), (9, 9, 9)) == (0, only)
    with pytest.raises(ValueError, match="at least one slice"):
        nearest_slice((), (0, 0, 0))
