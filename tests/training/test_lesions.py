"""Planted abnormalities: inside their hosts, as ordered, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core_model.abnormality import abnormalities, abnormality
from core_model.anatomy import structures
from tests.training.small_anatomy import SPACING_MM, small_anatomy
from training.phantoms.disorders import UNMASKED, Disorder, disorders
from training.phantoms.lesions import FIRST_DISORDERS, FIRST_KINDS, LesionKind, lesion_kinds, plant
from training.phantoms.tissues import AIR, DISC, FAT, MUSCLE, SEROUS_FLUID, Anatomy, tissue


def test_all_of_the_dictionary_can_be_planted() -> None:
    shapes = {d.abnormality for d in disorders()}
    assert {k.abnormality for k in lesion_kinds()} | shapes == {a.name for a in abnormalities()}
    assert set(UNMASKED) < shapes
    assert len(abnormalities()) >= 20
    assert len({a.organ for a in abnormalities()}) >= 9
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
    if kind.bulges != "no":
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
    assert bool((planting.tissues[mask] == SEROUS_FLUID).all())
    lobe = tissue(f"lung_lower_lobe_{lesion.side}")
    assert set(anatomy.tissues[mask].tolist()) == {lobe}
    lung = anatomy.tissues == lobe
    assert float(mask.nonzero()[:, 1].float().mean()) > float(lung.nonzero()[:, 1].float().mean())
    assert 0.02 < int(mask.sum()) / int(lung.sum()) < 0.5
    assert bool((anatomy.tissues != SEROUS_FLUID).all()), "the anatomy itself must not change"


def loose_anatomy() -> Anatomy:
    """The boxes in fat instead of muscle: organs have room to grow."""
    anatomy = small_anatomy()
    anatomy.tissues[anatomy.tissues == MUSCLE] = FAT
    return anatomy


@pytest.mark.parametrize("disorder", disorders(), ids=lambda d: d.abnormality)
def test_a_wanted_disorder_is_planted_in_its_organ(disorder: Disorder) -> None:
    name = disorder.abnormality
    anatomy = loose_anatomy()
    planting = plant(anatomy, np.random.default_rng(3), [(name, 60.0)])
    [lesion] = planting.planted
    assert (lesion.abnormality, lesion.organ) == (name, abnormality(name).organ)
    mask = planting.lesions == lesion.mask_value
    if name in UNMASKED:
        assert lesion.mask_value == 0
        assert not bool(planting.lesions.any())
    else:
        assert set(planting.lesions.unique().tolist()) == {0, 1}
        assert lesion.centre == pytest.approx(mask.nonzero().float().mean(0).tolist(), abs=1e-3)
    changed = planting.tissues != anatomy.tissues
    if name not in ("vertebral_fracture", "splenomegaly"):  # these change what is beside their mask
        assert not bool((changed & ~mask).any())


def test_what_replaces_what() -> None:
    def values(name: str, diameter_mm: float = 0.0) -> set[int]:
        anatomy = loose_anatomy()
        planting = plant(anatomy, np.random.default_rng(3), [(name, diameter_mm)])
        return set(planting.tissues[planting.tissues != anatomy.tissues].tolist())

    assert values("pneumothorax") == {AIR}
    assert values("pericardial_effusion") == {SEROUS_FLUID}
    assert values("hiatal_hernia") == {tissue("stomach")}
    assert values("aortic_aneurysm", 60.0) == {tissue("aorta")}
    assert values("splenomegaly") == {tissue("spleen")}
    assert values("vertebral_fracture") == {DISC}


def test_an_enlarged_spleen_is_much_larger() -> None:
    anatomy = loose_anatomy()
    grown = plant(anatomy, np.random.default_rng(3), [("splenomegaly", 0.0)]).tissues == tissue("spleen")
    small = anatomy.tissues == tissue("spleen")
    assert bool(grown[small].all())
    assert int(grown.sum()) > 1.6 * int(small.sum())


def test_an_aneurysm_has_the_diameter_that_was_asked_for() -> None:
    [lesion] = plant(loose_anatomy(), np.random.default_rng(3), [("aortic_aneurysm", 60.0)]).planted
    assert 30 < lesion.diameter_mm < 72


def test_what_was_added_later_leaves_the_first_lesions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [plant(small_anatomy(), np.random.default_rng(s)) for s in range(8)]
    first_shapes, first_kinds = disorders()[:FIRST_DISORDERS], lesion_kinds()[:FIRST_KINDS]
    monkeypatch.setattr("training.phantoms.lesions.disorders", lambda: first_shapes)
    monkeypatch.setattr("training.phantoms.lesions.lesion_kinds", lambda: first_kinds)
    for seed, planting in enumerate(whole):
        alone = plant(small_anatomy(), np.random.default_rng(seed))
        n = len(alone.planted)
        assert planting.planted[:n] == alone.planted
        own = alone.lesions > 0
        assert torch.equal(planting.lesions[own], alone.lesions[own])


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
