"""Patients are read once, kept whole, and asked in words; the reader is real and tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core_model.anatomy import organs
from core_model.reader import Reader
from core_model.thresholds import Thresholds
from tests.tiny import tiny_checkpoint
from tests.training.verdicts import record
from training import case_store
from training.benchmark import VERSION, make_case
from training.case_store import load_record, read_cases, save_record, store_key
from training.judging import bare
from training.phantoms.reports import write_report
from training.wording import PromptBank, mean_text

SEED = 77


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_checkpoint(folder)
    return Reader.load(folder, "cpu")


def test_a_patient_is_read_once_and_asked_everything(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def small(seed: int) -> object:
        made.append(seed)
        return make_case(seed, spacing_mm=8.0)

    monkeypatch.setattr(case_store, "make_case", small)
    before = reader.thresholds
    [first] = read_cases(reader, SEED, 1, before, tmp_path)
    assert reader.thresholds is before
    [again] = read_cases(reader, SEED, 1, before, tmp_path)
    assert made == [SEED]
    assert again == first
    case = make_case(SEED, spacing_mm=8.0)
    assert set(first.words.recognised) == set(first.image.organ_dice)
    assert set(first.words.recognised.values()) <= {"", *(o.name for o in organs())}
    report = write_report(
        case.phantom, np.random.default_rng([SEED, 4]), n_images=case.volume.spatial_shape[0]
    )
    assert [s.text for s in first.words.snippets] == [s.text for s in report.snippets]
    lesions = {p.mask_value for p in case.phantom.planted if p.mask_value}
    for snippet, source in zip(first.words.snippets, report.snippets, strict=True):
        assert source.mask_value in lesions
        area = (case.lesions == source.mask_value).sum((1, 2))
        assert area[snippet.true_slice] >= 0.5 * area.max()  # the slice that the report names shows it
        assert 0 <= snippet.found_slice < snippet.slices
    assert np.linalg.norm(first.words.report_feature) == pytest.approx(1, abs=1e-5)
    assert "image" not in first.words.report


def test_records_survive_the_disk(tmp_path: Path) -> None:
    one = record(
        5,
        planted=[("liver_tumour", 20.0)],
        candidates=[("liver_tumour", 0.9, 0)],
        findings=[("liver_cyst", 0.2, False)],
        organ_scores={"liver_cyst": -0.1},
        snippets=[(3, 4)],
    )
    save_record(one, tmp_path / "deep" / "5.json")
    assert load_record(tmp_path / "deep" / "5.json") == one
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["5.json"]


@pytest.mark.parametrize("content", ["", "{}", '{"image": {}, "words": {}}', "[1]"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "5.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"5\.json is no record of a patient"):
        load_record(file)


def test_the_key_is_that_of_what_is_read_not_of_what_is_decided(reader: Reader) -> None:
    own = bare(Thresholds())
    key = store_key(reader, own)
    assert key.startswith(f"{VERSION.replace('/', '-')}-{reader.identity.digest[:16]}-")
    assert store_key(reader, replace(own, present_from=0.9, lesion={"liver_tumour": 0.7})) == key
    assert store_key(reader, replace(own, temperature=2.0, offset={"liver_cyst": 1.0})) == key
    assert store_key(reader, replace(own, prior={"liver_cyst": 0.2})) == key
    assert store_key(reader, replace(own, mask=0.3)) != key


def test_prompts_are_averaged_over_templates(reader: Reader) -> None:
    bank = PromptBank.of(reader)
    assert bank.organ.shape[0] == len(organs())
    np.testing.assert_allclose(np.linalg.norm(bank.present, axis=1), 1, atol=1e-5)
    mean = mean_text(("liver", "spleen"), reader.embed_all)
    assert mean @ reader.embed("liver") == pytest.approx(mean @ reader.embed("spleen"), abs=1e-5)
