"""Where TotalSegmentator draws the organs, every result says so, and has UIDs of its own."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from core_model.anatomy import organs
from core_model.reading import ModelIdentity, OrganDrawing
from dicom_node.check import run_checks
from dicom_node.config import Config, ResultSettings, load_config
from dicom_node.errors import SightlineError
from dicom_node.model_in_use import ModelInUse
from dicom_node.organ_drawing import organ_segmenter
from dicom_node.results.identifiers import drawn_digest
from dicom_node.results.reading_json import reading_document
from dicom_node.results.report import findings_report
from dicom_node.results.segmentation import lesion_segmentation, organ_segmentation
from tests.dicom_node.ct_series import ct_series, volume_of
from tests.dicom_node.readings import KEY, MODEL, make_reading
from tests.dicom_node.validation import dciodvfy_errors
from tests.peers import require_module
from tests.tiny import tiny_checkpoint

OTHER = ModelIdentity("TotalSegmentator total", "2.18.0", "cd" * 32)
NAMES = tuple(o.name for o in organs() if o.name not in ("face", "pulmonary_artery"))
DRAWING = OrganDrawing(OTHER, "University Hospital Basel", NAMES)


@pytest.fixture(scope="module")
def case() -> Any:
    slices = ct_series("axial")
    reading = make_reading(volume_of(slices), slices)
    return dataclasses.replace(reading, organs_by=DRAWING), slices


def test_each_segment_names_who_drew_it(case: Any, tmp_path: Path) -> None:
    reading, slices = case
    seg = organ_segmentation(reading, slices, KEY)
    assert seg is not None
    assert dciodvfy_errors(seg, tmp_path) == []
    for organ, item in zip(organs(), seg.SegmentSequence, strict=True):
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        model = OTHER if organ.name in NAMES else MODEL
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (model.name, model.version)
        assert model.digest in algorithm.AlgorithmParameters
    lesions = lesion_segmentation(reading, slices, KEY)
    assert lesions is not None
    first = lesions.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert first.AlgorithmName == MODEL.name


def test_the_report_says_it_and_findings_stay_the_models(case: Any, tmp_path: Path) -> None:
    reading, slices = case

    def texts(of: Any) -> list[str]:
        report = findings_report(
            of,
            slices,
            KEY,
            lesion_seg=lesion_segmentation(of, slices, KEY),
            organ_seg=organ_segmentation(of, slices, KEY),
        )
        assert dciodvfy_errors(report, tmp_path) == []
        return [str(item.TextValue) for item in report.ContentSequence if "TextValue" in item]

    said = [text for text in texts(reading) if "drawn" in text]
    assert said == [
        f"Organs were drawn by TotalSegmentator total 2.18.0 (weights_sha256={OTHER.digest}); "
        "face and pulmonary artery by the model."
    ]
    assert not [t for t in texts(dataclasses.replace(reading, organs_by=None)) if "drawn" in t]


def test_numbers_say_it_too(case: Any) -> None:
    reading, _ = case
    document = reading_document(reading)
    assert document["organs_by"] == {**dataclasses.asdict(OTHER), "organs": list(NAMES)}
    assert document["model"]["name"] == MODEL.name
    assert "organs_by" not in reading_document(dataclasses.replace(reading, organs_by=None))


def test_a_changed_setting_or_weight_gives_other_uids() -> None:
    settings = [
        Config(),
        Config(organs="totalsegmentator"),
        Config(organs="totalsegmentator", organs_fast=True),
        Config(results=ResultSettings(organs=False), organs="totalsegmentator"),
    ]
    assert len({c.settings_digest for c in settings}) == len(settings)
    # From before the setting was there: an installation that changes nothing keeps all UIDs.
    assert Config().settings_digest == "4ebfe3175cc6084dbd87a89d8d54bc5b91b208ed709444678a0fa63ccbafaec0"
    newer = dataclasses.replace(DRAWING, model=dataclasses.replace(OTHER, version="2.19.0"))
    other_weights = dataclasses.replace(DRAWING, model=dataclasses.replace(OTHER, digest="ef" * 32))
    digests = [drawn_digest(MODEL, by) for by in (None, DRAWING, newer, other_weights)]
    assert len(set(digests)) == 4
    assert digests[0] == MODEL.digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('organs = "totalsegmenter"', "must be own or totalsegmentator"),
        ("organs_fast = true", "set that too"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(SightlineError, match=words):
        load_config(tmp_path / "node.toml")


def test_weights_are_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('organs = "totalsegmentator"\norgans_weights = "weights"')
    assert load_config(tmp_path / "node.toml").organs_weights == tmp_path / "weights"


def test_a_node_without_the_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_checkpoint(tmp_path / "checkpoint")
    config = Config(archive=tmp_path / "archive", checkpoint=tmp_path / "checkpoint", device="cpu")
    assert ModelInUse(config, config.device).current().organ_drawing is None
    config = dataclasses.replace(config, organs="totalsegmentator")
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)
    monkeypatch.setitem(sys.modules, "totalsegmentator.registry", None)
    with pytest.raises(SightlineError, match=r"pip install 'sightline\[totalsegmentator\]'"):
        ModelInUse(config, config.device)


def test_a_node_without_weights_is_told_by_check(tmp_path: Path) -> None:
    require_module("totalsegmentator", extra="totalsegmentator")
    config = Config(archive=tmp_path / "archive", organs="totalsegmentator", organs_weights=tmp_path / "none")
    (found,) = [result for result in run_checks(config) if result.name == "organs"]
    assert not found.ok
    assert "Dataset291_" in found.message
    with pytest.raises(SightlineError, match="organs = 'totalsegmentator': the weight Dataset291_"):
        organ_segmenter(config)


def test_a_node_loads_totalsegmentator_with_its_weights(tmp_path: Path) -> None:
    require_module("totalsegmentator", extra="totalsegmentator")
    from tests.tiny_totalsegmentator import tiny_weights  # noqa: PLC0415

    tiny_checkpoint(tmp_path / "checkpoint")
    config = Config(
        archive=tmp_path / "archive",
        checkpoint=tmp_path / "checkpoint",
        device="cpu",
        organs="totalsegmentator",
        organs_fast=True,
        organs_weights=tiny_weights(tmp_path / "weights"),
    )
    drawing = ModelInUse(config, config.device).current().organ_drawing
    assert drawing is not None
    assert drawing.model.name == "TotalSegmentator total 3 mm"
    (found,) = [result for result in run_checks(config) if result.name == "organs"]
    assert found.ok
    assert drawing.model.digest[:12] in found.message
