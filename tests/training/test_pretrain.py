"""The training loop in miniature: it trains, saves, resumes, and its checkpoint can be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn

from core_model.abnormality import abnormalities
from core_model.checkpoint import load_checkpoint
from tests.tiny import tiny_config
from tests.training.tiny_run import go, shrink, small_config
from training.phantom_data import anatomy_sources
from training.pretrain import DEFAULT_CONFIG, main
from training.run import Run
from training.settings import Settings, learning_rate


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def tiny_settings(steps: int) -> Settings:
    shipped = Settings.from_file(DEFAULT_CONFIG)
    return Settings(
        name="tiny-run",
        version="0",
        model=tiny_config(),
        data={**shipped.data, "crops": 2, "workers": 0},
        optimiser={**shipped.optimiser, "steps": steps, "batch": 2, "warmup_steps": 2, "texts_per_step": 3},
        loss=shipped.loss,
    )


def train(folder: Path, steps: int) -> Run:
    run = Run(tiny_settings(steps), folder, [], "cpu")
    run.resume()
    folder.mkdir(exist_ok=True)
    with Progress(TextColumn("{task.fields[note]}"), console=Console(quiet=True)) as progress:
        run.train(progress)
    return run


def test_three_steps_then_on_to_five(tmp_path: Path) -> None:
    first = train(tmp_path / "run", 3)
    assert first.step == 3
    untrained = Run(tiny_settings(3), tmp_path / "none", [], "cpu").model.state_dict()
    moved = [k for k, v in first.model.state_dict().items() if not torch.equal(v, untrained[k])]
    assert any(k.startswith("image.") for k in moved)
    assert not any(k.startswith("text.") for k in moved), "the text tower is frozen"

    stopped = Run(tiny_settings(3), tmp_path / "run", [], "cpu")
    assert stopped.resume()
    assert stopped.step == 3
    for key, value in first.model.state_dict().items():
        assert torch.equal(stopped.model.state_dict()[key], value), key
    moments = stopped.optimiser.state_dict()["state"]
    assert moments.keys() == first.optimiser.state_dict()["state"].keys()
    assert all(int(m["step"]) == 3 for m in moments.values())

    last = train(tmp_path / "run", 5)
    assert last.step == 5
    assert last.seconds > first.seconds > 0
    assert not torch.equal(last.model.image.stem.weight, first.model.image.stem.weight)

    loaded = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert (loaded.identity.name, loaded.card["steps"]) == ("tiny-run", 5)
    assert loaded.card["data"]["real_images"] == 0
    assert loaded.card["abnormalities"] == [a.name for a in abnormalities()]
    torch.testing.assert_close(
        loaded.model.image.stem.weight, last.average.image.stem.weight.half().float(), rtol=0, atol=0
    )


def test_the_same_settings_train_the_same_weights(tmp_path: Path) -> None:
    a, b = (train(tmp_path / name, 2).model.state_dict() for name in ("a", "b"))
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    before = train(tmp_path / "run", 1)
    after = train(tmp_path / "run", 1)
    assert after.step == 1
    assert torch.equal(before.model.image.stem.weight, after.model.image.stem.weight)


def test_resume_without_a_state(tmp_path: Path) -> None:
    assert not Run(tiny_settings(1), tmp_path, [], "cpu").resume()


def test_the_command_line_logs_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny_settings(9)
    lines = ['name = "tiny-run"', 'version = "0"']
    for section in ("model", "data", "optimiser", "loss"):
        values = getattr(settings, section)
        lines += [f"[{section}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
    config = tmp_path / "tiny.toml"
    config.write_text("\n".join(lines), encoding="utf-8")
    assert Settings.from_file(config) == settings
    out = tmp_path / "deep" / "run"
    command = ["--config", str(config), "--out", str(out), "--steps", "1", "--device", "cpu"]
    main(command)
    assert "new run" in capsys.readouterr().out
    assert json.loads((out / "checkpoint" / "card.json").read_text(encoding="utf-8"))["steps"] == 1
    assert (out / "state.pt").is_file()
    main(command)
    assert "resumed at step 1" in capsys.readouterr().out


def test_scales_and_biases_are_learnt_at_their_own_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {}
    for scales in (1, 30):
        shrink(monkeypatch)
        settings = small_config("grounded.toml", steps=2)
        settings = replace(settings, optimiser={**settings.optimiser, "scales": scales})
        run = Run(settings, tmp_path / str(scales), [], "cpu")
        before = {k: v.detach().clone() for k, v in run.model.named_parameters()}
        go(run)
        moved[scales] = {
            k: float((v.detach() - before[k]).abs().max()) for k, v in run.model.named_parameters()
        }
    for name in ("cell_scale", "organ_scale", "global_bias"):
        assert moved[30][name] > 20 * moved[1][name] > 0
    assert moved[30]["half_to_grid.weight"] < 2 * moved[1]["half_to_grid.weight"]


def test_learning_rate_warms_up_and_falls() -> None:
    settings = Settings.from_file(DEFAULT_CONFIG)
    peak, warm = settings.optimiser["learning_rate"], settings.optimiser["warmup_steps"]
    steps = settings.optimiser["steps"]
    assert learning_rate(0, settings) == pytest.approx(peak / warm)
    assert learning_rate(warm - 1, settings) == pytest.approx(peak)
    assert learning_rate((warm + steps) // 2, settings) == pytest.approx(peak * 0.505, rel=0.01)
    assert learning_rate(steps, settings) == pytest.approx(peak / 100)
    assert learning_rate(9 * steps, settings) == pytest.approx(peak / 100)


def test_without_label_maps_all_phantoms_are_procedural() -> None:
    assert [share for _, share in anatomy_sources(tiny_settings(1), [])] == [1.0]


def test_config_with_a_wrong_section(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        DEFAULT_CONFIG.read_text(encoding="utf-8").replace("[loss]", "[losses]"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="section 'loss' is unknown or missing"):
        Settings.from_file(path)


def test_parts_that_are_left_begin_anew(tmp_path: Path) -> None:
    first = train(tmp_path / "first", 2)
    settings = tiny_settings(2)
    settings = replace(settings, optimiser={**settings.optimiser, "leave": ["lesions"]})
    second = Run(settings, tmp_path / "second", [], "cpu", init=tmp_path / "first" / "checkpoint")
    untrained = Run(settings, tmp_path / "third", [], "cpu").model.state_dict()
    own, taken = second.model.state_dict(), first.average.state_dict()
    key = "lesion_decoder.first.weight"
    assert torch.equal(own[key], untrained[key])
    assert not torch.equal(own[key], taken[key])
    torch.testing.assert_close(own["image.stem.weight"], taken["image.stem.weight"], atol=2e-3, rtol=0)
    assert not torch.equal(own["image.stem.weight"], untrained["image.stem.weight"])
