"""Stored windows are what the encoder would give again, and stages trained on them are the same stages."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from core_model.abnormality import abnormalities
from core_model.checkpoint import load_checkpoint
from core_model.grounding import text_masks, top_logit
from core_model.masks import region_of
from core_model.volume import window
from tests.training.tiny_run import go, shrink, small_config
from training import stored_windows
from training.baselines import vanilla_clip
from training.crop_views import encode
from training.mask_evidence import evidence_for
from training.phantom_data import phantom_crops
from training.run import Run
from training.samples import collate
from training.settings import Settings
from training.stored_windows import StoredWindows, load_window, main, store, window_files

N = 5
TOLERANCE = 0.05  # of half precision, and of bfloat16 where the processor has it


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


@pytest.fixture
def settings() -> Settings:
    return replace_optimiser(small_config("heads.toml", 3), batch=2)


def replace_optimiser(settings: Settings, **values: object) -> Settings:
    return replace(settings, optimiser={**settings.optimiser, **values})


@pytest.fixture
def checkpoint(settings: Settings, tmp_path: Path) -> Path:
    run = Run(settings, tmp_path / "start", [], "cpu")
    run.save()
    return run.out / "checkpoint"


@pytest.fixture
def windows(settings: Settings, checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "windows"
    fill(settings, checkpoint, folder, N)
    return folder


def fill(settings: Settings, checkpoint: Path, folder: Path, n: int, stream: int = 0) -> None:
    model = load_checkpoint(checkpoint).model
    quiet = Console(file=io.StringIO())
    store(model, settings, [], folder, n, stream=stream, device=torch.device("cpu"), console=quiet)


def test_a_stored_window_is_the_crop_with_what_the_encoder_gives(
    settings: Settings, checkpoint: Path, windows: Path
) -> None:
    model = load_checkpoint(checkpoint).model
    files = window_files(windows, model)
    assert [f.name for f in files] == [f"00-{k:05d}.safetensors" for k in range(N)]
    crops = iter(phantom_crops(settings, [], start=0, batch=1))
    for file in files[:3]:
        crop, held = next(crops), load_window(file, fine=True)
        assert float((held.hu - crop.hu).abs().max()) <= 0.5
        for name in ("organs", "lesions", "findings"):
            assert torch.equal(getattr(held, name), getattr(crop, name)), name
        assert held.snippets == crop.snippets
        with torch.no_grad():
            # What is stored was read before the HU were rounded.
            fresh = encode(model, window(crop.hu[None]), collate([crop]))
            kept = encode(model, window(held.hu[None]), collate([held]))
        assert float((fresh.organ_logits - kept.organ_logits).abs().max()) < TOLERANCE
        assert float((fresh.grid - kept.grid).abs().max()) < TOLERANCE
        shares = torch.nn.functional.avg_pool3d(fresh.organ_logits.softmax(1)[:, 1:], 2)[0]
        assert held.shares is not None
        assert float((shares - held.shares).abs().max()) < 0.01


def test_without_the_finest_features_there_are_no_organ_logits(checkpoint: Path, windows: Path) -> None:
    model = load_checkpoint(checkpoint).model
    held = load_window(window_files(windows, model)[0], fine=False)
    encoded = encode(model, window(held.hu[None]), collate([held]), lesions=False)
    assert encoded.organ_logits.shape[1] == 0
    assert encoded.grid.shape[1] == model.config.width


def test_an_interrupted_store_goes_on_with_the_same_windows(
    settings: Settings, checkpoint: Path, windows: Path, tmp_path: Path
) -> None:
    fill(settings, checkpoint, tmp_path / "broken", 2)
    fill(settings, checkpoint, tmp_path / "broken", N)
    for file in sorted(windows.glob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "broken" / file.name).read_bytes(), file.name
    fill(settings, checkpoint, windows, 1, stream=1)
    other = load_window(windows / "01-00000.safetensors", fine=False)
    assert not torch.equal(other.hu, load_window(windows / "00-00000.safetensors", fine=False).hu)


def test_windows_of_another_encoder_or_none_or_damaged_ones_are_refused(
    settings: Settings, checkpoint: Path, windows: Path, tmp_path: Path
) -> None:
    model = load_checkpoint(checkpoint).model
    with pytest.raises(ValueError, match="holds no windows"):
        window_files(tmp_path, model)
    file = window_files(windows, model)[0]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"00-00000.safetensors is no stored window"):
        load_window(file, fine=False)
    with torch.no_grad():
        model.half_organ_head.weight += 1
    with pytest.raises(ValueError, match="was read by encoder"):
        window_files(windows, model)
    with pytest.raises(ValueError, match="was read by encoder"):
        store(model, settings, [], windows, N + 1, device=torch.device("cpu"), console=Console(quiet=True))
    trained = replace_optimiser(settings, freeze=[])
    with pytest.raises(ValueError, match="trains the encoder"):
        Run(trained, tmp_path / "x", [], "cpu", init=checkpoint, windows=windows)
    none = replace(settings, data={**settings.data, "windows": [0.0, 0.01]})
    fill(settings, checkpoint, tmp_path / "whole", 2)
    with pytest.raises(ValueError, match="takes none of the 2 windows"):
        Run(none, tmp_path / "x", [], "cpu", init=checkpoint, windows=tmp_path / "whole")


def test_every_round_has_every_window_and_goes_on_anywhere(checkpoint: Path, windows: Path) -> None:
    files = window_files(windows, load_checkpoint(checkpoint).model)
    stream = StoredWindows(files, seed=3, batch=2)
    first = [stream.batch_of(k) for k in range(4)]
    assert len({f for b in first[:2] for f in b}) == 4, "a rest of one window is left out"
    assert first[:2] != first[2:]
    later = StoredWindows(files, seed=3, batch=2, start=3, fine=False)
    assert torch.equal(next(iter(later)).hu, load_window(first[3][0], fine=False).hu)
    with pytest.raises(ValueError, match="5 windows are stored, a batch has 9"):
        StoredWindows(files, seed=3, batch=9)


def test_evidence_is_what_the_reader_would_see_and_is_kept(
    checkpoint: Path, windows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_checkpoint(checkpoint).model
    files = window_files(windows, model)
    with Progress(console=Console(file=io.StringIO())) as progress:
        found = evidence_for(model, files, progress)
        sample = load_window(files[1], fine=True)
        with torch.no_grad():
            encoded = encode(model, window(sample.hu[None]), collate([sample]))
            sentences = model.text(abnormalities()[0].present)  # the reader's prompts
            text = model.project_text(torch.nn.functional.normalize(sentences.mean(0, keepdim=True), dim=-1))
            masks = text_masks(encoded.dense, text.mask_weight, text.mask_bias).sigmoid()
        region = region_of(encoded.organ_logits[0].softmax(0), model.config.spacing_mm, ["liver"])["liver"]
        assert float(found[files[1].name][0]) == pytest.approx(
            float(top_logit(masks, region.reach[None, None])), abs=1e-4
        )
        monkeypatch.setattr("training.mask_evidence.evidence_of", None)  # whoever asks anew fails
        again = evidence_for(model, files, progress)
    assert found.keys() == again.keys() == {f.name for f in files}
    assert all(torch.equal(found[k], again[k]) for k in found)


@pytest.mark.parametrize("config", ["heads.toml", "lesions.toml"])
def test_stages_train_on_stored_windows_and_resume(
    config: str, checkpoint: Path, windows: Path, tmp_path: Path
) -> None:
    batch = 2 if config == "heads.toml" else 1  # as in the configs: language learns from pairs
    settings = replace_optimiser(small_config(config, 4), batch=batch)

    def run(name: str) -> Run:
        return Run(settings, tmp_path / name, [], "cpu", init=checkpoint, windows=windows)

    straight = go(run("straight"))
    assert go(run("broken"), stop_at=2).step == 2
    resumed = go(run("broken"))
    first, last = settings.data["windows"]
    assert len(straight.windows) == round(N * last) - round(N * first) > 0
    assert straight.card()["data"]["windows"] == len(straight.windows)
    for (name, a), b in zip(
        straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert set(straight.running) == set(settings.weights())


def test_heads_and_their_baseline_start_new_on_the_same_encoder(
    settings: Settings, checkpoint: Path, windows: Path, tmp_path: Path
) -> None:
    clip = vanilla_clip(settings, frozen=True)
    runs = [Run(s, tmp_path / s.name, [], "cpu", init=checkpoint, windows=windows) for s in (settings, clip)]
    a, b = (r.model.state_dict() for r in runs)
    taken = load_checkpoint(checkpoint).model.state_dict()
    for name in taken:
        part = name.split(".")[0]
        if part in ("image", "half_organ_head"):
            assert torch.equal(a[name], b[name]), name
        if part in ("image", "lesion_decoder"):
            assert torch.equal(a[name], taken[name]), name
    assert [f.hu.sum() for f in first(runs[0])] == [f.hu.sum() for f in first(runs[1])]
    go(runs[1])
    assert set(runs[1].running) == {"report"}
    after = runs[1].model.state_dict()
    assert all(torch.equal(after[k], b[k]) for k in after if k.startswith("image."))


def first(run: Run) -> list[object]:
    stream = iter(run.data())
    return [next(stream) for _ in range(3)]


def test_the_command_line(
    settings: Settings, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_windows.Settings, "from_file", lambda path: settings)
    out = tmp_path / "out"
    main([str(checkpoint), "--out", str(out), "--n", "2", "--device", "cpu"])
    assert len(window_files(out, load_checkpoint(checkpoint).model)) == 2
    with pytest.raises(SystemExit):
        main([str(checkpoint), "--out", str(out), "--n", "0"])
