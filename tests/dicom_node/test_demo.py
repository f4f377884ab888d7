"""The demo: its comparison on scenes made by hand, its PACS, its failures, and the whole of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import Comprehensive3DSRStorage

from dicom_node.cli import main
from dicom_node.config import load_config
from dicom_node.demo import run_demo
from dicom_node.demo_node import NodeProcess, free_port, write_config
from dicom_node.demo_pacs import DemoError, Pacs
from dicom_node.demo_pictures import write_pictures
from dicom_node.demo_truth import Planted, Scene, compare
from tests.dicom_node.ct_files import write_ct
from tests.dicom_node.small_checkpoint import write_small_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def silent(_stage: str, _fraction: float) -> None:
    """Progress for nobody."""


# The comparison


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Two planted tumours and a cyst; the first tumour is found 4 mm off, and one thing that is none."""
    shape = (20, 60, 60)
    ct = hd.Volume.from_components(
        np.full(shape, 40, np.int16),
        spacing=(5.0, 2.0, 2.0),
        position=(-60.0, -60.0, 100.0),
        direction=np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]).T,
        coordinate_system="PATIENT",
    )
    truth, lesions = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    truth[5:9, 10:20, 10:20], truth[12:14, 30:36, 30:36], truth[2:4, 50:54, 50:54] = 1, 2, 3
    lesions[5:9, 12:22, 10:20], lesions[15:18, 5:8, 5:8] = 1, 2

    def planted(name: str, organ: str, value: int) -> Planted:
        index = np.argwhere(truth == value).mean(0, keepdims=True)
        centre = ct.map_indices_to_reference(index)[0].tolist()
        return Planted(name, organ, "", 20.0 + value, value, (centre[0], centre[1], centre[2]))

    finding: dict[str, Any] = {"probability": 0.9, "status": "present", "position_lps_mm": None}
    return Scene(
        ct=ct,
        truth=truth,
        lesions=lesions,
        organs=np.full(shape, 21, np.uint8),
        planted=(
            planted("liver_tumour", "liver", 1),
            planted("liver_tumour", "liver", 2),
            planted("renal_cyst", "kidneys", 3),
            Planted("hepatic_steatosis", "liver", "", 0.0, 0, None),
        ),
        document={
            "findings": [
                {"abnormality": "liver_tumour", **finding},
                {"abnormality": "renal_cyst", **finding, "position_lps_mm": [44.0, 44.0, 112.5]},
                {"abnormality": "hepatic_steatosis", **finding, "status": "absent", "probability": 0.1},
                {"abnormality": "lung_nodule", **finding, "status": "undetermined", "probability": None},
            ]
        },
        encoding_file=tmp_path / "encoding.safetensors",
        title="",
        objects=(),
        problems=(),
    )


def test_planted_and_found_are_matched_by_overlap(scene: Scene) -> None:
    first, second, cyst, steatosis = compare(scene).planted
    assert (first.found, first.segmented) == (True, True)
    assert first.dice == pytest.approx(0.8)
    assert first.distance_mm == pytest.approx(4.0)
    assert (second.found, second.dice, second.distance_mm) == (False, None, None)
    assert (cyst.found, cyst.segmented, cyst.dice) == (True, False, None)
    assert cyst.distance_mm == pytest.approx(np.sqrt(2), abs=0.1)
    assert not steatosis.found


def test_present_but_somewhere_else_is_not_found(scene: Scene) -> None:
    elsewhere = {**scene.document["findings"][1], "position_lps_mm": [44.0, -40.0, 112.5]}
    document = {"findings": [elsewhere]}
    cyst = compare(replace(scene, document=document)).planted[2]
    assert not cyst.found
    assert cyst.distance_mm == pytest.approx(83.0, abs=0.1)


def test_what_a_text_names_is_the_nearest_lesion_of_its_kind(scene: Scene) -> None:
    first, second, cyst = scene.planted[:3]
    for entry in (first, second):
        assert entry.centroid_lps_mm is not None
        beside = [v + 3.0 for v in entry.centroid_lps_mm]
        assert scene.nearest("liver_tumour", beside) is entry
        assert scene.nearest("liver_tumour", entry.centroid_lps_mm) is entry
        assert scene.nearest("renal_cyst", beside) is cyst
    assert scene.nearest("hepatic_steatosis", (0.0, 0.0, 0.0)) is None
    assert scene.nearest("lung_nodule", (0.0, 0.0, 0.0)) is None


def test_what_touches_nothing_planted_is_false(scene: Scene) -> None:
    assert compare(scene).false_lesions == 1
    assert compare(replace(scene, lesions=np.zeros_like(scene.lesions))).false_lesions == 0


def test_findings_say_what_was_planted(scene: Scene) -> None:
    findings = {f.abnormality: f for f in compare(scene).findings}
    assert [findings[n].planted for n in ("liver_tumour", "hepatic_steatosis", "lung_nodule")] == [
        True,
        True,
        False,
    ]
    assert findings["lung_nodule"].probability is None


def test_a_picture_for_everything_with_a_mask(scene: Scene, tmp_path: Path) -> None:
    paths = write_pictures(scene, compare(scene).planted, tmp_path)
    assert [path.name for path in paths] == [
        "demo_00_overview.png",
        "demo_01_liver_tumour.png",
        "demo_02_liver_tumour.png",
        "demo_03_renal_cyst.png",
    ]
    red, green, blue = (np.asarray(Image.open(paths[1]).convert("RGB"))[..., i].astype(int) for i in range(3))
    assert ((green - red > 100) & (green - blue > 100)).any()  # the truth's outline is there
    assert ((red - green > 100) & (red - blue > 100)).any()  # and that of what was found


# The PACS and the node


def test_the_pacs_keeps_what_it_is_sent_as_it_came(tmp_path: Path) -> None:
    files = write_ct(tmp_path / "ct", n_slices=3)
    with Pacs(tmp_path / "a") as sender, Pacs(tmp_path / "b") as receiver:
        sender.send(files, receiver.port, "ANY")
        assert len(receiver.received()) == 3
        assert time.time() - receiver.last_received_at < 60
        assert not receiver.has_report()
        for sent, kept in zip(files, receiver.received(), strict=True):
            assert pydicom.dcmread(sent) == pydicom.dcmread(kept)

        report = pydicom.dcmread(files[0])
        report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = Comprehensive3DSRStorage
        report.save_as(tmp_path / "sr.dcm")
        with pytest.raises(ValueError, match="presentation context"):  # this SCU sends CT only
            sender.send([tmp_path / "sr.dcm"], receiver.port, "ANY")


def test_nobody_there(tmp_path: Path) -> None:
    with Pacs(tmp_path / "pacs") as pacs, pytest.raises(DemoError, match="takes no association"):
        pacs.send([], free_port(), "SIGHTLINE")


def test_the_configuration_is_valid_and_stays_on_loopback(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, 4242, tmp_path / 'check "point"', "cpu"))
    assert (config.address, config.destinations[0].port) == ("127.0.0.1", 4242)
    assert (config.checkpoint, config.device) == (tmp_path / 'check "point"', "cpu")
    assert config.archive == tmp_path / "archive"


def test_a_node_that_cannot_start_is_reported_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("prot = 1\n")
    started = time.monotonic()
    with NodeProcess(tmp_path / "node.toml", tmp_path / "node.log") as node:
        with pytest.raises(DemoError, match=r"(?s)did not start.*unknown key prot"):
            node.wait_ready()
        assert not node.is_running()
    assert time.monotonic() - started < 60


def test_a_phantom_that_cannot_be_made_fails_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--seed", "-1", "--out", str(tmp_path / "demo")]) == 1
    assert "the phantom could not be made (seed -1)" in capsys.readouterr().err


def test_a_folder_with_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").touch()
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    outcome = run_demo(
        tmp_path / "demo",
        seed=3,
        checkpoint=write_small_checkpoint(tmp_path / "checkpoint"),
        device="cpu",
        phantom=["--spacing=5", "--height=300", "--lesion=liver_tumour:35mm"],
        progress=silent,
    )
    assert outcome.problems == ()
    assert [p.planted.abnormality for p in outcome.planted] == ["liver_tumour"]
    assert outcome.objects[-1] == "SR Sightline findings"
    assert any("organs, 36 segments" in line for line in outcome.objects)
    assert outcome.answer.distance_mm is not None
    assert 0 < outcome.seconds["  study complete -> stored back"] < outcome.seconds["wait for results"]
    assert outcome.seconds["  reader: load"] > 0
    assert 100 << 20 < outcome.peak_rss_bytes < 8 << 30
    assert all(path.stat().st_size > 10_000 for path in outcome.pictures)
    received = sorted((tmp_path / "demo" / "pacs").iterdir())
    sent = pydicom.dcmread(next((tmp_path / "demo" / "phantom" / "dicom").iterdir()))
    assert {pydicom.dcmread(path).StudyInstanceUID for path in received} == {sent.StudyInstanceUID}
