"""Training samples: shapes, truth, and a stream that a seed determines."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from tests.training.small_anatomy import SPACING_MM, small_anatomy
from training.phantoms.lesions import plant
from training.phantoms.reports import write_report
from training.phantoms.scanner import scan
from training.phantoms.tissues import Anatomy, Phantom
from training.samples import (
    MIN_ORGAN_VOXELS,
    Crop,
    PhantomCrops,
    Ticket,
    collate,
    crop,
    make_phantom,
    schedule,
)

WINDOW = (16, 24, 24)
NAMES = [a.name for a in abnormalities()]


def phantom_with(*wanted: tuple[str, float]) -> Phantom:
    planting = plant(small_anatomy(), np.random.default_rng(0), wanted)
    return scan(planting, SPACING_MM, np.random.default_rng(1), "portal venous")


def crops_of(phantom: Phantom, n: int, window: tuple[int, int, int] = WINDOW) -> list[Crop]:
    return [crop(phantom, np.random.default_rng(s), window, 8.0) for s in range(n)]


def stream(seed: int, crops: int = 3) -> PhantomCrops:
    return PhantomCrops([(small_anatomy, 1.0)], WINDOW, 8.0, seed=seed, crops=crops, pool=2)


def test_shapes_types_and_ranges() -> None:
    sample = make_phantom(small_anatomy, np.random.default_rng(0))
    s = crop(sample, np.random.default_rng(0), WINDOW, 8.0)
    assert (s.hu.shape, s.hu.dtype) == ((1, *WINDOW), torch.float32)
    assert (s.organs.shape, s.organs.dtype) == (WINDOW, torch.uint8)
    assert (s.lesions.shape, s.lesions.dtype) == (WINDOW, torch.uint8)
    assert s.findings.shape == (len(NAMES),)
    assert set(s.findings.tolist()) <= {-1.0, 0.0, 1.0}
    assert float(s.hu.min()) >= -1024
    assert float(s.hu.max()) <= 3071
    assert int(s.organs.max()) <= len(organs())


def test_findings_follow_the_masks() -> None:
    label = {o.name: o.label for o in organs()}
    phantom = phantom_with(("liver_tumour", 40.0), ("renal_cyst", 24.0), ("lung_nodule", 30.0))
    seen = set()
    for s in crops_of(phantom, 12):
        for i, entry in enumerate(abnormalities()):
            voxels = int((s.lesions == i + 1).sum())
            in_view = int((s.organs == label[entry.organ]).sum()) >= MIN_ORGAN_VOXELS
            expected = -1 if not in_view or 0 < voxels < 3 else float(voxels >= 3)
            assert s.findings[i] == expected, entry.name
            seen.add((entry.name, float(s.findings[i])))
    assert ("liver_tumour", 1.0) in seen
    assert ("liver_cyst", 0.0) in seen
    assert any(value == -1 for _, value in seen)


def test_diffuse_findings_need_no_mask() -> None:
    i = NAMES.index("hepatic_steatosis")
    phantom = phantom_with(("hepatic_steatosis", 0.0))
    values = {float(s.findings[i]) for s in crops_of(phantom, 8)}
    assert 1.0 in values
    assert 0.0 not in values
    assert not any(bool(s.lesions.any()) for s in crops_of(phantom, 2))


def test_lesions_lie_in_or_at_their_organ() -> None:
    phantom = phantom_with(("liver_tumour", 40.0))
    inside = total = 0
    for s in crops_of(phantom, 8):
        lesion = s.lesions == 1 + NAMES.index("liver_tumour")
        total += int(lesion.sum())
        inside += int((lesion & (s.organs == organ("liver").label)).sum())
    assert total > 50
    assert inside == total  # both are pulled by the same grid


def test_outside_of_the_phantom_there_is_air_and_nothing() -> None:
    wide = crops_of(phantom_with(), 3, window=(16, 80, 80))
    for s in wide:
        corner = s.organs[:, :4, :4]
        assert not bool(corner.any())
        assert float(s.hu[0, :, :4, :4].median()) < -850


def test_organs_are_where_the_image_shows_them() -> None:
    lung, liver = organ("lung").label, organ("liver").label
    s = crops_of(phantom_with(), 6)
    lungs = torch.cat([c.hu[0][c.organs == lung] for c in s])
    livers = torch.cat([c.hu[0][c.organs == liver] for c in s])
    assert len(lungs) > 100
    assert len(livers) > 100
    assert float(lungs.median()) < -400
    assert 20 < float(livers.median()) < 200


def test_a_phantom_without_lesions_or_body_is_cropped_too() -> None:
    empty = Anatomy(tissues=torch.zeros(20, 24, 24, dtype=torch.uint8), spacing_mm=8.0)
    phantom = scan(plant(empty, np.random.default_rng(0), []), 8.0, np.random.default_rng(0), "native")
    s = crop(phantom, np.random.default_rng(0), WINDOW, 8.0)
    assert set(s.findings.tolist()) == {-1.0}


def test_as_much_noise_as_asked_for() -> None:
    phantom = phantom_with(("liver_tumour", 40.0))

    def noisy(fine: float, coarse: float) -> list[Crop]:
        rngs = [np.random.default_rng(s) for s in range(8)]
        return [crop(phantom, rng, WINDOW, 8.0, noise_hu=(fine, coarse)) for rng in rngs]

    still = noisy(1.0, 0.0)
    for fine, coarse in ((31.0, 0.0), (1.0, 30.0)):
        added = [a.hu - b.hu for a, b in zip(noisy(fine, coarse), still, strict=True)]
        assert 5 < max(float(a.std()) for a in added) <= 31  # 8 draws of at most 30 HU
        assert all(torch.equal(a.organs, b.organs) for a, b in zip(noisy(fine, coarse), still, strict=True))


def same(a: Crop, b: Crop) -> bool:
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("hu", "organs", "lesions", "findings"))


def test_same_seed_same_stream() -> None:
    a, b, c = (list(islice(stream(seed), 5)) for seed in (1, 1, 2))
    assert all(same(x, y) for x, y in zip(a, b, strict=True))
    assert not any(same(x, y) for x, y in zip(a, c, strict=True))


def test_crops_of_one_phantom_differ() -> None:
    found = list(islice(stream(1), 5))
    assert not any(same(found[i], found[j]) for i in range(5) for j in range(i))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_goes_on_where_it_was_left(workers: int) -> None:
    """Batches n.. of a stream that starts at n are those of a stream that starts at 0."""

    def batches(start: int, n: int) -> list[Crop]:
        crops = PhantomCrops(
            [(small_anatomy, 1.0)], WINDOW, 8.0, seed=1, start=start, batch=2, crops=3, pool=2
        )
        loader = DataLoader(crops, batch_size=2, num_workers=workers, collate_fn=collate)
        return list(islice(loader, n))

    whole, later = batches(0, 6), batches(3, 3)
    assert all(same(x, y) for x, y in zip(whole[3:], later, strict=True))
    assert [s.snippets for s in whole[3:]] == [s.snippets for s in later]


@given(st.integers(0, 50), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_the_schedule_gives_every_crop_once(seed: int, streams: int, crops: int, pool: int) -> None:
    taken = list(islice(schedule(seed, streams - 1, streams, crops, pool), 60))
    assert len(set(taken)) == 60
    assert all(t.phantom % streams == streams - 1 and t.crop < crops for t in taken)
    for phantom in {t.phantom for t in taken}:  # in order: the phantom is dropped after its last
        numbers = [t.crop for t in taken if t.phantom == phantom]
        assert numbers == list(range(len(numbers)))
    unfinished = [p for p in {t.phantom for t in taken} if Ticket(p, crops - 1) not in taken]
    assert len(unfinished) <= pool


def test_snippets_name_the_slice_where_their_lesion_is_largest() -> None:
    phantom = phantom_with(("liver_tumour", 40.0), ("lung_nodule", 30.0))
    report = write_report(phantom, np.random.default_rng(0))
    seen = 0
    for s in range(6):
        c = crop(phantom, np.random.default_rng(s), WINDOW, 8.0, report.snippets)
        for found in c.snippets[0]:
            name = next(n.abnormality for n in report.snippets if n.text == found.text)
            area = (c.lesions == 1 + NAMES.index(name)).sum((1, 2))
            assert int(area[found.slice_index]) == int(area.max())
            seen += 1
    assert seen > 3


def test_shares_decide_on_the_source() -> None:
    drawn = []

    def named(name: str) -> object:
        def source(rng: np.random.Generator) -> Anatomy:
            drawn.append(name)
            return small_anatomy(rng)

        return source

    sources = [(named("a"), 1.0), (named("b"), 0.0)]
    list(islice(PhantomCrops(sources, WINDOW, 8.0, seed=0, crops=1), 4))  # type: ignore[arg-type]
    assert set(drawn) == {"a"}


def test_collate_adds_a_batch_axis() -> None:
    samples = list(islice(stream(1), 2))
    batch = collate(samples)
    assert batch.hu.shape == (2, 1, *WINDOW)
    assert batch.findings.shape == (2, len(NAMES))
    assert torch.equal(batch.organs[1], samples[1].organs)
    assert same(batch.to(torch.device("cpu")), batch)


@pytest.mark.parametrize("window", [(16, 24, 24), (8, 40, 32)])
def test_window_is_the_models(window: tuple[int, int, int]) -> None:
    assert crops_of(phantom_with(), 1, window)[0].hu.shape == (1, *window)
