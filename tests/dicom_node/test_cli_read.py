"""`sightline read` and `query` from the outside: files, tables, JSON, exit codes, and no leftovers.

With a real but untrained checkpoint: what is tested is everything round the model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset

from dicom_node import reading_files
from dicom_node.cli import main
from tests import peers
from tests.dicom_node.ct_files import write_ct
from tests.dicom_node.small_checkpoint import write_small_checkpoint

Data = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DICOM_FILES = {"organs.seg.dcm", "findings.sr.dcm", "reading.json", "encoding.safetensors"}


@pytest.fixture
def shared_data() -> Data:
    """`tests.peers.shared_data`: path of shared test input, else skip."""
    return peers.shared_data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def _body(dataset: FileDataset, k: int) -> None:
    """Soft tissue in air, so that there is something to read."""
    row, column = np.mgrid[: dataset.Rows, : dataset.Columns]
    inside = ((row - 24) / 20) ** 2 + ((column - 28) / 24) ** 2 < 1
    dataset.PixelData = np.where(inside, 1064 + 5 * k + column, 0).astype("<u2").tobytes()


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one readable series of 24 slices and one that is too short."""
    folder = tmp_path_factory.mktemp("ct")
    write_ct(folder / "a", n_slices=24, rows=48, columns=56, spacing=(5, 6, 6), change=_body)
    write_ct(folder / "b", n_slices=2, series="2.25.99")
    return folder


@pytest.fixture(scope="module")
def results(ct: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "new" / "results"
    assert main(["read", str(ct), "--out", str(out), "--nifti", *_model(checkpoint)]) == 0
    return out


def _model(checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--device", "cpu"]


# What comes out


def test_every_promised_file_is_there_and_nothing_else(results: Path) -> None:
    names = {path.name for path in results.iterdir()}
    lesions = json.loads((results / "reading.json").read_text())["lesions"]
    wanted = DICOM_FILES | {"lesions.nii.gz", "organs.nii.gz", "key_00_overview.png"}
    wanted |= {"lesions.seg.dcm"} if lesions else set()
    assert {n for n in names if not n.startswith("key_")} == {n for n in wanted if not n.startswith("key_")}
    assert "key_00_overview.png" in names
    assert [p.name for p in results.parent.iterdir()] == ["results"]
    assert len({path.stat().st_mode for path in results.iterdir()}) == 1


def test_seg_nifti_and_reading_agree_voxel_by_voxel(results: Path, ct: Path) -> None:
    reading = json.loads((results / "reading.json").read_text())
    seg = hd.seg.segread(results / "organs.seg.dcm")
    image: Any = nib.load(results / "organs.nii.gz")
    nifti = hd.Volume(
        np.asarray(image.dataobj).astype(np.uint8),
        image.affine,
        coordinate_system="PATIENT",
        from_reference_convention="RAS",
    )
    from_seg = seg.get_volume(combine_segments=True, dtype=np.uint8).match_geometry(nifti)
    assert (from_seg.array == nifti.array).all()
    assert nifti.array.any()
    assert seg.StudyInstanceUID == pydicom.dcmread(next((ct / "a").iterdir())).StudyInstanceUID
    for organ in reading["organs"]:
        voxels = int((nifti.array == organ["label"]).sum())
        if organ["present"]:
            assert organ["volume_ml"] == pytest.approx(voxels * 5 * 6 * 6 / 1000, rel=1e-3)


def test_reading_json_names_the_slices_and_the_loading(results: Path, ct: Path) -> None:
    reading = json.loads((results / "reading.json").read_text())
    assert reading["schema"] == "sightline-reading/1"
    assert next(iter(reading["seconds"])) == "load"
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in (ct / "a").iterdir()}
    for finding in reading["findings"]:
        assert (finding["sop_instance_uid"] in uids) == (finding["position_lps_mm"] is not None)


def test_the_same_input_gives_the_same_uids(
    ct: Path, checkpoint: Path, results: Path, tmp_path: Path
) -> None:
    assert main(["read", str(ct), "--out", str(tmp_path / "again"), *_model(checkpoint)]) == 0
    for name in ("organs.seg.dcm", "findings.sr.dcm"):
        first, second = (pydicom.dcmread(folder / name) for folder in (results, tmp_path / "again"))
        assert first.SOPInstanceUID == second.SOPInstanceUID


def test_the_table_names_what_was_read_and_what_not(
    ct: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", str(ct), "--out", str(tmp_path / "o"), *_model(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "read series 3 'TEST' (24 slices, 5.00 mm apart)" in out
    assert "not read: series 3 'TEST' (2 objects): only 2 slices" in out
    assert "of 36 organs in view" in out
    assert "liver tumour" in out
    assert "untrained 0 on cpu" in out


def test_nifti_in_nifti_out_on_the_grid_of_the_file(checkpoint: Path, tmp_path: Path) -> None:
    array = np.full((40, 44, 30), -1000, np.int16)
    array[5:35, 5:40, 3:27] = 50
    affine = np.array([[0, -6.0, 0, 90], [5.0, 0, 0, -70], [0, 0, -4.0, 33], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "ct.nii.gz")
    arguments = ["read", str(tmp_path / "ct.nii.gz"), "--out", str(tmp_path / "o"), "--nifti"]
    assert main([*arguments, *_model(checkpoint)]) == 0
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert not any(name.endswith(".dcm") for name in names)
    organs: Any = nib.load(tmp_path / "o" / "organs.nii.gz")
    assert organs.shape == array.shape
    assert np.allclose(organs.affine, affine)
    reading = json.loads((tmp_path / "o" / "reading.json").read_text())
    assert all(finding["sop_instance_uid"] is None for finding in reading["findings"])


def test_query_of_an_encoding_and_of_the_ct_agree(
    ct: Path, checkpoint: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for path in (results / "encoding.safetensors", ct):
        assert main(["query", str(path), "liver tumour", "--json", *_model(checkpoint)]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert set(answers[0]) == {
        "text",
        "position_lps_mm",
        "slice_index",
        "sop_instance_uid",
        "score",
        "organ",
    }
    positions = {
        p.SOPInstanceUID: p.ImagePositionPatient[2] for p in map(pydicom.dcmread, (ct / "a").iterdir())
    }
    assert abs(positions[answers[0]["sop_instance_uid"]] - answers[0]["position_lps_mm"][2]) <= 2.5
    assert main(["query", str(results / "encoding.safetensors"), "liver", *_model(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "position (LPS mm)" in out
    assert "of 24" in out


@pytest.mark.parametrize(
    "parts",
    [("totalsegmentator_example", "example_ct_dicom"), ("totalsegmentator_example", "example_ct.nii.gz")],
)
def test_real_input(shared_data: Data, checkpoint: Path, tmp_path: Path, parts: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    assert main(["read", str(shared_data(*parts)), "--out", str(out), *_model(checkpoint)]) == 0
    assert (out / "findings.sr.dcm").exists() == parts[-1].endswith("dicom")
    assert (out / "key_00_overview.png").exists()


# What goes wrong


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Exit code 2, nothing on standard output, one message on standard error."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sightline: ")
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("sightline: ").rstrip("\n")


def test_bad_paths_are_one_line_and_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08\0")
    for name, reason in (
        ("nope", "no such file or folder"),
        ("cut.zip", "not a complete zip"),
        ("cut.nii.gz", "not a readable NIfTI"),
    ):
        message = refused(["read", str(tmp_path / name), "--out", str(out)], capsys)
        assert len(message.splitlines()) == 1
        assert name in message
        assert reason in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.nii.gz", "cut.zip"]


def test_no_readable_series_says_of_each_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = write_ct(tmp_path / "ct" / "a")
    cut[3].write_bytes(cut[3].read_bytes()[:-50])
    write_ct(tmp_path / "ct" / "b", n_slices=1, series="2.25.5")
    first, *others = refused(
        ["read", str(tmp_path / "ct"), "--out", str(tmp_path / "o")], capsys
    ).splitlines()
    assert first.endswith("no readable CT series in it; give one axial CT series with all its slices")
    assert len(others) == 2
    assert "-3.dcm: the pixel data is cut off: 590 of 640 bytes" in others[0]
    assert "only 1 image" in others[1]
    assert not (tmp_path / "o").exists()


def test_an_empty_room_is_no_patient(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def air(dataset: FileDataset, _: int) -> None:
        dataset.PixelData = bytes(len(dataset.PixelData))

    write_ct(tmp_path / "ct", change=air)
    arguments = ["read", str(tmp_path / "ct"), "--out", str(tmp_path / "o"), *_model(checkpoint)]
    assert "shows no body" in refused(arguments, capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["ct"]


def test_a_folder_with_files_is_not_touched(
    ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    message = refused(["read", str(ct), "--out", str(tmp_path)], capsys)
    assert "not empty" in message
    assert "--overwrite" in message
    assert "is a file" in refused(["read", str(ct), "--out", str(tmp_path / "thesis.txt")], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_overwrite_replaces_own_files_and_leaves_others(ct: Path, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("thesis.txt", "lesions.nii.gz", "key_07_old.png", "reading.json"):
        (tmp_path / name).write_text("old")
    assert main(["read", str(ct), "--out", str(tmp_path), "--overwrite", *_model(checkpoint)]) == 0
    assert (tmp_path / "thesis.txt").read_text() == "old"
    assert not (tmp_path / "lesions.nii.gz").exists()
    assert not (tmp_path / "key_07_old.png").exists()
    assert json.loads((tmp_path / "reading.json").read_text())["organs"]


def test_a_defect_while_writing_leaves_nothing_and_keeps_its_traceback(
    ct: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(reading_files, "save_encoding", broken)
    with pytest.raises(OSError, match="disk full"):
        main(["read", str(ct), "--out", str(tmp_path / "out"), *_model(checkpoint)])
    assert list(tmp_path.iterdir()) == []


def test_bad_checkpoint_device_and_text(
    ct: Path, checkpoint: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = ["read", str(ct), "--out", str(tmp_path / "o")]
    assert "lacks model.safetensors" in refused([*read, "--checkpoint", str(tmp_path)], capsys)
    assert "device" in refused([*read, "--checkpoint", str(checkpoint), "--device", "abacus"], capsys)
    query = ["query", str(results / "encoding.safetensors")]
    assert "the text is empty" in refused([*query, "  ", *_model(checkpoint)], capsys)
    other = write_small_checkpoint(tmp_path / "other", seed=1)
    assert "was made by model untrained" in refused([*query, "liver", *_model(other)], capsys)
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    assert "not a readable encoding" in refused(
        ["query", str(tmp_path / "x.safetensors"), "liver", *_model(checkpoint)], capsys
    )
    assert "no such file" in refused(["query", str(tmp_path / "y.safetensors"), "liver"], capsys)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["serve", "check"])
def test_an_unknown_key_in_the_configuration(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.toml").write_text('ae_titel = "X"\n')
    message = refused([command, "--config", str(tmp_path / "node.toml")], capsys)
    assert "node.toml" in message
    assert "unknown key ae_titel; did you mean ae_title?" in message
    assert "no such configuration file" in refused([command, "--config", str(tmp_path / "no")], capsys)


def test_check_prints_a_line_for_each_and_fails_if_one_fails(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'archive = "archive"\nport = 48123\ncheckpoint = "{checkpoint}"\n')
    assert main(["check", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 6
    assert all(line.startswith("ok   ") for line in lines)
    config.write_text(config.read_text().replace(str(checkpoint), str(tmp_path)))
    assert main(["check", "--config", str(config)]) == 1
    assert "FAIL checkpoint" in capsys.readouterr().out


def test_help_teaches_and_is_quick() -> None:
    program = (
        "import sys; from dicom_node.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pydicom', 'highdicom', 'numpy', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    for arguments in ([], ["read"], ["query"], ["serve"], ["check"], ["demo"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments, "--help"], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip() == "[]"
        assert "usage: sightline" in done.stdout
    assert (
        "examples:"
        in subprocess.run(
            [sys.executable, "-m", "dicom_node.cli", "--help"], capture_output=True, text=True, check=True
        ).stdout
    )


def test_as_a_process(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "dicom_node.cli", *arguments]
        return subprocess.run(command, capture_output=True, check=False)

    done = run("read", str(tmp_path / "x"), "--out", str(tmp_path / "o"))
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert run().returncode == 2
