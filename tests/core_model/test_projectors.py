"""The selectable parts of the network: forms of organ pooling, and projectors of slabs and volumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core_model.checkpoint import load_checkpoint, save_checkpoint
from core_model.grounding import OrganPooling, Summary
from core_model.localization import Searchable
from core_model.model import ModelConfig
from core_model.question import Question
from core_model.ranking import localize
from core_model.reader import Reader
from tests.core_model.test_encoding import WIDTH, encoding_of
from tests.tiny import CARD, body_volume, tiny_model


def test_mean_pooling_is_the_mean_and_has_no_parameters() -> None:
    torch.manual_seed(0)
    pooling = OrganPooling(width=5, n_organs=1, form="mean")
    grid, mask = torch.randn(1, 5, 2, 3, 4), (torch.rand(1, 1, 2, 3, 4) < 0.5).float()
    expected = F.normalize(grid[0][:, mask[0, 0] > 0].mean(1), dim=0)
    torch.testing.assert_close(pooling(grid, mask)[0, 0], expected)
    assert list(pooling.parameters()) == []


def test_attention_pooling_looks_where_its_query_points_inside_the_mask() -> None:
    pooling = OrganPooling(width=4, n_organs=1, form="attention")
    grid = torch.zeros(1, 4, 1, 1, 3)
    grid[0, 0] = torch.tensor([1.0, 0.0, 1.0])  # the third cell is not in the mask
    grid[0, 1, 0, 0, 0], grid[0, 2, 0, 0, 1], grid[0, 3, 0, 0, 2] = 1.0, 1.0, 1.0
    mask = torch.tensor([1.0, 1.0, 0.0]).reshape(1, 1, 1, 1, 3)
    with torch.no_grad():
        pooling.queries.copy_(torch.tensor([[50.0, 0, 0, 0]]))
        pooling.project.weight.copy_(torch.eye(4))
        pooling.project.bias.zero_()
        out = pooling(grid, mask)[0, 0]
    torch.testing.assert_close(out, F.normalize(torch.tensor([1.0, 1.0, 0.0, 0.0]), dim=0), atol=1e-3, rtol=0)


def test_a_summary_sees_only_what_is_inside() -> None:
    torch.manual_seed(0)
    summary = Summary(6)
    cells, inside = torch.randn(2, 9, 6), torch.rand(2, 9) < 0.6
    changed = torch.where(inside[..., None], cells, torch.randn(2, 9, 6))
    with torch.no_grad():
        before, after = summary(cells, inside), summary(changed, inside)
        other = summary(cells + 0.1 * torch.randn(2, 9, 6), inside)
        empty = summary(cells, torch.zeros(2, 9, dtype=torch.bool))
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before, other)
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(2))
    assert bool(empty.isfinite().all())


def test_slabs_are_summarised_one_by_one() -> None:
    model = tiny_model(spacing_mm=6.0, projectors="separate")
    grid, inside = torch.randn(2, 16, 3, 4, 5), torch.rand(2, 3, 4, 5) < 0.8
    with torch.no_grad():
        found = model.summarise(grid, inside)
        alone = model.slab_summary(grid[1, :, 2].flatten(1).T[None], inside[1, 2].flatten()[None])
    assert found.volume.shape == (2, 16)
    assert found.slabs.shape == (2, 3, 16)
    torch.testing.assert_close(found.slabs[1, 2], alone[0])


def test_shared_projectors_make_means_of_unit_cells() -> None:
    model = tiny_model()
    grid, inside = torch.randn(1, 16, 3, 4, 5), torch.rand(1, 3, 4, 5) < 0.8
    found = model.summarise(grid, inside)
    unit = F.normalize(grid[0], dim=0)
    torch.testing.assert_close(
        found.slabs[0, 1], F.normalize(unit[:, 1][:, inside[0, 1]].sum(1), dim=0), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        found.volume[0], F.normalize(unit[:, inside[0]].sum(1), dim=0), atol=1e-6, rtol=1e-5
    )
    text = model.encode_text(["Liver cyst."])
    assert torch.equal(text.report, text.embedding)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"projectors": "none"}, "projectors is 'none'"),
        ({"projectors": "separate", "spacing_mm": 6.5}, "at most 12 mm"),
    ],
)
def test_config_refuses_what_it_does_not_know(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(values)


def test_a_checkpoint_without_the_new_keys_keeps_its_structure(tmp_path: Path) -> None:
    """What training wrote before pooling and projectors could be chosen."""
    save_checkpoint(tiny_model(), CARD, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    loaded = load_checkpoint(tmp_path).model
    del written["pooling"], written["projectors"]
    assert ModelConfig.from_dict(written) == loaded.config
    assert loaded.organ_pooling.form == "both"
    assert not loaded.separate
    assert not [k for k in loaded.state_dict() if "summary" in k or "report" in k]


def test_separate_projectors_through_checkpoint_and_reader(tmp_path: Path) -> None:
    model = tiny_model(spacing_mm=6.0, projectors="separate", pooling="attention")
    save_checkpoint(model, CARD, tmp_path)
    reader = Reader.load(tmp_path, "cpu")
    encoding = reader.read(body_volume()).encoding
    lengths = np.linalg.norm(encoding.slab_features, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-4)
    for text in ("Liver cyst.", "The weather."):
        found = reader.localize(encoding, text)
        expected = encoding.slab_features @ reader.question(text).embedding
        np.testing.assert_allclose(found.slab_scores, expected, atol=1e-5)
        index = encoding.grid.map_reference_to_indices(np.array([found.position_lps_mm]))[0]
        assert found.score == pytest.approx(float(found.slab_scores[int(index[0].round())]))
    report = reader.embed_report(["Liver cyst.", "No renal mass."])
    assert np.linalg.norm(report) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(reader.embed_report(["Liver cyst."]), reader.embed("Liver cyst."))


def test_slabs_decide_on_the_axial_position() -> None:
    encoding = encoding_of((9, 10, 11))
    query = np.zeros(WIDTH, dtype=np.float32)
    query[2] = 1
    cells = encoding.grid_features.copy()
    cells[2, 3, 4] = query  # the cells alone would go here
    slabs = np.zeros((9, WIDTH), dtype=np.float32)
    slabs[:, 2] = [0, 0, 0, 0, 0, 0, 0.8, 0, 0]
    found = localize(
        Searchable(replace(encoding, grid_features=cells, slab_features=slabs)),
        Question("x", query),
        by_slab=True,
    )
    assert found.position_lps_mm[2] == pytest.approx(-100 + 6 * 8, abs=0.1)
    assert found.score == pytest.approx(0.8)
    slabs[7, 2] = 0.75  # a neighbour nearly as good draws the position towards itself
    found = localize(Searchable(replace(encoding, slab_features=slabs)), Question("x", query), by_slab=True)
    assert -100 + 6 * 8 + 2 < found.position_lps_mm[2] < -100 + 6.5 * 8
