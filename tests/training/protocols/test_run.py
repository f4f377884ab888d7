"""Every protocol from end to end: a tiny checkpoint on miniatures of the sets, over the command line too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_checkpoint
from training.datasets.catalogue import open_dataset
from training.datasets.ct_rate import CtRate
from training.datasets.miniature import write_miniature
from training.datasets.rad_chestct import RadChestCt
from training.datasets.tally import Tally
from training.protocols.__main__ import main, opened
from training.protocols.encoder import Encoder, report_sentences
from training.protocols.outcome import Items
from training.protocols.registry import find, protocols
from training.protocols.runner import run_protocol
from training.protocols.store import embeddings, key_of, read_embedding
from training.protocols.zero_shot import ZeroShot

PATIENTS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Encoder:
    return Encoder(checkpoint, "cpu")


@pytest.fixture(scope="module")
def ct_rate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "ct_rate"
    write_miniature("ct-rate", folder, patients=PATIENTS)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def store(out: Path) -> Path:
    """Where the command line keeps what it encoded, so that no test encodes what another has."""
    return out / "encoded"


def test_names_say_what_is_run() -> None:
    every = protocols()
    assert {"ct-rate/ct-clip", "ct-rate/radfinder", "ct-rate/fvlm", "ct-rate/retrieval"} <= set(every)
    assert every["ct-rate/ct-clip"].published == 3039
    assert every["ct-rate/radfinder"].published == 1564
    assert every["ct-rate/retrieval/1493"].published == 1493
    assert {n for n in every if n.startswith("rad-chestct/")} == {
        f"rad-chestct/{m}" for m in ("ct-clip", "radfinder-standard", "radfinder-broad")
    }
    with pytest.raises(ValueError, match="choose of"):
        find("ct-rate/unknown")


def test_classification_with_thresholds_of_development_patients(
    encoder: Encoder, ct_rate: Path, store: Path
) -> None:
    dataset = open_dataset(ct_rate)
    outcome, _ = run_protocol(find("ct-rate/fvlm"), encoder, dataset, store, share=1.0, draws=20)
    facts, figures = outcome.facts, outcome.figures
    assert facts["items"] == len([r for r in dataset.records() if r.split == "validation"])
    assert facts["published items"] == 3039
    assert len(facts["labels"]) == 16
    assert facts["label mapping"] == "none"
    assert '"Not {b}."' in facts["prompts"]
    assert "share a report" in facts["duplicates"]
    assert facts["development"]["patients"] == len(
        {r.patient for r in dataset.records() if r.split == "train"}
    )
    assert set(facts["test thresholds"]) == {"volume", "organs", "own_findings"}
    for form in facts["test thresholds"]:
        assert 0 <= figures[f"{form}/macro/auroc"].value <= 1
    assert "volume/macro/development_threshold/f1_weighted" in figures
    assert any("not comparable" in said for said in outcome.deviations)
    assert outcome.tally.skipped == []


def test_a_score_is_what_the_checkpoint_says_of_a_prompt(
    encoder: Encoder, ct_rate: Path, store: Path
) -> None:
    """One item by hand: read the volume, embed both prompts, take the softmax over both cosines."""
    dataset = open_dataset(ct_rate)
    outcome, measured = run_protocol(find("ct-rate/ct-clip/1564"), encoder, dataset, store, draws=0)
    assert measured.patients == tuple(
        r.patient for r in find("ct-rate/ct-clip/1564").select(dataset.records())
    )
    record = next(r for r in dataset.records() if r.name == "valid_1_a_1")
    volume = encoder.reader.read(dataset.load(record).volume).encoding.global_feature
    kept = read_embedding(embeddings(encoder, store).folder / key_of(dataset.name, record))
    assert kept.volume == pytest.approx(volume)
    yes, no = encoder.prompts(["Emphysema is present.", "Emphysema is not present."])
    margin = encoder.volume_scale * float(volume @ yes - volume @ no)
    protocol = find("ct-rate/ct-clip/1564")
    assert isinstance(protocol, ZeroShot)
    truth = {x: np.array([record.labels[x]]) for x in protocol.labels}
    scored = protocol.scored(Items((record,), (kept,)), encoder, truth)["volume"]
    score = scored.scores[0, scored.labels.index("Emphysema")]
    assert score == pytest.approx(1 / (1 + np.exp(-margin)), abs=1e-6)
    assert outcome.facts["prompts"].startswith("CT-CLIP")


def test_each_volume_is_encoded_once(
    encoder: Encoder, ct_rate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = CtRate(ct_rate)
    records = [r for r in dataset.records() if r.split == "validation"][:2]
    loaded: list[str] = []
    monkeypatch.setattr(dataset, "load", lambda r: loaded.append(r.name) or CtRate.load(dataset, r))
    first = list(embeddings(encoder, tmp_path).each(dataset, records[:1], Tally()))
    again = list(embeddings(encoder, tmp_path).each(dataset, records, Tally()))
    assert loaded == [r.name for r in records]
    for (_, one), (_, other) in zip(first, again, strict=False):
        assert one.volume.tolist() == other.volume.tolist()
        assert one.organs.tolist() == other.organs.tolist()
        assert one.findings == pytest.approx(other.findings)
    # What a cut off write leaves behind is made anew.
    file = embeddings(encoder, tmp_path).folder / key_of(dataset.name, records[0])
    file.write_bytes(file.read_bytes()[:40])
    (_, mended), *_ = embeddings(encoder, tmp_path).each(dataset, records[:1], Tally())
    assert loaded[2:] == [records[0].name]
    assert mended.volume.tolist() == first[0][1].volume.tolist()


def test_another_checkpoint_reads_nothing_of_the_first(
    encoder: Encoder, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other")
    tiny_checkpoint(folder, seed=1)
    assert embeddings(Encoder(folder, "cpu"), tmp_path).folder != embeddings(encoder, tmp_path).folder


def test_bad_volumes_are_named_and_skipped(
    encoder: Encoder, ct_rate: Path, tmp_path: Path, store: Path
) -> None:
    broken = shutil.copytree(ct_rate, tmp_path / "broken")
    dataset = open_dataset(broken)
    first, second = [r for r in dataset.records() if r.split == "validation"][:2]
    first.image.write_bytes(b"no NIfTI")
    second.image.unlink()
    outcome, _ = run_protocol(find("ct-rate/retrieval"), encoder, dataset, store, draws=0)
    assert {p.name: p.kind for p in outcome.tally.skipped} == {
        first.name: "image is unreadable",
        second.name: "image is missing",
    }
    assert any("2 items were skipped" in said for said in outcome.deviations)
    assert first.name in outcome.markdown([])


def test_report_retrieval_and_volumes(encoder: Encoder, ct_rate: Path, store: Path) -> None:
    dataset = open_dataset(ct_rate)
    outcome, _ = run_protocol(find("ct-rate/retrieval"), encoder, dataset, store, draws=10)
    count = outcome.facts["items"]
    assert outcome.facts["distinct reports"] < count  # two reconstructions share a report
    own = outcome.figures["report_to_volume/r1"].value
    assert own <= outcome.figures["report_to_any_volume_of_it/r1"].value
    assert 1 <= outcome.figures["report_to_volume/mean_rank"].value <= count
    for definition, name in (
        ("spectre", "map5"),
        ("radfinder", "map5"),
        ("ct-clip", "overlap5/query_among_candidates"),
    ):
        found, _ = run_protocol(
            find(f"ct-rate/volume-to-volume/{definition}"), encoder, dataset, store, draws=0
        )
        assert found.rows
        assert name not in found.figures or 0 <= found.figures[name].value <= 1


def test_texts_that_are_compared_are_findings_and_impression() -> None:
    report = "TECHNIQUE:\nWith contrast.\nFINDINGS:\nNodule (3/204). Clear.\nIMPRESSION:\nNodule."
    assert report_sentences(report) == ["Nodule.", "Clear.", "Nodule."]
    assert report_sentences(report, ["impression"]) == ["Nodule."]


def test_rad_chest_ct_is_opened_with_the_protocols_mapping(
    encoder: Encoder, tmp_path: Path, ct_rate: Path, store: Path
) -> None:
    write_miniature("rad-chestct", tmp_path / "rad", patients=2)
    for name, labels in (("radfinder-broad", 18), ("ct-clip", 16), ("radfinder-standard", 16)):
        protocol = find(f"rad-chestct/{name}")
        dataset = opened(protocol, tmp_path / "rad")
        outcome, _ = run_protocol(
            protocol, encoder, dataset, store, develop=open_dataset(ct_rate), share=1.0, draws=5
        )
        assert outcome.facts["label mapping"] == name
        assert len(outcome.facts["labels"]) == labels
        assert "development thresholds" in outcome.facts
        assert ("by_item/volume/macro/auroc" in outcome.figures) == (name != "ct-clip")
    with pytest.raises(ValueError, match="radfinder-broad"):
        run_protocol(
            find("rad-chestct/ct-clip"), encoder, RadChestCt(tmp_path / "rad", "radfinder-broad"), store
        )


def test_merlin_pools_say_what_they_cannot_fill(encoder: Encoder, tmp_path: Path, store: Path) -> None:
    write_miniature("merlin", tmp_path / "merlin", patients=4)
    outcome, _ = run_protocol(
        find("merlin/pools"), encoder, open_dataset(tmp_path / "merlin"), store, draws=0
    )
    assert outcome.facts["items with the section"]["findings"] == outcome.tally.used
    assert "findings/pool32/r1" not in outcome.figures  # fewer than 32 exams
    assert ("text to volume, findings, pool 32: R@1", "-") in outcome.table()


def test_sentences_are_grounded(encoder: Encoder, tmp_path: Path, store: Path) -> None:
    write_miniature("rexgrounding", tmp_path / "rex", patients=4)
    dataset = open_dataset(tmp_path / "rex")
    axial, _ = run_protocol(find("rexgrounding/axial"), encoder, dataset, store, draws=5)
    masks, _ = run_protocol(find("rexgrounding/masks"), encoder, dataset, store, draws=5)
    (record,) = [r for r in dataset.records() if r.split == "validation"]
    sample = dataset.load(record)
    assert sample.finding_masks is not None
    assert axial.facts["sentences"] == masks.facts["findings"] == len(sample.snippets)
    # One sentence by hand: the middle slice is a baseline that no model is needed for.
    where = [np.argwhere(sample.finding_masks[s.finding or 0])[:, 0].mean() for s in sample.snippets]
    middle = (sample.volume.spatial_shape[0] - 1) / 2
    expected = np.mean(np.abs(np.array(where) - middle)) * sample.volume.spacing[0]
    assert axial.figures["middle_slice/mae_mm"].value == pytest.approx(expected)
    assert axial.figures["slab/mae_mm"].low is None  # one patient: an interval would pretend
    assert masks.facts["mask threshold"] == encoder.reader.thresholds.mask
    assert 0 <= masks.figures["dice"].value <= 1


def test_wrong_sets_are_refused(encoder: Encoder, ct_rate: Path, store: Path) -> None:
    with pytest.raises(ValueError, match="is for Merlin, the folder holds CT-RATE"):
        run_protocol(find("merlin/pools"), encoder, open_dataset(ct_rate), store)


def test_command_line(checkpoint: Path, ct_rate: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "ct-rate/radfinder", str(checkpoint), str(ct_rate), "--limit", "1", "--draws", "5"]
    main([*arguments, "--out", str(out), "--dev-share", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "AUROC" in printed
    assert "limited to 1" in printed
    folder = out / "ct-rate_radfinder_1564"
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert document["used"] == document["facts"]["items"] == 1
    assert document["model"]["name"] == "tiny"
    assert document["facts"]["development"]["studies"] == 1
    assert document["facts"]["labels with positives and negatives"] == 0
    text = (folder / "result.md").read_text(encoding="utf-8")
    assert "Not as published" in text
    assert "| volume: AUROC | - |" in text  # of one item there is none
    assert "![roc_volume.png](roc_volume.png)" in text
    assert (folder / "roc_volume.png").read_bytes().startswith(b"\x89PNG")
    main(["list"])
    assert "rexgrounding/axial" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("ct-rate/none", "unknown"),
        ("merlin/pools", "holds CT-RATE"),
        ("ct-rate/ct-clip --limit 0", "--limit"),
        ("ct-rate/ct-clip --dev-share 2", "share"),
    ],
)
def test_wrong_use_ends_with_two(
    arguments: str, said: str, checkpoint: Path, ct_rate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = arguments.split()
    with pytest.raises(SystemExit) as ended:
        main(["run", name, str(checkpoint), str(ct_rate), *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
