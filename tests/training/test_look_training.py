"""The second look learns what neighbourhoods show, and an interrupted run is the same run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from core_model.checkpoint import load_checkpoint
from core_model.second_look import organ_medians
from tests.tiny import tiny_checkpoint
from training.look_settings import LookSettings
from training.patient_crops import CropPlan, PatientCrops
from training.second_look import CONFIG, LookRun, look_losses, main
from training.stored_patients import READER_FILE, Spot, StoredPatient, reading_digest, to_bytes

CPU = torch.device("cpu")
NAMES = [a.name for a in abnormalities()]
TUMOUR, CYST = NAMES.index("liver_tumour"), NAMES.index("liver_cyst")
LIVER, VESSEL = organ("liver").label, organ("portal_vein_and_splenic_vein").label
SHAPE = (16, 24, 24)
VEIN = slice(11, 14)
SETTINGS = LookSettings(
    kinds=("liver_tumour", "liver_cyst"),
    precision="32",
    seed=3,
    steps=12,
    batch=2,
    warmup_steps=2,
    ema=0.5,
    crops=CropPlan(size=(8, 16, 16), shift=2),
)


def patient(seed: int) -> StoredPatient:
    """Liver all over with dark cubes, a tumour and a cyst, and as dark a vein from bottom to top.

    First masks know nothing of them.
    """
    rng = np.random.default_rng(seed)
    hu = torch.from_numpy(rng.normal(100, 5, SHAPE).astype(np.float32))
    lesions = torch.zeros(SHAPE, dtype=torch.uint8)
    hu[:, VEIN, VEIN] = 40.0
    spots = []
    for number, (kind, x, dark) in enumerate(((TUMOUR, 5, 40.0), (CYST, 19, 0.0)), start=1):
        z, y = int(rng.integers(4, 12)), int(rng.integers(5, 19))
        box = (slice(z - 1, z + 2), slice(y - 1, y + 2), slice(x - 1, x + 2))
        hu[box] = dark
        lesions[box] = number
        spots.append(Spot(kind, (z, y, x), 27))
    label = torch.full(SHAPE, LIVER, dtype=torch.uint8)
    first = to_bytes(torch.full((len(NAMES), *SHAPE), -5.0))
    medians = organ_medians(hu, label, len(organs()))
    organ_map = torch.full(SHAPE, LIVER, dtype=torch.uint8)
    organ_map[:, VEIN, VEIN] = VESSEL  # the encoder called it liver
    return StoredPatient(hu.round().to(torch.int16), label, first, lesions, organ_map, medians, tuple(spots))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint and eight patients of it."""
    tiny_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "patients").mkdir()
    by = reading_digest(load_checkpoint(tmp_path / "checkpoint"))
    (tmp_path / "patients" / READER_FILE).write_text(json.dumps({"reader": by}))
    for n in range(8):
        patient(n).save(tmp_path / "patients" / f"{n}.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of one thread have one order
    yield tmp_path
    torch.set_num_threads(threads)


def run_in(folder: Path, out: str, settings: LookSettings = SETTINGS) -> LookRun:
    return LookRun(load_checkpoint(folder / "checkpoint"), [folder / "patients"], folder / out, settings, CPU)


def crops_of(folder: Path, **plan: Any) -> PatientCrops:
    files = sorted((folder / "patients").glob("*.safetensors"))
    own = dataclasses.replace(SETTINGS.crops, **plan)
    return PatientCrops(files, own, kinds=[TUMOUR, CYST], tumours={TUMOUR}, organs=[LIVER], seed=1)


def test_a_crop_is_the_same_whenever_it_is_asked_for(folder: Path) -> None:
    crops = crops_of(folder)
    first, again = crops[5], crops_of(folder)[5]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hu"], crops[6]["hu"])
    assert crops.lesions == 16


def test_crops_show_the_patient(folder: Path) -> None:
    for number in range(10):
        crop = crops_of(folder, lesions=1.0, shift=0, gain=0.0, offset_hu=0.0, noise_hu=0.0)[number]
        assert crop["hu"].shape == (8, 16, 16)
        dark = (crop["hu"] > -900) & (crop["hu"] < 60)
        assert bool(dark[crop["kind"] > 0].all())
        assert int(dark.sum()) > int((crop["kind"] > 0).sum())  # a vein is dark as well
        assert set(crop["kind"].unique().tolist()) <= {0, 1, 2}
        assert crop["kind"][4, 8, 8] > 0  # cut round a lesion
        assert bool((crop["hu"][crop["label"] == 0] == -1000).all())  # beyond the scan
        assert crop["weight"][crop["kind"] == 0].unique().tolist() == [1.0]
        assert float(crop["weight"][4, 8, 8]) == pytest.approx(3.0 * (64 / 27) ** 0.5)


def test_crops_without_a_lesion_are_cut_round_organs(folder: Path) -> None:
    crops = crops_of(folder, lesions=0.0, shift=0)
    assert all(int(crops[n]["label"][4, 8, 8]) == LIVER for n in range(10))


@pytest.mark.parametrize("plan", [{"mirrored": 1.0}, {"turned": 1.0, "angle": 0.0, "stretch": 0.0}])
def test_a_crop_can_be_mirrored_and_turned_by_nothing(folder: Path, plan: dict[str, float]) -> None:
    quiet: dict[str, Any] = {"lesions": 1.0, "shift": 0, "gain": 0.0, "offset_hu": 0.0, "noise_hu": 0.0}
    for number in range(6):
        plain = crops_of(folder, **quiet, mirrored=0.0)[number]
        other = crops_of(folder, **quiet, **plan)[number]
        for name, value in plain.items():
            if name != "medians":
                expected = value.flip(-1) if "mirrored" in plan else value
                torch.testing.assert_close(other[name], expected, atol=1e-3, rtol=0)


def test_turned_and_stretched_crops_show_the_lesion_as_large_as_they_say(folder: Path) -> None:
    """The volume of what is stretched changes, on average not; what is dark stays where the lesion is."""
    quiet: dict[str, Any] = {"lesions": 1.0, "shift": 0, "gain": 0.0, "offset_hu": 0.0, "noise_hu": 0.0}
    crops = crops_of(folder, **quiet, turned=1.0, stretch=0.3, angle=40.0)
    sizes = []
    for number in range(40):
        crop = crops[number]
        assert crop["hu"].shape == crop["organs"].shape == (8, 16, 16)
        assert crop["kind"][4, 8, 8] > 0
        inside = crop["hu"][crop["kind"] == int(crop["kind"][4, 8, 8])]
        assert float(inside.mean()) < 75  # liver is 100, a cyst 0, a tumour 40, their borders between
        sizes.append(len(inside))
    assert len(set(sizes)) > 5
    assert np.mean(sizes) == pytest.approx(27, abs=6)


def test_losses_of_what_is_right_and_wrong() -> None:
    kind = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    kind[0, 0, :2] = 2
    right = torch.nn.functional.one_hot(kind.long(), 3).movedim(-1, 1) * 40.0
    weight = torch.ones(kind.shape)
    entropy, dice = look_losses(right, kind, weight)
    assert float(entropy) == pytest.approx(0.0, abs=1e-6)
    assert float(dice) == pytest.approx(0.0, abs=1e-6)
    entropy, dice = look_losses(torch.zeros_like(right), kind, weight)
    assert float(entropy) == pytest.approx(np.log(3), abs=1e-5)
    # Of class 2: 8 voxels of 32, each with a third.
    assert float(dice) == pytest.approx(1 - (2 * 8 / 3 + 1) / (32 / 9 + 8 + 1), abs=1e-5)
    assert float(look_losses(right, torch.zeros_like(kind), weight)[1]) == 0.0
    weight[0, 1] = 0.0  # not known
    wrong = right.clone()
    wrong[0, :, 1] = torch.tensor([0.0, 40.0, 0.0]).view(3, 1, 1)
    entropy, dice = look_losses(wrong, kind, weight)
    assert float(entropy) == pytest.approx(0.0, abs=1e-6)
    assert float(dice) == pytest.approx(0.0, abs=1e-6)


def test_it_learns_what_one_voxel_cannot_tell(folder: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=250, learning_rate=5e-3, ema=0.9)
    run = run_in(folder, "run", settings)
    for batch in run.batches():
        run.update(batch)
        run.step += 1
    unseen = patient(100)
    first = torch.full((2, *SHAPE), -5.0)
    drawn = run.average.eval().look(unseen.hu.float(), unseen.label.long(), first).masks
    tumour, cyst = (drawn[:, unseen.lesions == n].mean(1) for n in (1, 2))
    assert tumour[0] > 0.5 > tumour[1]
    assert cyst[1] > 0.5 > cyst[0]
    assert float(drawn[0, :, VEIN, VEIN].mean()) < 0.2  # as dark as the tumour
    assert float(drawn[:, unseen.lesions == 0].sum(0).mean()) < 0.1


def test_it_learns_to_draw_organs_again_and_goes_on_from_there(folder: Path) -> None:
    """The vessel that the encoder calls liver; a run that goes on begins with what the first one knew."""
    settings = dataclasses.replace(SETTINGS, steps=320, learning_rate=5e-3, ema=0.9, organs=1.0)
    run = run_in(folder, "run", settings)
    assert run.look.organ_hidden is not None
    run.train()
    assert set(run.running) == {"cross_entropy", "dice", "organs", "organ_dice"}
    held = load_checkpoint(folder / "run" / "checkpoint")
    assert held.model.config.organs_again
    assert held.model.second_look is not None
    unseen = patient(100)
    first = torch.full((2, *SHAPE), -5.0)
    drawn = held.model.second_look.look(unseen.hu.float(), unseen.label.long(), first).organs
    assert drawn is not None
    right = drawn.argmax(0) == unseen.organs
    assert float(right[:, VEIN, VEIN].float().mean()) > 0.9
    assert float(right.float().mean()) > 0.95
    again = LookRun(
        held, [folder / "patients"], folder / "next", dataclasses.replace(settings, go_on=True), CPU
    )
    for name, value in held.model.second_look.state_dict().items():
        assert torch.equal(again.look.state_dict()[name], value), name
    with pytest.raises(ValueError, match=r"go_on: the checkpoint's second look draws \[\]"):
        run_in(folder, "none", dataclasses.replace(SETTINGS, go_on=True))


def test_a_run_that_goes_on_may_begin_to_draw_organs(folder: Path) -> None:
    run_in(folder, "run").train()
    held = load_checkpoint(folder / "run" / "checkpoint")
    settings = dataclasses.replace(SETTINGS, organs=0.5, go_on=True)
    run = LookRun(held, [folder / "patients"], folder / "next", settings, CPU)
    assert held.model.second_look is not None
    assert torch.equal(run.look.stem.weight, held.model.second_look.stem.weight)
    assert torch.equal(run.average.out.weight, held.model.second_look.out.weight)
    run.train()
    after = load_checkpoint(folder / "next" / "checkpoint")
    assert after.model.config.organs_again
    assert after.card["second_look"]["before"] == held.card["second_look"]


def test_an_interrupted_run_is_the_same_run(folder: Path) -> None:
    whole = run_in(folder, "whole")
    whole.train()
    begun = run_in(folder, "begun")
    begun.out.mkdir()
    for batch in islice(begun.batches(), 5):
        begun.running = begun.running | begun.update(batch)
        begun.step += 1
    begun.running = {}
    begun.save()
    again = run_in(folder, "begun")
    assert again.resume()
    assert again.step == 5
    again.train()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name]), name
    held = load_checkpoint(folder / "begun" / "checkpoint")
    assert held.model.config.second_look == ("liver_tumour", "liver_cyst")
    assert held.card["second_look"]["steps"] == 12
    assert held.card["second_look"]["patients"] == 8
    other = run_in(folder, "begun", dataclasses.replace(SETTINGS, seed=4))
    with pytest.raises(ValueError, match="other settings; name its config"):
        other.resume()


def test_the_command_trains_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = folder / "small.toml"
    config.write_text('kinds = ["liver_tumour"]\nsteps = 2\nbatch = 1\n[crops]\nsize = [8, 16, 16]\n')
    given = [str(folder / "checkpoint"), "--patients", str(folder / "patients"), "--out", str(folder / "run")]
    main([*given, "--config", str(config), "--device", "cpu", "--version", "9"])
    assert "new run" in capsys.readouterr().err
    main([*given, "--config", str(config), "--device", "cpu", "--version", "9"])
    assert "resumed at step 2" in capsys.readouterr().err
    held = load_checkpoint(folder / "run" / "checkpoint")
    assert held.identity.version == "9"
    assert (folder / "run" / "log.jsonl").exists()
    config.write_text("sede = 1\n")
    with pytest.raises(SystemExit):
        main([*given, "--config", str(config)])
    assert "key 'sede' is unknown" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*given[:2], str(folder), "--out", str(folder / "run")])
    assert "holds no patients" in capsys.readouterr().err


def test_settings_that_make_no_sense_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        dataclasses.replace(SETTINGS, steps=0)
    with pytest.raises(ValueError, match=r"size is \[8, 12, 16\]; needed are multiples of 8"):
        dataclasses.replace(SETTINGS, crops=CropPlan(size=(8, 12, 16)))
    with pytest.raises(ValueError, match="organs is -1; a weight is 0 or more"):
        dataclasses.replace(SETTINGS, organs=-1)
    with pytest.raises(ValueError, match="crops mirrored is 2; it is a share, from 0 to 1"):
        CropPlan(mirrored=2)
    with pytest.raises(ValueError, match=r"crops stretch is 0\.9; choose from 0 to 0\.5"):
        CropPlan(stretch=0.9)
    with pytest.raises(ValueError, match="kinds is empty"):
        LookSettings()
    with pytest.raises(ValueError, match="precision is 'half'; choose of auto, bf16, 32"):
        dataclasses.replace(SETTINGS, precision="half")
    with pytest.raises(ValueError, match="kinds has 'wart', which the checkpoint does not know"):
        run_in(folder, "run", dataclasses.replace(SETTINGS, kinds=("wart",)))
    with pytest.raises(ValueError, match="none of 8 patients has such a lesion"):
        run_in(folder, "run", dataclasses.replace(SETTINGS, kinds=("renal_cyst",)))


@pytest.mark.parametrize("name", ["second_look", "second_look_organs", "second_look_longer"])
def test_some_steps_of_the_configs(folder: Path, name: str) -> None:
    settings = LookSettings.from_file(CONFIG.with_stem(name))
    assert {a.name for a in abnormalities() if a.tumour} <= set(settings.kinds)
    assert settings.go_on == (settings.organs > 0) == (name != CONFIG.stem)
    steps = 9 if settings.organs else 2  # the first of a corner says nothing to the layer below
    run = run_in(folder, "run", dataclasses.replace(settings, steps=steps, go_on=False))
    before = {name: value.clone() for name, value in run.look.state_dict().items()}
    run.train()
    assert run.step == steps
    drawn = {"organs", "organ_dice"} if settings.organs else set()
    assert set(run.running) == {"cross_entropy", "dice"} | drawn
    assert all(not torch.equal(value, before[name]) for name, value in run.look.state_dict().items())
    held = load_checkpoint(folder / "run" / "checkpoint").model
    assert held.config.second_look == settings.kinds
    assert held.config.look_mirrored == (settings.crops.mirrored > 0) == (name != CONFIG.stem)
