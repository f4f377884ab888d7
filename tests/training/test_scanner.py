"""Painted scans: HU by tissue and phase, truth untouched, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core_model.anatomy import organ
from tests.training.small_anatomy import SPACING_MM, small_anatomy
from training.phantoms.fields import eroded
from training.phantoms.lesions import plant
from training.phantoms.scanner import PHASES, bone_values, mean_hu, scan, vessel_values
from training.phantoms.tissues import (
    AIR,
    FACE,
    FAT,
    IGNORE,
    MUSCLE,
    SEROUS_FLUID,
    UNCERTAIN_BOWEL,
    Anatomy,
    Phantom,
    tissue,
)


def scanned(seed: int, phase: str | None, wanted: list[tuple[str, float]] | None = None) -> Phantom:
    planting = plant(small_anatomy(), np.random.default_rng([seed, 0]), wanted or [])
    return scan(planting, SPACING_MM, np.random.default_rng([seed, 1]), phase)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(4))
def test_mean_hu_is_that_of_a_ct(phase: str, seed: int) -> None:
    hu = mean_hu(np.random.default_rng(seed), phase, steatosis=False)
    i = PHASES.index(phase)
    ranges = {
        tissue("liver"): [(45, 70), (57, 98), (80, 135), (68, 114)][i],
        tissue("spleen"): [(38, 58), (70, 170), (90, 145), (74, 119)][i],
        tissue("aorta"): [(28, 55), (180, 440), (100, 200), (75, 135)][i],
        tissue("gallbladder"): (-10, 30),
        tissue("lung_upper_lobe_left"): (-920, -680),
        FAT: (-125, -80),
        MUSCLE: (30, 75),
        SEROUS_FLUID: (-10, 30),
    }
    for value, (low, high) in ranges.items():
        assert low <= float(hu[value]) <= high, value
    assert float(hu[AIR]) == -1000
    assert all(float(hu[v]) > 80 for v in bone_values())
    if phase == "arterial":
        assert float(hu[tissue("aorta")]) > float(hu[tissue("inferior_vena_cava")])


def test_bone_and_vessels_are_other_tissues() -> None:
    assert not set(bone_values()) & set(vessel_values())
    assert tissue("aorta") in vessel_values()
    assert tissue("vertebrae_L1") in bone_values()


def test_steatosis_darkens_the_liver_only() -> None:
    plain, fatty = (mean_hu(np.random.default_rng(3), "native", steatosis=s) for s in (False, True))
    assert 30 < float(plain[tissue("liver")] - fatty[tissue("liver")]) < 65
    assert float(fatty[tissue("gallbladder")]) < 30


def test_unknown_phase() -> None:
    with pytest.raises(ValueError, match="'delayed' is not one of"):
        mean_hu(np.random.default_rng(0), "delayed", steatosis=False)


@pytest.mark.parametrize("phase", PHASES)
def test_the_image_shows_the_tissues(phase: str) -> None:
    phantom = scanned(2, phase)
    tissues = small_anatomy().tissues
    assert phantom.phase == phase
    assert phantom.hu.dtype == torch.float32
    assert float(phantom.hu.min()) >= -1024
    assert float(phantom.hu.max()) <= 3071

    def median(value: int) -> float:
        return float(phantom.hu[eroded(tissues == value, 2)].median())

    assert float(phantom.hu[eroded(tissues == AIR, 3)].median()) < -950
    assert 30 < median(tissue("liver")) < 160
    assert median(tissue("lung_lower_lobe_left")) < -500
    assert median(tissue("vertebrae_L1")) > 90
    assert -10 < median(MUSCLE) < 100


def test_truth_is_the_reading_organ_of_each_tissue() -> None:
    phantom, tissues = scanned(0, "native"), small_anatomy().tissues
    kidneys = (tissues == tissue("kidney_left")) | (tissues == tissue("kidney_right"))
    assert torch.equal(phantom.organs == organ("kidneys").label, kidneys)
    assert torch.equal(phantom.organs == organ("liver").label, tissues == tissue("liver"))
    assert not bool(phantom.organs[tissues == FAT].any())
    assert phantom.spacing_mm == (SPACING_MM,) * 3


def test_uncertain_bowel_is_painted_but_not_judged() -> None:
    tissues = small_anatomy().tissues
    tissues[20:24, 40:44, 60:62] = UNCERTAIN_BOWEL
    tissues[24:28, 40:44, 60:62] = FACE
    planting = plant(Anatomy(tissues, SPACING_MM), np.random.default_rng(0), [])
    phantom = scan(planting, SPACING_MM, np.random.default_rng(0), "native")
    assert set(phantom.organs[tissues == UNCERTAIN_BOWEL].tolist()) == {IGNORE}
    assert set(phantom.organs[tissues == FACE].tolist()) == {organ("face").label}


@pytest.mark.parametrize("seed", range(3))
def test_liver_tumours_are_darker_than_the_liver(seed: int) -> None:
    phantom = scanned(seed, "portal venous", [("liver_tumour", 40.0)])
    lesion = eroded(phantom.lesions == 1, 2)
    liver = eroded((phantom.organs == organ("liver").label) & (phantom.lesions == 0), 2)
    assert float(phantom.hu[lesion].mean()) < float(phantom.hu[liver].median()) - 8


def test_stones_are_bright() -> None:
    phantom = scanned(1, "native", [("gallstones", 16.0), ("kidney_stone", 14.0)])
    gallbladder = (phantom.organs == organ("gallbladder").label) & (phantom.lesions == 0)
    assert float(phantom.hu[phantom.lesions == 1].mean()) > float(phantom.hu[gallbladder].mean()) + 40
    assert float(phantom.hu[phantom.lesions == 2].max()) > 150


def test_same_seed_same_scan() -> None:
    a, b, c = scanned(5, None), scanned(5, None), scanned(6, None)
    assert a.phase == b.phase
    assert torch.equal(a.hu, b.hu)
    assert not torch.equal(a.hu, c.hu)
