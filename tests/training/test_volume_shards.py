"""Shards of a data set: what goes in comes out, whole shards are kept, bad samples are counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.volume import to_model_grid
from tests.tiny import body_volume
from tests.training.small_shards import small_sample, small_shards
from training.cache import make_shards
from training.datasets.sample import (
    OrganSentence,
    Problem,
    Record,
    Sample,
    SliceSnippet,
    UnusableSampleError,
)
from training.datasets.what_is_said import ABSENT, PRESENT, UNKNOWN, what_is_said
from training.phantoms.tissues import IGNORE
from training.volume_shards import Shards, prepare, write_shard

NAMES = [a.name for a in abnormalities()]


def sample_of(record: Record, spacing_mm: tuple[float, float, float] = (5.0, 2.0, 2.0)) -> Sample:
    """A body with a liver, one tumour in it and a sentence on slice 12."""
    volume = body_volume((30, 40, 44), spacing_mm)
    organs = np.zeros(volume.spatial_shape, np.uint8)
    organs[5:20, 10:30, 10:25] = organ("liver").label
    tumours = np.zeros_like(organs)
    tumours[10:14, 15:20, 15:20] = 1 + NAMES.index("liver_tumour")
    snippet = SliceSnippet("A lesion of the liver.", 12, 12, 12, ("liver",))
    return Sample(
        record,
        volume,
        organs,
        tumours=tumours,
        tumours_labelled=frozenset({"liver_tumour", "liver_cyst"}),
        snippets=(snippet,),
    )


class SmallSet:
    """A data set of five records, of which one is corrupt."""

    name = "small set"
    vocabulary: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder, self.loaded = folder, list[str]()

    @staticmethod
    def recognises(folder: Path) -> bool:
        return folder.is_dir()

    def records(self) -> Sequence[Record]:
        report = "FINDINGS: The spleen is normal. There is a hypodense liver lesion."
        return [Record(f"s{n}", f"p{n}", "train", self.folder, report=report) for n in range(5)]

    def problems(self) -> Sequence[Problem]:
        return []

    def load(self, record: Record) -> Sample:
        self.loaded.append(record.name)
        if record.name == "s2":
            raise UnusableSampleError("image is unreadable", "not a gzipped file")
        return sample_of(record)


def test_a_set_goes_in_and_comes_out(tmp_path: Path) -> None:
    dataset = SmallSet(tmp_path)
    tally = make_shards(dataset, dataset.records(), tmp_path / "out", spacing_mm=4.0, per_shard=2)
    assert (tally.used, [p.name for p in tally.skipped]) == (4, ["s2"])
    shards = Shards(tmp_path / "out")
    assert shards.skipped == {"image is unreadable": 1}
    found = [shards.load(place) for place in shards.places]
    assert [s.name for s in found] == ["s0", "s1", "s3", "s4"]
    one, whole = found[0], sample_of(dataset.records()[0])
    hu, geometry = to_model_grid(whole.volume, 4.0)
    torch.testing.assert_close(one.hu.float(), hu[0, 0], atol=0.51, rtol=0)
    assert one.organs.shape == one.lesions.shape == one.hu.shape == tuple(geometry.spatial_shape)
    # 15 x 5 mm by 20 x 2 mm by 15 x 2 mm of liver, in voxels of 4 mm
    assert int((one.organs == organ("liver").label).sum()) == pytest.approx(75 * 40 * 30 / 64, rel=0.1)
    assert one.findings[NAMES.index("liver_tumour")] == PRESENT
    assert one.findings[NAMES.index("liver_cyst")] == ABSENT
    assert one.findings[NAMES.index("renal_tumour")] == UNKNOWN
    assert {w.organ: w.normal for w in one.words.organs} == {"spleen": True, "liver": False}
    assert one.snippets[0].slice_index == round(12.5 * 5 / 4 - 0.5)
    assert int(one.lesions[one.snippets[0].slice_index].sum()) > 0


def test_whole_shards_are_not_made_again(tmp_path: Path) -> None:
    first, second = SmallSet(tmp_path), SmallSet(tmp_path)
    make_shards(first, first.records(), tmp_path / "out", spacing_mm=4.0, per_shard=2, part=(2, 2))
    assert first.loaded == ["s2", "s3"]
    (tmp_path / "out" / "00001.json").unlink()
    make_shards(first, first.records(), tmp_path / "out", spacing_mm=4.0, per_shard=2, part=(1, 2))
    make_shards(second, second.records(), tmp_path / "out", spacing_mm=4.0, per_shard=2)
    assert second.loaded == ["s2", "s3"]
    assert len(Shards(tmp_path / "out").places) == 4


def test_shards_of_another_spacing_are_not_mixed(tmp_path: Path) -> None:
    dataset = SmallSet(tmp_path)
    make_shards(dataset, dataset.records()[:1], tmp_path / "out", spacing_mm=4.0)
    with pytest.raises(ValueError, match=r"spacing_mm 4\.0, not 3\.0"):
        make_shards(dataset, dataset.records()[:1], tmp_path / "out", spacing_mm=3.0)
    with pytest.raises(ValueError, match="records 1, not 5"):
        make_shards(dataset, dataset.records(), tmp_path / "out", spacing_mm=4.0)


def test_what_holds_no_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no shards"):
        Shards(tmp_path)
    folder = small_shards(tmp_path / "s", 3)
    whole = folder / "00000.safetensors"
    whole.write_bytes(whole.read_bytes()[:200])
    shards = Shards(folder)
    with pytest.raises(ValueError, match="is damaged"):
        shards.load(shards.places[0])


def test_a_spacing_that_no_patient_has(tmp_path: Path) -> None:
    with pytest.raises(UnusableSampleError, match="spacing is implausible"):
        prepare(sample_of(SmallSet(tmp_path).records()[0], (400.0, 2.0, 2.0)), 4.0)


def test_where_a_map_is_silent_of_an_organ_nothing_is_known(tmp_path: Path) -> None:
    sample = sample_of(SmallSet(tmp_path).records()[0])
    organs = np.zeros_like(sample.organs)
    organs[12:16, 16:22, 16:22] = organ("heart").label
    spoken = prepare(replace(sample, organs=organs), 4.0).organs
    silent = prepare(
        replace(sample, organs=organs, organs_silent=frozenset({"pulmonary_artery"})), 4.0
    ).organs
    assert not bool((spoken == IGNORE).any())
    heart = spoken == organ("heart").label
    assert torch.equal(silent == organ("heart").label, heart)
    unknown = (silent == IGNORE).nonzero().float()
    gap = torch.cdist(unknown, heart.nonzero().float()).min(1).values * 4
    assert len(unknown) > 100
    assert float(gap.max()) <= 40


def test_organs_that_a_set_does_not_have_are_unknown(tmp_path: Path) -> None:
    sample = replace(sample_of(SmallSet(tmp_path).records()[0]), organs=None, tumours=None)
    stored = prepare(sample, 8.0)
    assert stored.organs.unique().tolist() == [IGNORE]
    assert stored.lesions.unique().tolist() == [0]
    assert not stored.outlined


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99), st.integers(0, 3))
def test_every_sample_comes_once_a_round(count: int, per_shard: int, seed: int, turn: int) -> None:
    documents = {
        k: {"samples": list(range(k * per_shard, min(count, (k + 1) * per_shard)))} for k in range(12)
    }
    shards = Shards.__new__(Shards)
    shards.__dict__["_documents"] = {k: d for k, d in documents.items() if d["samples"]}
    order = list(shards.order(seed, turn))
    assert sorted(order) == sorted(shards.places)
    assert order == list(shards.order(seed, turn))


def test_labels_reports_and_outlines_in_their_order() -> None:
    volume = body_volume((4, 6, 6))
    record = Record(
        "a",
        "p",
        "train",
        Path(),
        labels=MappingProxyType({"Pleural effusion": True, "Emphysema": True, "Lung opacity": True}),
        sentences=(
            OrganSentence("No pleural effusion is seen.", ("lung",), "pleura"),
            OrganSentence("The aorta may be aneurysmal.", ("aorta",)),
        ),
    )
    said = what_is_said(Sample(record, volume))
    found = dict(zip(NAMES, said.findings, strict=True))
    assert found["pleural_effusion"] == ABSENT, "the report outweighs a label"
    assert found["emphysema"] == PRESENT
    assert found["aortic_aneurysm"] == UNKNOWN
    assert {w.organ: w.normal for w in said.words.organs} == {"lung": True, "aorta": False}
    outlined = np.zeros(volume.spatial_shape, np.uint8)
    outlined[1, 1, 1] = 1 + NAMES.index("pleural_effusion")
    again = what_is_said(Sample(record, volume, tumours=outlined))
    assert again.findings[NAMES.index("pleural_effusion")] == PRESENT, "what is outlined outweighs the report"


def test_a_shard_says_what_it_holds(tmp_path: Path) -> None:
    samples = [small_sample(n) for n in range(2)]
    write_shard(tmp_path, 0, samples, [Problem("x", "image is unreadable", "truncated")])
    about = json.loads((tmp_path / "00000.json").read_text(encoding="utf-8"))
    assert [s["name"] for s in about["samples"]] == ["sample-0", "sample-1"]
    assert about["skipped"] == [{"name": "x", "kind": "image is unreadable", "detail": "truncated"}]
    assert about["samples"][0]["words"]["report"] == list(samples[0].words.report)
