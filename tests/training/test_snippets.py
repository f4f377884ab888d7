"""Snippet localization: the Gaussian target in mm and its loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from training.phantoms.reports import Snippet
from training.snippets import SIGMA_MM, CropSnippet, gaussian_target, snippet_losses, snippets_in


@given(st.floats(0, 200), st.integers(1, 40), st.floats(2, 12))
def test_target_is_a_gaussian_in_mm(position: float, n: int, slab_mm: float) -> None:
    target = gaussian_target(torch.tensor([position]), n, slab_mm)[0]
    assert float(target.sum()) == pytest.approx(1, abs=1e-4)
    centres = (torch.arange(n) + 0.5) * slab_mm
    assert (
        int(target.argmax())
        in (centres - position)
        .abs()
        .isclose((centres - position).abs().min(), atol=1e-3)
        .nonzero()
        .flatten()
        .tolist()
    )
    expected = torch.exp(-0.5 * ((centres - position) / SIGMA_MM) ** 2)
    torch.testing.assert_close(target, expected / expected.sum(), atol=1e-4, rtol=1e-3)


def test_loss_is_least_where_the_right_slab_agrees() -> None:
    slabs = torch.zeros(2, 20, 3)
    slabs[..., 2] = 1
    text = torch.tensor([[1.0, 0, 0]])
    losses = []
    for k in (10, 12, 18):
        there = slabs.clone()
        there[1, k] = text
        losses.append(float(snippet_losses(there, text, torch.tensor([1]), torch.tensor([126.0]), 12.0)))
    assert losses[0] < losses[1] < losses[2]
    other = slabs.clone()
    other[0, 18] = text  # another scan's slabs do not matter
    flat = float(snippet_losses(slabs, text, torch.tensor([1]), torch.tensor([126.0]), 12.0))
    assert float(snippet_losses(other, text, torch.tensor([1]), torch.tensor([126.0]), 12.0)) == flat


def test_gradient_descent_finds_the_place() -> None:
    torch.manual_seed(0)
    raw = torch.randn(1, 16, 8, requires_grad=True)
    text = F.normalize(torch.randn(1, 8), dim=1)
    optimiser = torch.optim.Adam([raw], lr=0.1)
    for _ in range(60):
        slabs = F.normalize(raw, dim=-1)
        loss = snippet_losses(slabs, text, torch.tensor([0]), torch.tensor([40.0]), 8.0).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    best = int((F.normalize(raw, dim=-1)[0] @ text[0]).argmax())
    assert abs((best + 0.5) * 8.0 - 40.0) <= 8.0


def test_no_snippet_costs_nothing() -> None:
    slabs = torch.randn(1, 4, 3, requires_grad=True)
    none = torch.zeros(0)
    loss = snippet_losses(slabs, torch.zeros(0, 3), none.long(), none, 8.0).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0


def test_snippets_of_lesions_outside_of_the_crop_are_left_out() -> None:
    lesions = torch.zeros(5, 4, 4, dtype=torch.int64)
    lesions[1, :2, :2] = lesions[2, :3, :3] = 7
    lesions[4, 0, 0] = 8
    snippets = [Snippet(f"lesion {v}", "liver", "liver_tumour", 1, v) for v in (7, 8, 9)]
    assert snippets_in(snippets, lesions, min_voxels=3) == (CropSnippet("lesion 7", 2),)
    assert snippets_in(snippets, lesions, min_voxels=1) == (
        CropSnippet("lesion 7", 2),
        CropSnippet("lesion 8", 4),
    )
