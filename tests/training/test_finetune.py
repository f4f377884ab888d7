"""Fine-tuning on a labelled set: the miniature of one, its geometry, and a run that goes on."""

from __future__ import annotations

import dataclasses
import json
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core_model.model import SightlineModel
from core_model.reader import Reader
from core_model.thresholds import Thresholds
from core_model.volume import canonical
from tests.tiny import CARD, body_volume, tiny_model
from tests.training.small_anatomy import SPACING_MM, small_anatomy
from tests.training.tiny_run import go
from training.finetune import FineTuning, Target, fine_tuning_settings, main, prepare
from training.labelled import LabelledCase, LabelledCrops, labelled_files, load_case
from training.phantoms.dicom import phantom_geometry
from training.phantoms.lesions import plant
from training.phantoms.scanner import scan
from training.phantoms.study import write_nifti
from training.phantoms.tissues import Phantom
from training.samples import collate

TUMOUR = [a.name for a in abnormalities()].index("liver_tumour")
LIVER = organ("liver").label
TARGET = Target("liver_tumour", label=2, organ_label=1)
CPU = torch.device("cpu")


def phantom(seed: int) -> Phantom:
    planting = plant(small_anatomy(), np.random.default_rng(seed), [("liver_tumour", 36.0)])
    return scan(planting, SPACING_MM, np.random.default_rng(seed), "portal venous")


@pytest.fixture(scope="module")
def decathlon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms as a set: 1 liver, 2 its tumour."""
    folder = tmp_path_factory.mktemp("Task99_Miniature")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    entries = []
    for k in range(2):
        made = phantom(k)
        labels = (made.organs == LIVER).numpy().astype(np.uint8)
        labels[made.lesions.numpy() > 0] = 2
        geometry = phantom_geometry(made)
        write_nifti(made.hu.numpy().astype(np.int16), geometry, folder / "imagesTr" / f"case_{k}.nii.gz")  # type: ignore[arg-type]
        write_nifti(labels, geometry, folder / "labelsTr" / f"case_{k}.nii.gz")
        entries.append({"image": f"./imagesTr/case_{k}.nii.gz", "label": f"./labelsTr/case_{k}.nii.gz"})
    about = {"name": "Miniature", "licence": "none", "modality": {"0": "CT"}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("checkpoint")
    card = {**CARD, "thresholds": {"mask": 0.4}, "steps": 7, "text_encoder": "tests"}
    card |= {"abnormalities": ["gallstones"]}
    save_checkpoint(tiny_model(spacing_mm=6.0), card, folder)
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def cases(decathlon: Path, source: Checkpoint) -> list[LabelledCase]:
    return prepare(labelled_files(decathlon)[1], TARGET, source.model, CPU)


def run(source: Checkpoint, cases: list[LabelledCase], out: Path, steps: int) -> FineTuning:
    settings = fine_tuning_settings(source, steps=steps, batch=2, learning_rate=3e-3)
    return FineTuning(
        settings, out, "cpu", source=source, cases=cases, target=TARGET, about={"name": "Miniature"}
    )


def test_cases_lie_where_they_lay(cases: list[LabelledCase], source: Checkpoint) -> None:
    for k, case in enumerate(cases):
        made = phantom(k)
        where = (case.lesions == 1 + TUMOUR).nonzero().double().mean(0) * 6.0 + 3.0
        expected = (made.lesions > 0).nonzero().double().mean(0) * SPACING_MM + SPACING_MM / 2
        assert float((where - expected).abs().max()) < 4
        volume = float((case.lesions > 0).sum()) * 6**3 / float((made.lesions > 0).sum()) / SPACING_MM**3
        assert 0.7 < volume < 1.4
        assert set(case.organs.unique().tolist()) == {0, LIVER}
        assert bool((case.organs[case.lesions > 0] == LIVER).all()), "a tumour is part of its organ"
        assert 20 < float(case.hu[case.organs == LIVER].float().median()) < 200
    assert source.model.config.spacing_mm == 6.0


def test_a_predicted_organ_is_the_readers(decathlon: Path, source: Checkpoint, tmp_path: Path) -> None:
    """Without an organ label the checkpoint's mask is taken, on the grid of the case."""
    save_checkpoint(source.model, CARD, tmp_path)
    files = labelled_files(decathlon)[1][:1]
    image = nib.load(files[0].image)
    import highdicom as hd  # noqa: PLC0415 - only here

    volume = canonical(hd.Volume.from_nibabel(image))  # type: ignore[arg-type]
    mask = Reader.load(tmp_path, "cpu").read(volume.with_array(volume.array.astype(np.float32))).organ_mask
    present = [a for a in abnormalities() if a.tumour and (mask.array == organ(a.organ).label).sum() > 200]
    if not present:
        pytest.skip("the untrained model sees none of the tumours' organs")
    label = organ(present[0].organ).label
    (case,) = prepare(files, Target(present[0].name, label=2), source.model, CPU)
    hu, _, geometry = load_case(files[0], 6.0)
    assert case.organs.shape == hu.shape[2:]
    own = (case.organs == label) & (case.lesions == 0)
    points = np.argwhere(mask.array == label)
    expected = geometry.map_reference_to_indices(volume.map_indices_to_reference(points)).mean(0)
    np.testing.assert_allclose(own.nonzero().double().mean(0).numpy(), expected, atol=1.0)


def test_crops_hold_the_tumour_and_nothing_is_known_of_others(cases: list[LabelledCase]) -> None:
    stream = LabelledCrops(cases, (16, 32, 32), 6.0, abnormality=TUMOUR, seed=0)
    samples = list(islice(stream, 8))
    for s in samples:
        assert s.hu.shape == (1, 16, 32, 32)
        assert set(s.findings.tolist()) <= {-1.0, 0.0, 1.0}
        assert int((s.findings >= 0).sum()) == 1
        assert float(s.findings[TUMOUR]) == float((s.lesions > 0).sum() >= 3)
    assert sum(float(s.findings[TUMOUR]) for s in samples) >= 4
    assert not torch.equal(samples[0].hu, samples[2].hu), "crops of one case differ"


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_go_on_where_they_were_left(cases: list[LabelledCase], workers: int) -> None:
    def batches(start: int, n: int) -> list[torch.Tensor]:
        crops = LabelledCrops(cases, (8, 8, 8), 6.0, abnormality=TUMOUR, seed=1, start=start, batch=2)
        loader = DataLoader(crops, batch_size=2, num_workers=workers, collate_fn=collate)
        return [b.hu for b in islice(loader, n)]

    for a, b in zip(batches(0, 5)[3:], batches(3, 2), strict=True):
        assert torch.equal(a, b)


def test_it_learns_lesions_only_and_goes_on_as_it_was(
    cases: list[LabelledCase], source: Checkpoint, tmp_path: Path
) -> None:
    straight = go(run(source, cases, tmp_path / "straight", 4))
    go(run(source, cases, tmp_path / "broken", 4), stop_at=2)
    resumed = go(run(source, cases, tmp_path / "broken", 4))
    before, after = source.model.state_dict(), straight.model.state_dict()
    moved = {k.split(".")[0] for k, v in after.items() if not torch.equal(v, before[k])}
    assert moved == {"lesion_decoder", "text_to_mask"}
    assert [k for k, v in after.items() if not torch.equal(v, resumed.model.state_dict()[k])] == []
    assert straight.running == resumed.running


def test_what_was_labelled_is_not_looked_at_again(
    cases: list[LabelledCase], source: Checkpoint, tmp_path: Path
) -> None:
    assert "thresholds" not in run(source, cases, tmp_path / "plain", 1).card()
    own = source.model
    model = SightlineModel(
        dataclasses.replace(own.config, second_look=("liver_tumour", "renal_cyst")), own.text.tokenizer_json
    )
    card = {**source.card, "thresholds": {"mask": 0.2, "first_masks": ["renal_cyst"]}}
    again = dataclasses.replace(source, model=model, card=card)
    found = Thresholds.from_card(run(again, cases, tmp_path / "again", 1).card())
    assert found.first_masks == ("liver_tumour", "renal_cyst")  # that by an earlier fine-tuning


def test_the_loss_falls(cases: list[LabelledCase], source: Checkpoint, tmp_path: Path) -> None:
    long = go(run(source, cases[:1], tmp_path, 12))
    bank_losses = []
    from training.text_bank import TextBank  # noqa: PLC0415 - only here

    batch = collate(list(islice(long.data(), 2)))  # the losses are of what the memory holds
    for model in (source.model, long.model):
        long.model = model
        with torch.no_grad():
            found = long.losses(TextBank.of(model), batch, np.random.default_rng(0))
        bank_losses.append(float(found["masks"]))
    assert bank_losses[1] < 0.9 * bank_losses[0]


def test_the_command_line(
    decathlon: Path, source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(source.model, source.card, tmp_path / "from")
    out = tmp_path / "out"
    command = [str(tmp_path / "from"), str(decathlon), "--tumour", "liver_tumour", "--organ-label", "1"]
    options = ["--out", str(out), "--steps", "1", "--device", "cpu"]
    with pytest.raises(SystemExit):
        main([*command, "--label", "9", *options])
    assert "no case has label 9" in capsys.readouterr().err
    main([*command, "--label", "2", *options])
    card = load_checkpoint(out / "checkpoint").card
    assert card["data"] == {
        "fine_tuned_on": {"name": "Miniature", "licence": "none"},
        "tumour": "liver_tumour",
        "real_images": 2,
    }
    assert "thresholds" not in card, "they were set for other masks"
    assert card["earlier_stages"][-1]["steps"] == 7
    assert card["text_encoder"] == "tests"
    assert card["abnormalities"] == ["liver_tumour", "gallstones"], "what it searched, and what it learnt"
    assert Reader.load(out / "checkpoint", "cpu").read(body_volume()).organ_mask.array.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": {"0": "MRI"}}, "only CT"),
        ({"training": []}, "lists no training case"),
        ({"training": [{"image": "./imagesTr/none.nii.gz", "label": "x"}]}, "names none.nii.gz"),
        ({"training": [{"image": "../../x.nii.gz", "label": "x"}]}, "which is not in"),
        ({"training": [{"image": "a"}]}, "no index of a labelled set"),
    ],
)
def test_sets_that_are_none(change: dict[str, object], message: str, tmp_path: Path) -> None:
    about = {"modality": {"0": "CT"}, "training": [], **change}
    (tmp_path / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        labelled_files(tmp_path)


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset\.json is no index"):
        labelled_files(tmp_path)


def test_labels_of_another_grid(decathlon: Path, tmp_path: Path) -> None:
    files = labelled_files(decathlon)[1][0]
    shifted = nib.load(files.labels)
    affine = shifted.affine.copy()  # type: ignore[attr-defined]
    affine[0, 3] += 8
    other = tmp_path / "labels.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(shifted.dataobj), affine), other)  # type: ignore
    with pytest.raises(ValueError, match="different grids"):
        load_case(type(files)("x", files.image, other), 6.0)
