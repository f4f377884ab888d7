"""One text over all studies: exact over the landmarks, true to each study, kept up to date."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.encoding_file import load_encoding
from core_model.landmarks import landmarks
from core_model.localization import Searchable
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.service import archive_search
from dicom_node.service.archive_search import ArchiveSearch
from dicom_node.service.landmark_file import (
    LANDMARKS,
    Landmarked,
    SearchedFinding,
    hit_of,
    make_landmarks,
    save_landmarks,
    stored_landmarks,
)
from dicom_node.service.models import Hit
from tests.core_model.test_encoding import WIDTH, encoding_of
from tests.core_model.test_places import unit
from tests.dicom_node.service.conftest import OBLIQUE, STUDY
from tests.dicom_node.service.stage import Stage, make_stage, series

HIT = Hit(
    rank=1, position_lps_mm=(0, 0, 0), score=0, organ="", slice_index=0,
    sop_instance_uid=None, slab_lps_mm=((0, 0, 0), (0, 0, 1)),
)  # fmt: skip
WORDS = "the weather in spring"  # means nothing that the dictionary knows


@given(seed=st.integers(0, 10**6), by_slab=st.booleans())
def test_landmarks_are_cells_of_the_body_with_the_score_that_ranks_them(seed: int, by_slab: bool) -> None:
    study, query = Searchable(encoding_of((5, 6, 7), seed)), unit(seed)
    chosen = landmarks(study, by_slab=by_slab, most=20)
    assert len(chosen.cells) == len(set(chosen.cells)) == (5 if by_slab else 20)
    assert all(study.inside[cell] for cell in chosen.cells)
    if by_slab:
        expected = [study.slab_scores(query)[cell[0]] for cell in chosen.cells]
    else:
        smooth = study.smoothed(study.cosine(query))
        expected = [smooth[cell] for cell in chosen.cells]
    np.testing.assert_allclose(chosen.vectors @ query, expected, atol=1e-5)


def test_the_odd_place_is_always_a_landmark() -> None:
    encoding = encoding_of((12, 14, 14))
    features = np.zeros_like(encoding.grid_features)
    features[:, 1:-1, 1:-1, 1] = 1
    features[5:8, 5:8, 5:8] = np.eye(WIDTH)[0]
    chosen = landmarks(Searchable(replace(encoding, grid_features=features)), most=4)
    assert (6, 6, 6) in chosen.cells


def test_all_places_alike_are_one_landmark_and_no_body_is_an_error() -> None:
    encoding = encoding_of()
    features = np.zeros_like(encoding.grid_features)
    with pytest.raises(ValueError, match="shows no body"):
        landmarks(Searchable(replace(encoding, grid_features=features)))
    features[..., 0] = 1
    assert len(landmarks(Searchable(replace(encoding, grid_features=features))).cells) == 1


def test_both_studies_are_found_with_their_place(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core_model.wordings.MEANT", 2.0)  # to the tiny model all texts are much alike
    stage.parts.search.refresh()
    answer = stage.client.post("/query", json={"text": WORDS, "k": 10})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["searched"], body["by"]) == (2, "words")
    assert {hit["study_instance_uid"] for hit in body["hits"]} == {STUDY, OBLIQUE}
    scores = [hit["score"] for hit in body["hits"]]
    assert scores == sorted(scores, reverse=True)
    for found in body["hits"]:
        assert found["hit"]["score"] == found["score"]
        assert found["series_instance_uid"] == found["study_instance_uid"].removesuffix("1") + "2"
        encoding = load_encoding(stage.folder(found["study_instance_uid"]) / "encoding.safetensors")
        study = Searchable(encoding)
        smooth = study.smoothed(study.cosine(stage.reader.embed(WORDS)))
        point = np.array([found["hit"]["position_lps_mm"]])
        cell = tuple(np.rint(encoding.grid.map_reference_to_indices(point)[0]).astype(int))
        assert found["score"] == pytest.approx(smooth[cell], abs=2e-3)  # stored in half precision
        assert found["hit"]["sop_instance_uid"].startswith(found["study_instance_uid"][:9])
    assert len(stage.client.post("/query", json={"text": WORDS, "k": 1}).json()["hits"]) == 1


def test_what_the_text_means_is_looked_up_in_the_findings(stage: Stage) -> None:
    stage.parts.search.refresh()
    documents = {
        study: json.loads((stage.folder(study) / "reading.json").read_text(encoding="utf-8"))
        for study in (STUDY, OBLIQUE)
    }
    seen = [
        (f["abnormality"], study, f)
        for study, document in documents.items()
        for f in document["findings"]
        if f["probability"] is not None and f["position_lps_mm"] is not None
    ]
    assert seen, "one of them shows an organ"
    name = seen[0][0]
    expected = {study: f for abnormality, study, f in seen if abnormality == name}
    text = next(a.present[0] for a in abnormalities() if a.name == name)
    body = stage.client.post("/query", json={"text": text, "k": 10}).json()
    assert body["by"] == "findings"
    assert [hit["study_instance_uid"] for hit in body["hits"]] == sorted(
        expected, key=lambda uid: -expected[uid]["probability"]
    )
    for found in body["hits"]:
        finding = expected[found["study_instance_uid"]]
        assert found["score"] == found["hit"]["score"] == pytest.approx(finding["probability"], abs=1e-6)
        np.testing.assert_allclose(found["hit"]["position_lps_mm"], finding["position_lps_mm"], atol=1e-3)
        assert found["hit"]["sop_instance_uid"] == finding["sop_instance_uid"]


def test_studies_without_the_organ_are_not_found_and_later_readings_count(tmp_path: Path) -> None:
    archive = Archive.open(Config(archive=tmp_path / "archive"))
    search = ArchiveSearch(archive, "ab", by_slab=False)
    readings: list[tuple[str, dict[str, float]]] = [
        ("1.1", {"liver_cyst": 0.9}),
        ("1.2", {"lung_nodule": 0.9}),
        ("1.3", {"liver_cyst": 0.7, "lung_nodule": 0.2}),
        ("1.1", {"liver_cyst": 0.1}),
    ]
    for number, (study, probability) in enumerate(readings):
        own = tmp_path / str(number)
        own.mkdir()
        findings = {name: SearchedFinding(p, HIT) for name, p in probability.items()}
        save_landmarks(own, np.eye(WIDTH, dtype=np.float32), [HIT] * WIDTH, "ab", findings)
        kept = stored_landmarks(own, "ab")
        assert kept is not None
        assert kept.probability == probability
        search.add(study, "1.9", str(number), kept, own)
    found = search.by_finding("liver_cyst", 5)
    assert [(f.study_instance_uid, f.score) for f in found] == [("1.3", 0.7), ("1.1", 0.1)]
    assert [f.study_instance_uid for f in search.by_finding("lung_nodule", 1)] == ["1.2"]
    assert search.by_finding("gallstones", 5) == []
    archive.index.close()


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    study = stage.read(series())
    folder, digest = stage.folder(study), stage.reader.identity.digest
    made = make_landmarks(folder, digest, by_slab=False)
    kept = stored_landmarks(folder, digest)
    assert kept is not None
    assert kept.probability == made.probability
    np.testing.assert_array_equal(kept.vectors, made.vectors)
    assert stored_landmarks(folder, "ff") is None
    (folder / LANDMARKS).write_bytes(b"no file of tensors")
    assert stored_landmarks(folder, digest) is None
    assert hit_of(folder, 0) is None
    assert hit_of(folder, "liver_cyst") is None
    stage.parts.search.refresh()
    assert stored_landmarks(folder, digest) is not None


def test_a_start_takes_what_lies_there_and_later_readings_replace_earlier(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    slices = series()
    study = stage.read(slices[:20])
    search = stage.parts.search
    assert (search.refresh(), search.refresh(), search.searched) == (1, 0, 1)
    first = stage.folder(study)
    stored = (first / LANDMARKS).read_bytes()
    embedding = stage.reader.embed("kidney stone")
    (before,) = search.by_words(embedding, 5)
    stage.read(slices[20:])
    assert (search.refresh(), search.searched) == (1, 1)
    (after,) = search.by_words(embedding, 5)
    assert after.hit != before.hit
    again = ArchiveSearch(stage.archive, stage.reader.identity.digest, by_slab=False)
    assert again.refresh() == 2
    assert again.by_words(embedding, 5) == [after]
    assert (first / LANDMARKS).read_bytes() == stored
    other = ArchiveSearch(stage.archive, "ff" * 32, by_slab=False)
    assert (other.refresh(), other.by_words(embedding, 5)) == (0, [])


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12))
def test_the_search_is_exact_over_blocks(tmp_path_factory: pytest.TempPathFactory, seed: int, k: int) -> None:
    folder = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(seed)
    archive = Archive.open(Config(archive=folder / "archive"))
    search = ArchiveSearch(archive, "ab", by_slab=False)
    query = unit(seed)
    held: dict[str, npt.NDArray[np.float32]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_search, "BLOCK_ROWS", 30)
        for number in range(12):
            name = f"1.{rng.integers(0, 8)}"
            vectors = rng.normal(size=(int(rng.integers(1, 13)), WIDTH)).astype(np.float32)
            own = folder / str(number)
            own.mkdir()
            hits = [HIT.model_copy(update={"slice_index": n}) for n in range(len(vectors))]
            save_landmarks(own, vectors, hits, "ab")
            search.add(name, "1.9", str(number), Landmarked(vectors), own)
            held[name] = vectors
    best = sorted(
        ((float((v @ query).max()), int((v @ query).argmax()), n) for n, v in held.items()), reverse=True
    )
    found = search.by_words(query, k)
    assert [f.study_instance_uid for f in found] == [name for _, _, name in best[:k]]
    assert [f.hit.slice_index for f in found] == [row for _, row, _ in best[:k]]
    np.testing.assert_allclose([f.score for f in found], [score for score, _, _ in best[:k]], atol=1e-5)
    archive.index.close()


def test_a_study_whose_files_are_gone_is_left_out(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    study = stage.read(series())
    stage.parts.search.refresh()
    (stage.folder(study) / LANDMARKS).unlink()
    answer = stage.client.post("/query", json={"text": "Liver cyst."})
    assert (answer.status_code, answer.json()["hits"]) == (200, [])
    assert stage.parts.search.by_words(stage.reader.embed(WORDS), 5) == []
    assert json.dumps(answer.json()["searched"]) == "1"
