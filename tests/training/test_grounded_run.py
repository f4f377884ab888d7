"""Runs of every committed config in miniature: they train what they say, go on as they were, log, and
have a baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core_model.anatomy import organ
from core_model.checkpoint import load_checkpoint
from tests.tiny import body_volume
from tests.training.tiny_run import CONFIGS, go, shrink, small, small_config
from training import pretrain
from training import run as run_module
from training.baselines import main as baseline_main
from training.baselines import vanilla_clip
from training.logbook import LogBook
from training.run import Run
from training.settings import Settings


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


# That of the second look is another program's (test_look_training).
OWN = sorted(p for p in CONFIGS.glob("*.toml") if not p.stem.startswith("second_look"))


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_two_steps_of_every_config(path: Path, tmp_path: Path) -> None:
    settings = small(Settings.from_file(path), 2)
    before = Run(settings, tmp_path / "none", [], "cpu").model.state_dict()
    run = go(Run(settings, tmp_path, [], "cpu"))
    assert run.step == 2
    frozen = "encoder" in settings.optimiser.get("freeze", ()) and "organ_heads" not in settings.optimiser
    expected = {n for n in settings.weights() if not (frozen and n in ("organs", "coarse_organs"))}
    assert set(run.running) == expected
    after = run.model.state_dict()
    moved = {k.split(".")[0] for k, v in after.items() if not torch.equal(v, before[k])}
    assert ("image" in moved) is not frozen
    assert ("lesion_decoder" in moved) is ("masks" in expected)
    assert ("candidate_judge" in moved) is ("candidates" in expected)
    assert ("slab_summary" in moved) is (run.model.separate and "snippets" in expected)
    assert load_checkpoint(tmp_path / "checkpoint").model.config == run.model.config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "workers"),
    [("grounded.toml", 0), ("grounded.toml", 1), ("grounded_lesions.toml", 0), ("judge.toml", 0)],
)
def test_an_interrupted_run_ends_with_the_same_weights(config: str, workers: int, tmp_path: Path) -> None:
    settings = small_config(config, 5)
    settings = replace(settings, data={**settings.data, "workers": workers})
    straight = go(Run(settings, tmp_path / "straight", [], "cpu"))
    assert go(Run(settings, tmp_path / "broken", [], "cpu"), stop_at=3).step == 3
    resumed = go(Run(settings, tmp_path / "broken", [], "cpu"))
    assert resumed.step == straight.step == 5
    for part in ("model", "average"):
        own, other = getattr(straight, part).state_dict(), getattr(resumed, part).state_dict()
        assert [k for k, v in own.items() if not torch.equal(v, other[k])] == []
    assert straight.running == resumed.running


def test_other_data_give_other_weights(tmp_path: Path) -> None:
    """What the test above would miss if steps did not depend on their data."""
    settings = small_config("grounded.toml", 1)
    a, b = (Run(settings, tmp_path / name, [], "cpu") for name in "ab")
    b.settings = replace(settings, data={**settings.data, "seed": 1})  # after the weights were drawn
    assert torch.equal(a.model.image.stem.weight, b.model.image.stem.weight)
    assert not torch.equal(go(a).model.image.stem.weight, go(b).model.image.stem.weight)


def test_switches_turn_parts_off(tmp_path: Path) -> None:
    off = small_config("grounded.toml", 1)
    off = replace(off, switches=dict.fromkeys(off.switches, False))
    run = go(Run(off, tmp_path, [], "cpu"))
    assert set(run.running) == set(off.loss) - {"findings", "localization", "snippets"}
    assert run.model.organ_pooling.form == "mean"
    assert (run.plan.dictionary, run.plan.correct) == (False, False)
    assert load_checkpoint(tmp_path / "checkpoint").card["settings"]["switches"] == off.switches
    on = small_config("grounded.toml", 1)
    assert set(on.weights()) == set(on.loss)
    assert on.model_config()["pooling"] == "both"
    assert set(replace(on, loss={**on.loss, "masks": 0.0}).weights()) == set(on.loss) - {"masks"}


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("switches", "teleport = true", "switch 'teleport' is unknown"),
        ("loss", "tea = 1.0", "loss 'tea' is unknown"),
        ("data", 'abnormalities = ["hiccups"]', "abnormality 'hiccups' is not in the dictionary"),
    ],
)
def test_unknown_names_are_refused(section: str, line: str, message: str, tmp_path: Path) -> None:
    text = (CONFIGS / "grounded.toml").read_text(encoding="utf-8")
    start = text.index("\n", text.index(f"\n[{section}]") + 1)
    path = tmp_path / "c.toml"
    path.write_text(f"{text[:start]}\n{line}{text[start:]}", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Settings.from_file(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lesion_candidates": {}}, "need each other"),
        ({"loss": {"masks": 1.0}}, "need each other"),
        ({"lesion_voxels": {"memory": 1}}, "two stages"),
    ],
)
def test_stages_are_not_mixed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Settings.from_file(CONFIGS / "judge.toml"), **change)


def test_the_baseline_has_the_same_start_and_data_and_one_loss(tmp_path: Path) -> None:
    grounded = small_config("grounded.toml", 2)
    clip = vanilla_clip(grounded)
    a, b = Run(grounded, tmp_path / "a", [], "cpu"), Run(clip, tmp_path / "b", [], "cpu")
    for key, value in a.model.image.state_dict().items():
        assert torch.equal(value, b.model.image.state_dict()[key]), key
    first, second = next(iter(a.data())), next(iter(b.data()))
    assert torch.equal(first.hu, second.hu)
    before = {k: v.clone() for k, v in b.model.state_dict().items()}
    go(b)
    assert set(b.running) == {"report"}
    moved = {k.split(".")[0] for k, v in b.model.state_dict().items() if not torch.equal(v, before[k])}
    assert {"image", "half_to_grid", "text_to_joint"} <= moved
    assert not moved & {"lesion_decoder", "text_to_mask", "organ_pooling", "half_organ_head"}


def test_a_baseline_needs_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="no weight to the loss 'report'"):
        vanilla_clip(small_config("lesions.toml", 1))


def test_the_baselines_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name: small_config(name, 7) for name in ("grounded.toml", "lesions.toml")}
    monkeypatch.setattr(pretrain.Settings, "from_file", lambda path: known[path.name])
    out = tmp_path / "clip"
    command = ["--config", "grounded.toml", "--out", str(out), "--steps", "1", "--seed", "5"]
    command += ["--device", "cpu"]
    baseline_main(command)
    card = json.loads((out / "checkpoint" / "card.json").read_text(encoding="utf-8"))
    assert (card["name"], card["steps"], card["data"]["seed"]) == ("sightline-grounded-clip", 1, 5)
    assert card["settings"]["loss"] == {"report": 1.0}
    with pytest.raises(SystemExit):
        baseline_main(["--config", "lesions.toml", "--out", str(out)])
    assert "report" in capsys.readouterr().err


def test_logs_go_on_where_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "LOG_EVERY", 1)
    settings = small_config("heads.toml", 3)
    go(Run(settings, tmp_path, [], "cpu"), stop_at=2)
    with LogBook(tmp_path, 2) as log:  # steps that were lost with the interruption
        log.write(3, {"report": 99.0}, seconds=1.0)
        log.write(4, {"report": 99.0}, seconds=1.0)
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5.0, "rep')
    run = go(Run(settings, tmp_path, [], "cpu"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["step"] for entry in lines] == [1, 2, 3]
    assert lines[-1]["report"] == run.running["report"] != 99.0
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    figures = {"seconds", "learning_rate", "crops_per_second", "busy"}
    assert {f"loss/{n}" for n in run.running} | figures == set(events.Tags()["scalars"])
    scalars = events.Scalars("loss/report")
    assert [s.step for s in scalars] == [1, 2, 3]
    assert scalars[-1].value == pytest.approx(run.running["report"], rel=1e-5)


def test_a_grounded_checkpoint_reads(tmp_path: Path) -> None:
    from core_model.reader import Reader  # noqa: PLC0415 - slow import

    go(Run(small_config("grounded.toml", 1), tmp_path, [], "cpu"))
    reader = Reader.load(tmp_path / "checkpoint", "cpu")
    encoding = reader.read(body_volume()).encoding
    found = reader.localize(encoding, "There is a liver cyst.")
    assert found.slab_scores.shape == (len(encoding.slab_features),)


def test_organ_heads_learn_the_organs_that_are_named_and_no_others(tmp_path: Path) -> None:
    settings = small_config("organ_heads.toml", 2)
    settings = replace(settings, optimiser={**settings.optimiser, "organ_heads": ["liver"]})
    before = Run(settings, tmp_path / "none", [], "cpu").model.state_dict()
    after = go(Run(settings, tmp_path, [], "cpu")).model.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert moved == {
        f"{head}.{part}"
        for head in ("image.organ_head", "half_organ_head", "quarter_organ_head")
        for part in ("weight", "bias")
    }
    row = organ("liver").label
    for name in moved:
        others = [i for i in range(len(after[name])) if i != row]
        assert torch.equal(after[name][others], before[name][others])
        assert not torch.equal(after[name][row], before[name][row])


def test_the_lesion_decoder_reads_the_organs_that_it_was_trained_with(tmp_path: Path) -> None:
    lesions = small_config("lesions.toml", 1)
    go(Run(lesions, tmp_path / "first", [], "cpu"))
    settings = small_config("organ_heads.toml", 2)
    model = go(Run(settings, tmp_path / "second", [], "cpu", init=tmp_path / "first" / "checkpoint")).model
    x = torch.randn(1, 2, 16, 16, 24, generator=torch.Generator().manual_seed(0))
    before = load_checkpoint(tmp_path / "first" / "checkpoint").model.encode_image(x)
    after = load_checkpoint(tmp_path / "second" / "checkpoint").model.encode_image(x)
    torch.testing.assert_close(after.dense, before.dense, rtol=0, atol=0)
    assert not torch.equal(after.organ_logits, before.organ_logits)
    assert model.kept_organ_head is not None
    # A stage that has no place for that head does not take the decoder over ...
    with pytest.raises(ValueError, match='decoder_organs = "kept"'):
        Run(lesions, tmp_path / "third", [], "cpu", init=tmp_path / "second" / "checkpoint")
    # ... unless it trains another one.
    anew = replace(lesions, optimiser={**lesions.optimiser, "leave": ["lesions"]})
    assert Run(anew, tmp_path / "fourth", [], "cpu", init=tmp_path / "second" / "checkpoint")


def test_an_organ_that_does_not_exist_has_no_head(tmp_path: Path) -> None:
    settings = small_config("organ_heads.toml", 1)
    settings = replace(settings, optimiser={**settings.optimiser, "organ_heads": ["tail"]})
    with pytest.raises(ValueError, match="organ 'tail' is unknown"):
        Run(settings, tmp_path, [], "cpu")
