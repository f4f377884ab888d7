"""Abnormality-text alignment: who gets which sentence, what counts as right, and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core_model.abnormality import abnormalities
from core_model.anatomy import organ, organs
from core_model.model import SightlineModel
from tests.tiny import tiny_model
from training.contrastive import alignment_loss, dictionary_truth, organ_sentences, same_meaning
from training.prompts import texts_for
from training.text_bank import TextBank

NAMES = [a.name for a in abnormalities()]
LIVER, SPLEEN, KIDNEYS = (organ(n).label - 1 for n in ("liver", "spleen", "kidneys"))


@pytest.fixture(scope="module")
def model() -> SightlineModel:
    return tiny_model()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two scans: liver tumour and cyst in the first; a normal liver, kidneys unknown, in the second."""
    findings = torch.zeros(2, len(NAMES))
    findings[0, NAMES.index("liver_tumour")] = findings[0, NAMES.index("liver_cyst")] = 1
    findings[1, NAMES.index("renal_cyst")] = -1
    in_view = torch.zeros(2, len(organs()), dtype=torch.bool)
    in_view[:, [LIVER, SPLEEN]] = True
    in_view[1, KIDNEYS] = True
    return findings, in_view


def test_sentences_say_what_is_known(model: SightlineModel) -> None:
    findings, in_view = batch()
    found = organ_sentences(model, TextBank.of(model), findings, in_view, np.random.default_rng(0))
    tumour, cyst = NAMES.index("liver_tumour"), NAMES.index("liver_cyst")
    rows = list(zip(found.sample.tolist(), found.meaning, strict=True))
    assert sorted(rows) == sorted(
        [(0, (SPLEEN, ())), (0, (LIVER, (tumour, cyst))), (1, (SPLEEN, ())), (1, (LIVER, ()))]
    ), "kidneys of which something is unknown get no sentence"
    row = found.meaning.index((LIVER, (tumour, cyst)))
    texts = [f"{a} {b}" for a in texts_for(abnormalities()[tumour]) for b in texts_for(abnormalities()[cyst])]
    assert float((model.text(texts) @ found.sentence[row]).max()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(found.sentence.norm(dim=1), torch.ones(4))
    expected = torch.tensor([[m == n for n in found.meaning] for m in found.meaning])
    assert torch.equal(same_meaning(found), expected)
    assert int(expected.sum()) == 6, "the two normal spleens mean the same"


def test_dictionary_texts_are_true_of_their_own_organ_only(model: SightlineModel) -> None:
    findings, in_view = batch()
    found = organ_sentences(model, TextBank.of(model), findings, in_view, np.random.default_rng(0))
    truth = dictionary_truth(found, findings)
    tumour = NAMES.index("liver_tumour")
    for (_, positive), own in zip(found.meaning, truth, strict=True):
        assert [i for i, t in enumerate(own.tolist()) if t == 1] == sorted(positive)
    assert truth[[m[0] == SPLEEN for m in found.meaning]].abs().sum() == 0
    findings[1, tumour] = -1
    truth = dictionary_truth(found, findings)
    assert int((truth == -1).sum()) == 1


def test_no_organ_in_view(model: SightlineModel) -> None:
    findings, in_view = batch()
    found = organ_sentences(model, TextBank.of(model), findings, in_view & False, np.random.default_rng(0))
    assert found.sentence.shape == (0, model.text.width)
    assert same_meaning(found).shape == (0, 0)


def loss_of(image: torch.Tensor, text: torch.Tensor, same: torch.Tensor, **changes: object) -> float:
    n = len(image)
    values: dict[str, object] = {
        "extra": torch.zeros(0, image.shape[1]),
        "extra_truth": torch.zeros(n, 0),
        "correct": True,
        **changes,
    }
    return float(alignment_loss(image, text, same, torch.tensor(10.0), **values))  # type: ignore[arg-type]


def test_without_correction_it_is_infonce() -> None:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 4), dim=1) for _ in range(2))
    logits = 10 * image @ text.T
    expected = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    everything = torch.ones(5, 5, dtype=torch.bool)
    assert loss_of(image, text, everything, correct=False) == pytest.approx(float(expected), rel=1e-5)
    assert loss_of(image, text, torch.eye(5, dtype=torch.bool)) == pytest.approx(float(expected), rel=1e-5)


def test_correction_does_not_push_apart_what_means_the_same() -> None:
    image = F.normalize(torch.tensor([[1.0, 0], [1, 0], [0, 1]]), dim=1)
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    corrected = loss_of(image, image, same)
    plain = loss_of(image, image, same, correct=False)
    assert plain - corrected > -1e-6
    image = image.clone().requires_grad_()
    alignment_loss(
        image,
        image.detach(),
        same,
        torch.tensor(10.0),
        extra=torch.zeros(0, 2),
        extra_truth=torch.zeros(3, 0),
        correct=True,
    ).backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert float(image.grad[:2].abs().sum()) < 0.01
    assert corrected == pytest.approx(math.log(2) * 2 / 3, abs=0.01), "two equal positives share the mass"


def test_extra_texts_are_told_apart_by_their_truth() -> None:
    image = text = torch.eye(3)[:2]
    same = torch.eye(2, dtype=torch.bool)
    near = F.normalize(torch.tensor([[1.0, 0, 0.5]]), dim=1)  # close to the first image
    losses = {
        truth: loss_of(image, text, same, extra=near, extra_truth=torch.tensor([[truth], [0.0]]))
        for truth in (0.0, -1.0)
    }
    none = loss_of(image, text, same)
    assert losses[0.0] > losses[-1.0], "a false text close by costs"
    assert losses[-1.0] == pytest.approx(none, abs=1e-2), "an unknown one does not"
    plain = loss_of(image, text, same, extra=near, extra_truth=torch.tensor([[1.0], [0.0]]), correct=False)
    assert plain == pytest.approx(none, abs=1e-2), "without correction a true one takes no part"


def test_abnormal_organs_weigh_half() -> None:
    torch.manual_seed(1)
    image, text = (F.normalize(torch.randn(4, 3), dim=1) for _ in range(2))
    extra = F.normalize(torch.randn(1, 3), dim=1)
    same = torch.eye(4, dtype=torch.bool)
    truth = torch.tensor([[1.0], [0], [0], [0]])

    def rows(keep: list[int]) -> float:
        logits = 10 * torch.cat([image @ text.T, image @ extra.T], 1)
        right = torch.cat([same, truth == 1], 1).float()
        to_text = -(right / right.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)
        to_image = -(10 * text @ image.T).log_softmax(1).diagonal()
        return float(((to_text + to_image) / 2)[keep].mean())

    found = loss_of(image, text, same, extra=extra, extra_truth=truth)
    assert found == pytest.approx((rows([0]) + rows([1, 2, 3])) / 2, rel=1e-5)
