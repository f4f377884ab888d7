"""Results made on real CT headers: dirty ones, and ones with padding and unequal thickness."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_node.results.report import findings_report
from dicom_node.results.segmentation import lesion_segmentation, organ_segmentation
from tests.dicom_node.ct_series import volume_of
from tests.dicom_node.readings import KEY, make_reading
from tests.dicom_node.validation import dciodvfy_errors, dcmqi_masks, tid1500
from tests.peers import shared_data


def _crlm() -> list[Dataset]:
    with zipfile.ZipFile(shared_data("crlm_ct", "CRLM-CT-1004.zip")) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dcm")]
        return [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in names]


def _totalsegmentator() -> list[Dataset]:
    folder = shared_data("totalsegmentator_example", "example_ct_dicom")
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("source", [_crlm, _totalsegmentator])
def test_results_are_valid_and_lie_on_the_voxels(source, tmp_path):
    slices = sorted(source(), key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    reading = make_reading(volume_of(slices), slices)
    lesions = lesion_segmentation(reading, slices, KEY)
    organs = organ_segmentation(reading, slices, KEY)
    report = findings_report(reading, slices, KEY, lesion_seg=lesions, organ_seg=organs)
    for dataset in (lesions, organs, report):
        assert dciodvfy_errors(dataset, tmp_path) == []
    for label, points in dcmqi_masks(lesions, tmp_path).items():
        expected = reading.lesion_mask.map_indices_to_reference(
            np.argwhere(reading.lesion_mask.array == label)
        )
        assert len(points) == len(expected)
        # Sorted by slice, row and column both are in one order.
        one, other = (p[np.lexsort(np.round(p, 1).T)] for p in (points, expected))
        assert np.abs(one - other).max() < 0.01
    document = tid1500(report, tmp_path)
    assert len(document["Measurements"]) == len(reading.findings) + len(reading.lesions)
    uids = {str(dataset.SOPInstanceUID or dataset.file_meta.MediaStorageSOPInstanceUID) for dataset in slices}
    referenced = {
        item.ReferencedSOPInstanceUID
        for item in organs.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced == uids
