"""The DICOM export: where the phantom's voxels are, valid, reproducible, with its truth."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.phantoms.__main__ import lesion_argument, main, seeds_argument
from training.phantoms.contact_sheet import write_sheet
from training.phantoms.dicom import (
    KERNELS,
    SeriesSettings,
    export_geometry,
    nearest,
    phantom_geometry,
    write_series,
)
from training.phantoms.study import Study, make_phantom, write_study
from training.phantoms.tissues import Phantom

LESIONS = (("liver_tumour", 30.0), ("lung_nodule", 25.0), ("hepatic_steatosis", 0.0))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    return write_study(5, folder, lesions=LESIONS, slices=60, matrix=128, spacing_mm=4.0)


@pytest.fixture(scope="module")
def small() -> Phantom:
    """A phantom without anatomy whose voxels can be told apart."""
    hu = torch.full((5, 6, 9), -1000.0)
    hu[1, 2, 3] = 1000.0
    labels = torch.zeros(hu.shape, dtype=torch.uint8)
    labels[1, 2, 3] = 1
    return Phantom(hu=hu, organs=labels, lesions=labels, planted=(), spacing_mm=(4.0, 2.0, 2.0))


def test_axes_run_to_head_posterior_left(small: Phantom) -> None:
    geometry = phantom_geometry(small)
    assert geometry.get_closest_patient_orientation() == tuple(
        hd.enum.PatientOrientationValuesBiped(letter) for letter in "HPL"
    )
    assert geometry.spacing == pytest.approx((4.0, 2.0, 2.0))


def test_own_grid_is_exported_voxel_for_voxel(small: Phantom, tmp_path: Path) -> None:
    """Without resampling every phantom voxel is a pixel at the same patient position."""
    series = write_series(small, tmp_path, SeriesSettings(seed=1, kernel="B20f"))
    assert len(series.files) == 5
    volume = _read_volume(tmp_path)
    position = phantom_geometry(small).map_indices_to_reference(np.array([[1, 2, 3]]))
    index = volume.map_reference_to_indices(position)[0]
    assert np.allclose(index, np.rint(index), atol=1e-6)
    brightest = np.unravel_index(int(volume.array.argmax()), volume.shape)
    assert tuple(np.rint(index).astype(int)) == tuple(int(i) for i in brightest)
    assert volume.array[brightest] == pytest.approx(1000, abs=60)


@settings(max_examples=15, deadline=None)
@given(slices=st.integers(2, 40), matrix=st.integers(16, 60))
def test_any_grid_covers_the_same_extent(slices: int, matrix: int) -> None:
    hu = torch.zeros((12, 20, 30))
    labels = torch.zeros(hu.shape, dtype=torch.uint8)
    phantom = Phantom(hu=hu, organs=labels, lesions=labels, planted=(), spacing_mm=(3.0, 2.0, 2.0))
    geometry = export_geometry(phantom, SeriesSettings(seed=0, slices=slices, matrix=matrix))
    assert geometry.spatial_shape == (slices, matrix, matrix)
    own = phantom_geometry(phantom)
    ends = [[-0.5, 9.5, 14.5], [11.5, 9.5, 14.5]]
    middle = (matrix - 1) / 2
    mine = [[-0.5, middle, middle], [slices - 0.5, middle, middle]]
    assert np.allclose(
        geometry.map_indices_to_reference(np.array(mine)), own.map_indices_to_reference(np.array(ends))
    )
    assert geometry.spacing[2] * matrix == pytest.approx(60.0)


def test_images_run_from_superior_to_inferior(study: Study) -> None:
    heights = {}
    for path in study.series.files:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        heights[int(ds.InstanceNumber)] = float(ds.ImagePositionPatient[2])
    ordered = [heights[n] for n in range(1, 61)]
    assert ordered == sorted(ordered, reverse=True)
    steps = -np.diff(ordered)
    assert np.allclose(steps, steps[0], atol=1e-4)
    assert steps[0] == pytest.approx(float(study.series.geometry.spacing[0]), abs=1e-4)


def test_lesions_lie_where_truth_says(study: Study) -> None:
    """The centroid in LPS, the NIfTI mask and the named image agree with the exported pixels."""
    volume = _read_volume(study.folder / "dicom")
    mask_image = nib.load(study.folder / "truth_lesions.nii.gz")
    mask = np.asarray(mask_image.dataobj)
    for lesion in study.truth["planted"]:
        if lesion["mask_value"] == 0:
            continue
        lps = np.array(lesion["centroid_lps_mm"])
        ras = nib.affines.apply_affine(mask_image.affine, np.argwhere(mask == lesion["mask_value"]))
        assert np.abs(ras.mean(0) * (-1, -1, 1) - lps).max() < 3.0
        path = study.series.files[study.series.sop_instance_uids.index(lesion["sop_instance_uid"])]
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        assert int(ds.InstanceNumber) == lesion["image_number"]
        z = len(study.series.files) - lesion["image_number"]
        assert (mask[:, :, z] == lesion["mask_value"]).any()
    nodule = next(p for p in study.truth["planted"] if p["abnormality"] == "lung_nodule")
    index = np.rint(volume.map_reference_to_indices(np.array([nodule["centroid_lps_mm"]]))[0]).astype(int)
    assert volume.array[tuple(index)] > -300, "the nodule's centre shows soft tissue, not lung"


def test_liver_is_on_the_patients_right_in_lps(study: Study) -> None:
    image = nib.load(study.folder / "truth_organs.nii.gz")
    voxels = np.argwhere(np.asarray(image.dataobj) == 21)
    ras = nib.affines.apply_affine(image.affine, voxels).mean(0)
    assert ras[0] > 20  # the first axis of RAS grows towards the patient's right
    spleen = nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj) == 30)).mean(0)
    assert spleen[0] < -20


def test_nearest_keeps_labels_and_leaves_the_outside_empty(small: Phantom) -> None:
    target = export_geometry(small, SeriesSettings(seed=0, slices=10, matrix=18))
    labels = nearest(small.lesions, phantom_geometry(small), target)
    assert labels.shape == (10, 18, 18)
    assert set(np.unique(labels)) == {0, 1}
    assert int(labels.sum()) == 2 * 2 * 2
    full = torch.ones_like(small.lesions)
    covered = nearest(full, phantom_geometry(small), target)
    assert covered[:, 9, :].all()
    assert not covered[:, 0, :].any()


def test_dciodvfy_finds_no_error(study: Study, small: Phantom, tmp_path: Path) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("dciodvfy is missing; install the Debian package dicom3tools")
        pytest.skip("dciodvfy is missing; install the Debian package dicom3tools")
    native = write_series(small, tmp_path, SeriesSettings(seed=2))
    for path in (study.series.files[0], study.series.files[30], native.files[0]):
        result = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        report = result.stdout + result.stderr
        assert "Error" not in report, report
        assert "CTImage" in report


def test_header_says_that_it_is_synthetic(study: Study) -> None:
    ds = pydicom.dcmread(study.series.files[0], stop_before_pixels=True)
    assert str(ds.PatientName) == "PHANTOM^SEED5"
    assert ds.QualityControlSubject == "YES"
    assert ds.ConvolutionKernel in KERNELS
    assert ds.PatientPosition == "HFS"
    assert ds.Rows == ds.Columns == 128


def test_same_seed_same_files_other_settings_other_uids(small: Phantom, tmp_path: Path) -> None:
    first = write_series(small, tmp_path / "a", SeriesSettings(seed=1))
    second = write_series(small, tmp_path / "b", SeriesSettings(seed=1))
    for a, b in zip(first.files, second.files, strict=True):
        assert a.read_bytes() == b.read_bytes()
    other = write_series(small, tmp_path / "c", SeriesSettings(seed=1, slices=7))
    assert other.series_instance_uid != first.series_instance_uid
    assert not set(other.sop_instance_uids) & set(first.sop_instance_uids)


def test_one_voxel_more_makes_another_study(small: Phantom, tmp_path: Path) -> None:
    hu = small.hu.clone()
    hu[3, 4, 5] = 40.0
    first = write_series(small, tmp_path / "a", SeriesSettings(seed=1))
    second = write_series(dataclasses.replace(small, hu=hu), tmp_path / "b", SeriesSettings(seed=1))
    assert first.study_instance_uid != second.study_instance_uid
    assert first.geometry.frame_of_reference_uid != second.geometry.frame_of_reference_uid


def test_existing_series_is_not_mixed_with_another(small: Phantom, tmp_path: Path) -> None:
    write_series(small, tmp_path, SeriesSettings(seed=1))
    with pytest.raises(FileExistsError, match="already holds"):
        write_series(small, tmp_path, SeriesSettings(seed=2))


def test_truth_and_report_are_written(study: Study) -> None:
    truth = json.loads((study.folder / "truth.json").read_text(encoding="utf-8"))
    assert truth == study.truth
    assert [p["abnormality"] for p in truth["planted"]] == [name for name, _ in LESIONS]
    assert (study.folder / "report.txt").read_text(encoding="utf-8") == study.report.text
    named = {s.image_number for s in study.report.snippets}
    assert named == {p["image_number"] for p in truth["planted"] if "image_number" in p}


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    argv = ["study", "--seed", "3", "--out", str(out), "--spacing", "6", "--height", "300"]
    assert main([*argv, "--healthy"]) == 0
    assert "images" in capsys.readouterr().out
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "already holds" in error
    assert error.count("\n") == 1
    assert main([*argv[:4], str(tmp_path / "other"), "--lesion", "wart:3mm"]) == 2
    assert "wart" in capsys.readouterr().err


def test_arguments_teach() -> None:
    assert lesion_argument("colon_tumour:30") == ("colon_tumour", 30.0)
    for text in ("liver_tumour", "liver_tumour:huge", "liver_tumour:900mm"):
        with pytest.raises(ValueError, match="25mm"):
            lesion_argument(text)
    with pytest.raises(ValueError, match=r"0\.\.11"):
        seeds_argument("many")


def test_contact_sheet_outlines_lesions(tmp_path: Path) -> None:
    phantom = make_phantom(6, lesions=(("liver_tumour", 40.0),), spacing_mm=6.0)
    write_sheet([("seed 6", phantom)], tmp_path / "sheet.png", zoom=1)
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert (picture == (255, 210, 0)).all(-1).sum() > 10
    with pytest.raises(ValueError, match="at least one"):
        write_sheet([], tmp_path / "none.png")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel"):
        SeriesSettings(seed=0, kernel="Z99")
    with pytest.raises(ValueError, match="matrix"):
        SeriesSettings(seed=0, matrix=1)
    with pytest.raises(ValueError, match="slices"):
        SeriesSettings(seed=0, slices=1)
    with pytest.raises(ValueError, match="seed"):
        make_phantom(-1)


def _read_volume(folder: Path) -> hd.Volume:
    datasets = [pydicom.dcmread(p) for p in sorted(folder.glob("*.dcm"))]
    return hd.get_volume_from_series(datasets)
