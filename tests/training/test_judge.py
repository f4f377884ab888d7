"""The judge's trees are LightGBM's, learn what tumours have, and travel in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core_model.abnormality import abnormalities
from core_model.checkpoint import load_checkpoint
from core_model.model import EVIDENCE
from tests.tiny import tiny_checkpoint
from training.judge import LEAVES, Examples, found_share, grow, judged, main, trees_of, with_judge
from training.stored_places import PatientPlaces, Planted, reading_digest

TUMOURS = [i for i, a in enumerate(abnormalities()) if a.tumour]
LIVER = TUMOURS[0]


def patient(rng: np.random.Generator, n: int = 60, numbers: int = 6) -> PatientPlaces:
    """Tumours have a second number above 0.8 and the masks' evidence knows nothing."""
    features = rng.random((n, numbers)).astype(np.float32)
    lesion = np.zeros(n, dtype=np.uint8)
    found = np.flatnonzero(features[:, 1] > 0.8)
    lesion[found] = 1 + np.arange(len(found)) % 3
    evidence = rng.normal(size=n).astype(np.float32)
    name = abnormalities()[LIVER].name
    planted = tuple(Planted(name, value, 20.0) for value in range(1, 4))
    return PatientPlaces(features, evidence, np.full(n, LIVER, dtype=np.int16), lesion, planted)


def patients(n: int, seed: int = 0) -> list[PatientPlaces]:
    rng = np.random.default_rng(seed)
    return [patient(rng) for _ in range(n)]


def test_trees_answer_as_those_that_lightgbm_grew() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 12)).astype(np.float32)
    y = (x[:, 3] + x[:, 5] * x[:, 1] > 0.5).astype(int)
    given = {"objective": "binary", "num_leaves": LEAVES, "verbose": -1, "boost_from_average": False}
    booster = lightgbm.train(given, lightgbm.Dataset(x, y), num_boost_round=30)
    trees = trees_of(booster.dump_model()["tree_info"], LEAVES)
    own = trees(torch.from_numpy(x)).numpy()
    expected = booster.predict(x, raw_score=True) - 4.0  # `START`
    # A threshold in half precision may send what lies on it to the other side.
    assert (np.abs(own - expected) < 0.05).mean() > 0.97
    assert np.corrcoef(own, expected)[0, 1] > 0.995
    with pytest.raises(ValueError, match="leaves; 3 are the most"):
        trees_of(booster.dump_model()["tree_info"], 3)


def test_a_tree_that_asks_nothing_says_one_value() -> None:
    trees = trees_of([{"num_leaves": 1, "tree_structure": {"leaf_value": 0.25}}], LEAVES)
    assert trees(torch.zeros(2, 1)).tolist() == [-3.75, -3.75]


def test_it_learns_what_tumours_have_and_finds_them_in_others() -> None:
    trees = grow(Examples.of(patients(12)), rounds=60)
    others = patients(6, seed=1)
    said = [judged(trees, p) for p in others]
    assert found_share(others, said, 1.0) > 0.95
    assert found_share(others, [p.evidence for p in others], 1.0) < 0.5
    again = grow(Examples.of(patients(12)), rounds=60)
    assert all(torch.equal(a, b) for a, b in zip(trees.buffers(), again.buffers(), strict=True))


def test_what_masks_say_counts_beside_the_trees() -> None:
    trees = grow(Examples.of(patients(6)), rounds=5)
    [one] = patients(1)
    surer = PatientPlaces(one.features, one.evidence + 2, one.kind, one.lesion, one.planted)
    np.testing.assert_allclose(judged(trees, surer) - judged(trees, one), 2 * EVIDENCE, atol=1e-5)


def test_a_tumour_with_many_places_counts_for_less_than_so_many_tumours() -> None:
    [one] = patients(1)
    lesion = np.zeros_like(one.lesion)
    lesion[:9], lesion[9] = 1, 2
    many = PatientPlaces(one.features, one.evidence, one.kind, lesion, one.planted)
    weight = Examples.of([many]).weight
    assert weight[:9].sum() == pytest.approx(3 * weight[9])
    assert (weight[10:] == 1).all()
    assert weight[9] < 1, "painted more often than patients have it"


def test_shares_of_tumours_that_are_found() -> None:
    features, kind = np.zeros((4, 1), dtype=np.float32), np.full(4, LIVER, dtype=np.int16)
    name = abnormalities()[LIVER].name
    planted = (Planted(name, 1, 20.0), Planted(name, 2, 9.0), Planted(name, 3, 30.0), Planted(name, 0, 30.0))
    lesion = np.array([1, 0, 0, 3], dtype=np.uint8)
    one = PatientPlaces(features, np.zeros(4, dtype=np.float32), kind, lesion, planted)
    logits = [np.array([2.0, 3.0, 1.0, 0.5], dtype=np.float32)]
    assert found_share([one], logits, 1.0) == 0.5  # what is small, or not in the scan, does not count
    assert found_share([one], logits, 0.0) == 0.0
    assert found_share([one], logits, np.inf) == 1.0


def test_places_of_one_sort_teach_nothing() -> None:
    [one] = patients(1)
    none = PatientPlaces(one.features, one.evidence, one.kind, np.zeros_like(one.lesion), ())
    with pytest.raises(ValueError, match="0 of 60 places are tumours; both kinds are needed"):
        Examples.of([none])


def test_the_command_grows_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_checkpoint(tmp_path / "source")
    source = load_checkpoint(tmp_path / "source")
    places = tmp_path / "places"
    places.mkdir()
    (places / "reader.json").write_text(json.dumps({"reader": reading_digest(source)}), encoding="utf-8")
    for k, one in enumerate(patients(6)):
        one.save(places / f"{k}.safetensors")
    given = [str(tmp_path / "source"), "--places", str(places), "--out", str(tmp_path / "out")]
    main([*given, "--rounds", "8", "--version", "9.9"])
    made = load_checkpoint(tmp_path / "out")
    assert made.identity.version == "9.9"
    assert made.card["judge"]["patients"] == 6
    assert 0 <= made.card["judge"]["left_out_patients"]["found_at_1"] <= 1
    assert "thresholds" not in made.card, "they were of other scores"
    grown = grow(Examples.of(patients(6)), 8)
    assert made.model.config.trees == (len(grown), LEAVES)
    assert torch.equal(made.model.place_judge.value, grown.value)
    held = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(tmp_path / "source" / "model.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in held.items() if not k.startswith("place_judge"))
    assert "tumour_places" in capsys.readouterr().out


def test_places_of_another_checkpoint_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_checkpoint(tmp_path / "source")
    places = tmp_path / "places"
    places.mkdir()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "source"), "--places", str(places), "--out", str(tmp_path / "out")])
    assert "holds no patients; store some: python -m training.stored_places" in capsys.readouterr().err
    (places / "reader.json").write_text('{"reader": "other"}', encoding="utf-8")
    patients(1)[0].save(places / "0.safetensors")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "source"), "--places", str(places), "--out", str(tmp_path / "out")])
    assert "was read by other, this checkpoint is" in capsys.readouterr().err


def test_another_judge_changes_nothing_else(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "source")
    source = load_checkpoint(tmp_path / "source")
    trees = grow(Examples.of(patients(6)), rounds=3)
    model = with_judge(source, trees)
    assert reading_digest(source) == reading_digest(type(source)(model, source.card, source.identity))
    assert model.config.trees == (len(trees), LEAVES)
