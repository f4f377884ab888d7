"""A right sample raises no doubt; each known mistake raises its own."""

from __future__ import annotations

from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest

from training.datasets.ct_rate import CtRate
from training.datasets.miniature_ct_rate import write_ct_rate
from training.datasets.sample import Sample, SliceSnippet
from training.datasets.traps import direction_traps, hu_traps, traps


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[CtRate, Sample]:
    folder = tmp_path_factory.mktemp("traps")
    write_ct_rate(folder, 3)
    dataset = CtRate(folder)
    return dataset, dataset.load(dataset.records()[0])


def scaled(sample: Sample, factor: tuple[float, float, float]) -> Sample:
    """The sample with its slices, rows and columns further apart."""
    affine = sample.volume.affine.copy()
    affine[:3, :3] *= factor
    return replace(sample, volume=hd.Volume(sample.volume.array, affine, coordinate_system="PATIENT"))


def test_a_right_sample_raises_no_doubt(opened: tuple[CtRate, Sample]) -> None:
    dataset, sample = opened
    assert traps(dataset, sample) == ()


def test_hu_that_were_rescaled_again_or_never(opened: tuple[CtRate, Sample]) -> None:
    hu = opened[1].volume.array
    assert hu_traps(hu) == []
    assert "rescaled twice?" in hu_traps(hu - 1024)[0]
    assert "stored values" in hu_traps(hu + 1024)[0]
    assert "stored values" in hu_traps((np.clip(hu, -1000, 1000) + 1000) / 2000)[0]
    assert "no HU" in hu_traps(np.full_like(hu, -1000))[0]


def test_padding_round_the_field_of_view_is_no_mistake(opened: tuple[CtRate, Sample]) -> None:
    padded = opened[1].volume.array.copy()
    padded[:, :12] = -3024
    assert hu_traps(padded) == []


@pytest.mark.parametrize(
    ("axis", "words"), [(0, "from head to feet"), (1, "front and back"), (2, "left and right")]
)
def test_axes_that_run_the_wrong_way(opened: tuple[CtRate, Sample], axis: int, words: str) -> None:
    organs = opened[1].organs
    assert organs is not None
    found = direction_traps(np.flip(organs, axis))
    assert len(found) == 1
    assert words in found[0]


def test_spacing_that_no_ct_has(opened: tuple[CtRate, Sample]) -> None:
    dataset, sample = opened
    assert any("slices lie 40 mm apart" in w for w in traps(dataset, scaled(sample, (4, 1, 1))))
    assert any("mm wide" in w for w in traps(dataset, scaled(sample, (1, 1, 0.2))))


def test_labels_and_snippets_of_another_scan(opened: tuple[CtRate, Sample]) -> None:
    dataset, sample = opened
    bare = replace(sample, record=replace(sample.record, labels={}))
    assert "labels are empty" in traps(dataset, bare)[0]
    beyond = replace(sample, snippets=(SliceSnippet("Nodule.", 900, 900, 900),))
    assert "outside of the scan" in traps(dataset, beyond)[0]
