"""Segmentations in and out in small steps: as Slicer's own reader has them, on any grid, in layers."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import slicer
from SightlineLib import segments
from SightlineLib.failures import AnswerError
from SightlineLib.steps import Steps, runNow

from tests.slicer.harness import phantom
from tests.slicer.harness.nrrd_files import TERMINOLOGY, Segment, read_volume, segment_file
from tests.slicer.harness.waiting import Ticks, wait_until

GRID = phantom.grid((2, 0, 1), (-1, 1, -1), spacing=8.0)
LESION, SPLEEN = (phantom.mask(GRID, part) for part in (phantom.LESION, phantom.SPLEEN))
CONTENT = segment_file([Segment("lesion", LESION), Segment("spleen", SPLEEN, (0.6, 0.3, 0.6))], GRID)


def node_of(content: bytes):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    runNow(segments.readInto(node, content))
    return node


def masks(node, volume):
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    return {each: slicer.util.arrayFromSegmentBinaryLabelmap(node, each, volume) for each in ids}


def test_a_file_is_read_as_slicers_own_reader_reads_it(scene, tmp_path):
    volume = phantom.add_volume(GRID)
    path = tmp_path / "x.seg.nrrd"
    path.write_bytes(CONTENT)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    theirs = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(theirs)
    ours = node_of(CONTENT)
    assert list(masks(ours, volume)) == ["segment_1", "segment_2"]
    for identifier, mask in masks(ours, volume).items():
        np.testing.assert_array_equal(mask, masks(theirs, volume)[identifier])
        pair = [node.GetSegmentation().GetSegment(identifier) for node in (ours, theirs)]
        assert pair[0].GetName() == pair[1].GetName()
        assert pair[0].GetColor() == pytest.approx(pair[1].GetColor())
        assert [segments.terminologyOf(segment) for segment in pair] == [TERMINOLOGY] * 2
    np.testing.assert_array_equal(masks(ours, volume)["segment_1"], LESION)


@pytest.mark.parametrize("flip", [False, True])
def test_what_was_read_is_written_on_the_voxels_of_the_ct(scene, flip):
    ct = phantom.grid((0, 1, 2), (1, -1, 1), spacing=8.0) if flip else GRID
    content = runNow(segments.fileOf(node_of(CONTENT), phantom.add_volume(ct)))
    values, grid = read_volume(content)
    first = np.rint(np.linalg.solve(ct.ijk_to_lps, grid.ijk_to_lps)[:3, 3]).astype(int)
    whole = np.zeros(ct.shape[::-1], dtype=np.uint8)
    i, j, k = (slice(a, a + n) for a, n in zip(first, values.shape[::-1], strict=True))
    whole[k, j, i] = values
    np.testing.assert_array_equal(whole == 1, phantom.mask(ct, phantom.LESION) > 0)
    np.testing.assert_array_equal(whole == 2, phantom.mask(ct, phantom.SPLEEN) > 0)
    assert b"Segment0_ID:=segment_1\n" in content
    assert values.size < whole.size / 2


def test_segments_that_overlap_are_written_in_layers(scene):
    volume = phantom.add_volume(GRID)
    node = node_of(CONTENT)
    node.GetSegmentation().AddEmptySegment("all", "all")
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones_like(LESION), node, "all", volume)
    content = runNow(segments.fileOf(node, volume))
    head, _, data = content.partition(b"\n\n")
    assert f"sizes: 2 {' '.join(map(str, GRID.shape))}".encode() in head
    layers = np.frombuffer(gzip.decompress(data), dtype=np.uint8).reshape(*GRID.shape[::-1], 2)
    np.testing.assert_array_equal(layers[..., 0] == 1, LESION > 0)
    assert (layers[..., 1] == 3).all()
    assert b"Segment2_Layer:=1" in head


def test_no_segments_make_a_file_too(scene):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    values, _ = read_volume(runNow(segments.fileOf(node, phantom.add_volume(GRID))))
    assert not values.any()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"NRRD0004\n\n",
        CONTENT[:-200],
        CONTENT.replace(b"encoding: gzip", b"encoding: raw"),
        CONTENT.replace(b"Segment0_Extent:=0 19 ", b"Segment0_Extent:=0 99 "),
        CONTENT.replace(b"Segment1_LabelValue", b"Segment1_Something"),
    ],
)
def test_what_is_no_segmentation_is_said(scene, content):
    with pytest.raises(AnswerError, match="not a segmentation"):
        node_of(content)


def test_the_window_lives_while_a_large_file_is_read(scene):
    labels = np.zeros((200, 300, 300), dtype=np.uint8)
    labels[20:180, 20:280, 20:280] = 1
    large = phantom.Grid(np.diag([1.0, 1.0, 1.0, 1.0]), labels.shape[::-1])
    content = segment_file([Segment("large", labels)], large)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    over: list[object] = []
    with Ticks() as ticks:
        steps = Steps(segments.readInto(node, content), over.append, over.append)
        wait_until(lambda: bool(over))
    assert over == [None], steps
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    # Processor time, which a busy machine does not stretch.
    assert ticks.most_work_s < 0.05


def test_work_that_is_given_up_does_not_go_on(scene):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    told: list[object] = []
    steps = Steps(segments.readInto(node, CONTENT), told.append, told.append)
    steps.cancel()
    with pytest.raises(TimeoutError):
        wait_until(lambda: bool(told), seconds=0.2)
    assert node.GetSegmentation().GetNumberOfSegments() == 0
