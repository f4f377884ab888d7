"""One command per stage, from a data set to the node: masks, mining, cache, pretraining, verdict, promotion.

On miniatures of CT-RATE and RadGenome-ChestCT, with a network of the tests' size: what comes out means
nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from core_model.verdict import read_verdict
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.promotion import in_use, promote
from tests.tiny import tiny_checkpoint
from tests.training.tiny_run import shrink, small_config
from training import cache, organ_masks, pretrain, settings, verdict
from training.datasets.miniature import main as miniature
from training.mining.__main__ import main as mine
from training.protocols.__main__ import main as protocols
from training.run import Run
from training.volume_shards import Shards

STEPS = 6


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    miniature(["ct-rate", str(folder), "--patients", "4"])
    return folder


@pytest.mark.slow
def test_from_a_set_to_the_node(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shrink(monkeypatch)
    grounded = small_config("grounded.toml", STEPS)
    grounded = replace(grounded, optimiser={**grounded.optimiser, "batch": 2, "freeze": []})
    monkeypatch.setattr(settings.Settings, "from_file", lambda _path: grounded)
    tiny_checkpoint(tmp_path / "base")
    regions = tmp_path / "regions"
    miniature(["radgenome", str(regions), "--patients", "4"])

    masks = tmp_path / "masks"
    own = ["--with", "own", "--checkpoint", str(tmp_path / "base"), "--device", "cpu"]
    assert organ_masks.main([str(regions), "--out", str(masks), *own]) == 0

    reports = next((sets / "dataset" / "radiology_text_reports").glob("train*.csv"))
    mine(["labels", str(reports), "--out", str(tmp_path / "labels.csv")])
    assert (tmp_path / "labels.csv").read_text(encoding="utf-8").count("train_") >= 2

    shards = {"ct-rate": tmp_path / "shards-a", "radgenome": tmp_path / "shards-b"}
    cache.main([str(sets), "--split", "train", "--out", str(shards["ct-rate"])])
    cache.main([str(regions), "--split", "train", "--out", str(shards["radgenome"]), "--masks", str(masks)])
    stored = Shards(shards["radgenome"])
    assert all(stored.load(place).words.organs for place in stored.places)

    for name, folder in shards.items():
        out = tmp_path / name
        pretrain.main(["--config", "x", "--shards", str(folder), "--out", str(out), "--device", "cpu"])
        card = json.loads((out / "checkpoint" / "card.json").read_text(encoding="utf-8"))
        assert card["data"]["real_images"] == len(Shards(folder).places) > 1
        assert card["steps"] == STEPS

    new = tmp_path / "ct-rate" / "checkpoint"
    results = tmp_path / "results"
    few = ["--dev-share", "1", "--draws", "50", "--device", "cpu"]
    protocols(["run", "ct-rate/radfinder", str(new), str(sets), "--out", str(results), *few])
    assert any("AUROC" in p.read_text(encoding="utf-8") for p in results.rglob("result.md"))

    config = Config(archive=tmp_path / "archive", checkpoint=tmp_path / "base", device="cpu")
    with pytest.raises(SightlineError, match="verdict"):
        promote(config, new)
    asked = [str(tmp_path / "base"), str(new), str(sets), "--draws", "50", "--device", "cpu"]
    assert verdict.main(asked) == 1
    assert "held-out patients, 10 are needed" in capsys.readouterr().out
    with pytest.raises(SightlineError, match="10 are needed"):
        promote(config, new)
    allowed = verdict.main([*asked, "--patients-needed", "2"]) == 0
    assert read_verdict(new).promote is allowed
    assert next(m.name for m in read_verdict(new).measures) == verdict.ORGANS
    if not allowed:  # an untrained model may by chance be the better one
        return
    assert promote(config, new).digest == in_use(config).digest == read_verdict(new).new.digest


def test_a_run_on_shards_says_whose_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training.small_shards import small_shards  # noqa: PLC0415

    shrink(monkeypatch)
    run = Run(small_config("grounded.toml", 1), tmp_path, [], "cpu", shards=small_shards(tmp_path / "s"))
    card = run.card()
    assert card["data"]["set"] == "small"
    assert "small" in card["description"]
    assert "synthetic" not in json.dumps(card["limits"][0])
