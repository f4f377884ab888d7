"""What foreign programs say about the objects that the node makes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from tests.peers import require


def dciodvfy_errors(dataset: Dataset, folder: Path) -> list[str]:
    """Lines with an Error that dicom3tools' validator prints about a data set."""
    path = folder / "validated.dcm"
    dataset.save_as(path, enforce_file_format=True)
    done = subprocess.run([require("dciodvfy"), path], capture_output=True, text=True, check=False)
    report = done.stdout + done.stderr
    assert report.strip(), "dciodvfy names at least the IOD; silence means that it read nothing"
    return [line for line in report.splitlines() if line.startswith("Error")]


def dcmqi_masks(segmentation: Dataset, folder: Path) -> dict[int, npt.NDArray[np.float64]]:
    """Segment number -> (N, 3) LPS positions (mm) of its voxels, as dcmqi reads a SEG."""
    path, out = folder / "seg.dcm", folder / "dcmqi"
    segmentation.save_as(path, enforce_file_format=True)
    out.mkdir()
    command = [require("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", out, "-t", "nii"]
    subprocess.run(command, capture_output=True, check=True)
    described = json.loads((out / "meta.json").read_text(encoding="utf-8"))["segmentAttributes"]
    masks = {}
    for file in out.glob("*.nii.gz"):
        image = nibabel.load(file)
        array = np.asanyarray(image.dataobj)
        for label in np.unique(array[array != 0]):
            ras = nibabel.affines.apply_affine(image.affine, np.argwhere(array == label))
            masks[int(label)] = ras * [-1, -1, 1]
    numbers = {segment["labelID"] for group in described for segment in group}
    assert set(masks) <= numbers
    return masks


def tid1500(report: Dataset, folder: Path) -> dict[str, Any]:
    """The report as dcmqi's tid1500reader understands it."""
    path, out = folder / "sr.dcm", folder / "sr.json"
    report.save_as(path, enforce_file_format=True)
    command = [require("tid1500reader"), "--inputDICOM", path, "--outputMetadata", out]
    subprocess.run(command, capture_output=True, check=True)
    document: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return document
