"""Image encoder, text tower, grounding and the model that joins them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core_model.anatomy import organs
from core_model.grounding import OrganPooling, cell_logits, text_masks, top_logit
from core_model.image_encoder import ImageEncoder
from core_model.model import ModelConfig, SightlineModel
from core_model.text_encoder import MAX_TOKENS, without_references
from tests.tiny import tiny_config, tiny_model


@pytest.fixture(scope="module")
def model() -> SightlineModel:
    return tiny_model()


def test_encoder_shapes() -> None:
    encoder = ImageEncoder((8, 16, 24, 32), n_organs=5)
    with torch.no_grad():
        out = encoder(torch.zeros(2, 2, 16, 24, 32))
    assert out.fine.shape == (2, 8, 16, 24, 32)
    assert out.half.shape == (2, 16, 8, 12, 16)
    assert out.quarter.shape == (2, 24, 4, 6, 8)
    assert out.organ_logits.shape == (2, 6, 16, 24, 32)


def test_encoder_refuses_sides_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"\(16, 20, 32\).*multiple of 8"):
        ImageEncoder((8, 8, 8, 8), n_organs=2)(torch.zeros(1, 2, 16, 20, 32))


def test_encoder_needs_four_levels() -> None:
    with pytest.raises(ValueError, match="3 levels"):
        ImageEncoder((8, 8, 8), n_organs=2)


def test_model_shapes(model: SightlineModel) -> None:
    with torch.no_grad():
        out = model.encode_image(torch.zeros(1, 2, 16, 16, 24))
        text = model.encode_text(["Liver cyst.", "There is a kidney stone."])
    assert out.organ_logits.shape == (1, 1 + len(organs()), 16, 16, 24)
    assert out.dense.shape == (1, 8, 16, 16, 24)
    assert out.grid.shape == (1, 16, 8, 8, 12)
    half, quarter = out.coarse_organ_logits
    assert half.shape == (1, 1 + len(organs()), 8, 8, 12)
    assert quarter.shape == (1, 1 + len(organs()), 4, 4, 6)
    assert text.embedding.shape == (2, 16)
    assert text.mask_weight.shape == (2, 8)
    assert text.mask_bias.shape == (2,)
    torch.testing.assert_close(text.embedding.norm(dim=-1), torch.ones(2))


def test_half_resolution_decides_on_the_organ_too() -> None:
    changed = tiny_model()
    x = torch.randn(1, 2, 16, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = changed.encode_image(x).organ_logits
        assert changed.half_organ_head.bias is not None
        changed.half_organ_head.bias[3] += 2
        after = changed.encode_image(x).organ_logits
    torch.testing.assert_close(after[:, 3], before[:, 3] + 2)
    torch.testing.assert_close(after[:, 4], before[:, 4])


def test_a_kept_head_is_what_the_lesion_decoder_reads() -> None:
    drawn = tiny_model()
    config = replace(drawn.config, decoder_organs="kept")
    model = SightlineModel(config, drawn.text.tokenizer_json)
    head = drawn.half_organ_head.state_dict()
    kept = {f"kept_organ_head.{name}": value for name, value in head.items()}
    model.load_state_dict(drawn.state_dict() | kept)
    model.eval()
    x = torch.randn(1, 2, 16, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = drawn.encode_image(x)
        torch.testing.assert_close(model.encode_image(x).dense, before.dense, rtol=0, atol=0)
        for one in (drawn, model):
            one.half_organ_head.weight += torch.randn(one.half_organ_head.weight.shape)
        assert not torch.equal(drawn.encode_image(x).dense, before.dense)
        after = model.encode_image(x)
    torch.testing.assert_close(after.dense, before.dense, rtol=0, atol=0)
    assert not torch.equal(after.organ_logits, before.organ_logits)
    model.freeze(["lesions"])
    drawn.freeze(["lesions"])  # which has no such head
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="decoder_organs is 'none'; choose of drawn, kept"):
        replace(config, decoder_organs="none")


def test_config_survives_json() -> None:
    config = ModelConfig.from_dict(tiny_config())
    assert config.channels == (8, 8, 16, 16)
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_config_names_unknown_keys() -> None:
    with pytest.raises(ValueError, match="'colour'"):
        ModelConfig.from_dict({"colour": 1})


def test_more_evidence_raises_a_finding(model: SightlineModel) -> None:
    organ = torch.zeros(1, 1, 16)
    organ[..., 0] = 1
    present, absent = organ[0], -organ[0]
    with torch.no_grad():
        low = model.finding_logits(organ, present, absent, torch.tensor([[-5.0]]))
        high = model.finding_logits(organ, present, absent, torch.tensor([[5.0]]))
        against = model.finding_logits(organ, absent, present, torch.tensor([[5.0]]))
    assert high > low
    assert high > against


# --- text tower


def test_padding_does_not_change_an_embedding(model: SightlineModel) -> None:
    short = "Liver cyst."
    long = "Hypoattenuating lesion of the pancreas suspicious for adenocarcinoma, with many more words."
    alone = model.text([short])[0]
    beside = model.text([long, short])[1]
    torch.testing.assert_close(alone, beside, rtol=1e-5, atol=1e-6)
    assert float((model.text([long])[0] - alone).abs().max()) > 1e-3


def test_long_texts_are_cut(model: SightlineModel) -> None:
    long = "liver " * (3 * MAX_TOKENS)
    torch.testing.assert_close(model.text([long]), model.text([long + "pancreas"]))


@pytest.mark.parametrize("texts", [[], [""], ["  "], ["Liver cyst.", ""], ["(series 3, image 47)"]])
def test_blank_text_is_refused(model: SightlineModel, texts: list[str]) -> None:
    with pytest.raises(ValueError, match="text is empty"):
        model.text(texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cyst (series 3, image 47).", "Cyst."),
        ("Cyst (SER 3; IMG 47) in segment 7.", "Cyst in segment 7."),
        ("Cyst (se. 3 / im. 47), unchanged.", "Cyst, unchanged."),
        ("Nodule (3/47) and mass (4/12).", "Nodule and mass."),
        ("Cyst (series 3 image 47), nodule (image 12).", "Cyst, nodule."),
        ("Nodule of 3.5 mm (unchanged).", "Nodule of 3.5 mm (unchanged)."),
        ("Nodule (12 x 14 mm).", "Nodule (12 x 14 mm)."),
        ("Lesion (2024).", "Lesion (2024)."),
    ],
)
def test_image_references_are_taken_out(text: str, expected: str) -> None:
    assert without_references(text) == expected


@given(st.text(max_size=60))
def test_any_text_loses_its_references_once(text: str) -> None:
    once = without_references(text)
    assert once == once.strip()
    assert len(once) <= len(text)


def test_reference_does_not_change_an_embedding(model: SightlineModel) -> None:
    with_it = model.text(["Liver cyst (series 2, image 31)."])
    torch.testing.assert_close(with_it, model.text(["Liver cyst."]))


def test_text_tower_stays_frozen(model: SightlineModel) -> None:
    model.train()
    try:
        assert not model.text.bert.training
        assert not any(p.requires_grad for p in model.text.parameters())
        torch.testing.assert_close(model.text(["Liver cyst."]), model.text(["Liver cyst."]))
    finally:
        model.train(False)


# --- grounding


def test_organ_pooling_sees_only_its_mask() -> None:
    torch.manual_seed(0)
    pooling = OrganPooling(width=6, n_organs=2)
    grid = torch.randn(1, 6, 4, 4, 4)
    masks = torch.zeros(1, 2, 4, 4, 4)
    masks[0, 0, :2] = 1
    masks[0, 1, 3] = 0.5
    changed = grid.clone()
    changed[:, :, 2:] = torch.randn(1, 6, 2, 4, 4)
    with torch.no_grad():
        before, after = pooling(grid, masks), pooling(changed, masks)
    torch.testing.assert_close(before[0, 0], after[0, 0], atol=1e-4, rtol=1e-3)
    assert float((before[0, 1] - after[0, 1]).abs().max()) > 1e-2
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(1, 2))


def test_attention_does_not_leak_out_of_its_mask() -> None:
    """However high a cell outside scores: logarithms of tiny shares would let it in."""
    pooling = OrganPooling(width=6, n_organs=1, form="attention")
    grid = torch.randn(1, 6, 2, 2, 2)
    masks = torch.zeros(1, 1, 2, 2, 2)
    masks[0, 0, 0] = 1
    with torch.no_grad():
        before = pooling(grid, masks)
        grid[0, :, 1] = 1000 * pooling.queries[0][:, None, None]
        torch.testing.assert_close(pooling(grid, masks), before)


@pytest.mark.parametrize("form", ["mean", "attention"])
def test_organ_pooling_against_a_plain_sum(form: str) -> None:
    torch.manual_seed(2)
    pooling = OrganPooling(width=5, n_organs=3, form=form)
    grid, masks = torch.randn(2, 5, 2, 3, 4), torch.rand(2, 3, 2, 3, 4) + 0.01
    masks[0, 1, 0] = 0
    with torch.no_grad():
        weights = masks.flatten(2)  # (B, O, N)
        if form == "attention":
            scores = torch.einsum("oe,ben->bon", pooling.queries, grid.flatten(2)) + weights.log()
            weights = scores.softmax(-1)
        expected = torch.einsum("bon,ben->boe", weights / weights.sum(-1, keepdim=True), grid.flatten(2))
        if form == "attention":
            expected = pooling.project(expected)
        torch.testing.assert_close(pooling(grid, masks), F.normalize(expected, dim=-1))


def test_organ_pooling_without_a_mask_is_finite() -> None:
    out = OrganPooling(width=6, n_organs=2)(torch.randn(1, 6, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2))
    assert bool(out.isfinite().all())


def test_text_masks_against_a_plain_loop() -> None:
    torch.manual_seed(1)
    dense, weight, bias = torch.randn(2, 3, 2, 3, 4), torch.randn(5, 3), torch.randn(5)
    out = text_masks(dense, weight, bias)
    assert out.shape == (2, 5, 2, 3, 4)
    for b in range(2):
        for t in range(5):
            for z, y, x in ((0, 0, 0), (1, 2, 3), (0, 2, 1)):
                expected = sum(dense[b, c, z, y, x] * weight[t, c] for c in range(3)) + bias[t]
                torch.testing.assert_close(out[b, t, z, y, x], torch.as_tensor(expected))


def test_top_logit_is_the_logit_of_the_mean_of_the_largest() -> None:
    probabilities = torch.zeros(1, 1, 2, 2, 4)
    probabilities[0, 0, 0, 0] = torch.tensor([0.9, 0.7, 0.1, 0.1])
    probabilities[0, 0, 1] = 0.99  # outside
    region = torch.zeros(1, 1, 2, 2, 4, dtype=torch.bool)
    region[0, 0, 0] = True
    assert float(top_logit(probabilities, region, k=2)) == pytest.approx(
        float(torch.logit(torch.tensor(0.8)))
    )


def test_top_logit_of_an_empty_region_is_strongly_negative() -> None:
    out = top_logit(torch.ones(1, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2, dtype=torch.bool))
    assert bool((out < -9).all())


def test_cell_logits_are_scaled_cosines() -> None:
    torch.manual_seed(2)
    grid, text = torch.randn(1, 5, 2, 3, 4) * 7, F.normalize(torch.randn(1, 2, 5), dim=-1)
    out = cell_logits(grid, text, 10.0)
    assert out.shape == (1, 2, 2, 3, 4)
    expected = F.cosine_similarity(grid[0, :, 1, 2, 3], text[0, 1], dim=0)
    torch.testing.assert_close(out[0, 1, 1, 2, 3], expected * 10)
    assert float(out.abs().max()) <= 10 + 1e-4
    torch.testing.assert_close(cell_logits(grid * 3, text, 10.0), out)
