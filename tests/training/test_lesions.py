"""Planted abnormalities: inside their hosts, as ordered, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core_model.abnormality import abnormalities, abnormality
from core_model.anatomy import structures
from tests.training.small_anatomy import SPACING_MM, small_anatomy
from training.phantoms.lesions import LesionKind, lesion_kinds, plant
from training.phantoms.tissues import PLEURAL_FLUID, Anatomy, tissue

DIFFUSE = ("hepatic_steatosis", "pleural_effusion")
BULGING = ("renal_tumour", "renal_cyst", "colon_tumour", "pancreatic_tumour")


def test_all_of_the_dictionary_can_be_planted() -> None:
    assert {k.abnormality for k in lesion_kinds()} | set(DIFFUSE) == {a.name for a in abnormalities()}
    names = {s.name: s.reading_organ for s in structures()}
    for kind in lesion_kinds():
        assert kind.organ == abnormality(kind.abnormality).organ
        assert {names[h] for h in kind.hosts} == {kind.organ}


@pytest.mark.parametrize("kind", lesion_kinds(), ids=lambda k: k.abnormality)
def test_a_wanted_lesion_lies_in_its_host(kind: LesionKind) -> None:
    name = kind.abnormality
    diameter_mm = 14.0
    anatomy = small_anatomy()
    planting = plant(anatomy, np.random.default_rng(4), [(name, diameter_mm)])
    [lesion] = planting.planted
    assert (lesion.abnormality, lesion.organ) == (name, abnormality(name).organ)
    assert lesion.mask_value == 1
    mask = planting.lesions == 1
    hosts = [tissue(h) for h in kind.hosts]
    inside = torch.isin(anatomy.tissues, torch.tensor(hosts, dtype=torch.uint8))
    if name in BULGING:
        assert bool((mask & inside).any())
    else:
        assert not bool((mask & ~inside).any())
    volume_mm3 = int(mask.sum()) * SPACING_MM**3
    assert lesion.diameter_mm == pytest.approx((6 * volume_mm3 / np.pi) ** (1 / 3), rel=1e-4)
    assert lesion.diameter_mm < 1.5 * diameter_mm
    assert lesion.centre == pytest.approx(mask.nonzero().float().mean(0).tolist(), abs=1e-3)
    assert set(planting.lesions.flatten().tolist()) == {0, 1}


@pytest.mark.parametrize("seed", range(6))
def test_side_is_the_patients(seed: int) -> None:
    planting = plant(small_anatomy(), np.random.default_rng(seed), [("renal_tumour", 20.0)])
    [lesion] = planting.planted
    assert lesion.side == ("left" if lesion.centre[2] > 35 else "right")


def test_wanted_lesions_do_not_overlap() -> None:
    wanted = [("liver_tumour", 30.0), ("liver_tumour", 20.0), ("liver_cyst", 12.0), ("lung_nodule", 10.0)]
    planting = plant(small_anatomy(), np.random.default_rng(0), wanted)
    assert [p.abnormality for p in planting.planted] == [n for n, _ in wanted]
    assert [p.mask_value for p in planting.planted] == [1, 2, 3, 4]
    for p in planting.planted:
        size = int((planting.lesions == p.mask_value).sum()) * SPACING_MM**3
        assert p.diameter_mm == pytest.approx((6 * size / np.pi) ** (1 / 3), rel=1e-4)


def test_effusion_replaces_dependent_lung() -> None:
    anatomy = small_anatomy()
    planting = plant(anatomy, np.random.default_rng(1), [("pleural_effusion", 0.0)])
    [lesion] = planting.planted
    mask = planting.lesions == lesion.mask_value
    assert bool((planting.tissues[mask] == PLEURAL_FLUID).all())
    lobe = tissue(f"lung_lower_lobe_{lesion.side}")
    assert set(anatomy.tissues[mask].tolist()) == {lobe}
    lung = anatomy.tissues == lobe
    assert float(mask.nonzero()[:, 1].float().mean()) > float(lung.nonzero()[:, 1].float().mean())
    assert 0.02 < int(mask.sum()) / int(lung.sum()) < 0.5
    assert bool((anatomy.tissues != PLEURAL_FLUID).all()), "the anatomy itself must not change"


def test_steatosis_has_no_mask() -> None:
    planting = plant(small_anatomy(), np.random.default_rng(1), [("hepatic_steatosis", 0.0)])
    assert planting.planted[0].mask_value == 0
    assert not bool(planting.lesions.any())


def test_same_seed_same_lesions() -> None:
    a, b = (plant(small_anatomy(), np.random.default_rng(7)) for _ in range(2))
    assert a.planted == b.planted
    assert torch.equal(a.lesions, b.lesions)


def test_drawn_lesions_vary_and_are_known() -> None:
    drawn = [plant(small_anatomy(), np.random.default_rng(s)).planted for s in range(25)]
    names = {p.abnormality for planted in drawn for p in planted}
    assert len(names) >= 9
    assert names <= {a.name for a in abnormalities()}
    assert len({len(planted) for planted in drawn}) > 2


def test_unknown_lesion() -> None:
    with pytest.raises(ValueError, match=r"'wart' cannot be planted; choose of .*liver_cyst"):
        plant(small_anatomy(), np.random.default_rng(0), [("wart", 10.0)])


@pytest.mark.parametrize("name", ["liver_tumour", "hepatic_steatosis", "pleural_effusion"])
def test_missing_organ(name: str) -> None:
    empty = Anatomy(tissues=torch.zeros(12, 12, 12, dtype=torch.uint8), spacing_mm=4.0)
    with pytest.raises(ValueError, match=f"'{name}'.*not in this anatomy"):
        plant(empty, np.random.default_rng(0), [(name, 10.0)])


def test_missing_organs_get_nothing_when_drawn() -> None:
    empty = Anatomy(tissues=torch.zeros(12, 12, 12, dtype=torch.uint8), spacing_mm=4.0)
    assert plant(empty, np.random.default_rng(0)).planted == ()
