"""Abnormality-text alignment (CT-GLIP): an organ's embedding against sentences about organs.

An organ's sentence is made of positive wordings for what it has, or is a normal sentence; the
abnormality dictionary supplies further texts. False negatives are corrected as in fVLM and
RADAR. Not organ-text alignment (`training.losses.organ_text_loss`), which only names organs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.model import SightlineModel
from training.own_words import NORMAL, NOTHING
from training.prompts import texts_for
from training.text_bank import TextBank

MASKED = -1e4  # a logit that takes no part


@dataclass(frozen=True)
class OrganSentences:
    """The organs of a batch whose state is known, each with its sentence.

    Attributes
    ----------
    sample, organ: (N,) int64, scan and organ index (from 0) of each.
    sentence: (N, width) embedding of the text tower.
    meaning: what each sentence says: organ index and the abnormalities it affirms; of a report's own words
        the number that `training.own_words.meaning_of` gives them.
    """

    sample: torch.Tensor
    organ: torch.Tensor
    sentence: torch.Tensor
    meaning: tuple[tuple[int, tuple[int, ...] | int], ...]


def abnormalities_of() -> dict[int, list[int]]:
    """Organ index -> indices of its abnormalities in the dictionary; organs without one are missing."""
    found: dict[int, list[int]] = {}
    for i, entry in enumerate(abnormalities()):
        found.setdefault(organ(entry.organ).label - 1, []).append(i)
    return found


def organ_sentences(
    model: SightlineModel,
    bank: TextBank,
    findings: torch.Tensor,
    in_view: torch.Tensor,
    rng: np.random.Generator,
    *,
    said: torch.Tensor | None = None,
    said_code: torch.Tensor | None = None,
) -> OrganSentences:
    """One sentence for every organ in view: the report's own, else a wording of what is known of it.

    Parameters
    ----------
    findings: (B, A) 1 present, 0 absent, -1 unknown. An organ of which nothing is known to be
        present and something is unknown gets no sentence.
    in_view: (B, O) bool.
    said, said_code: of `training.own_words.own_words_rows`; None where no scan has words of its own.
    """
    truth, of = findings.cpu(), abnormalities_of()
    codes = None if said_code is None else said_code.cpu()
    rows: list[tuple[int, int]] = []
    meaning: list[tuple[int, tuple[int, ...] | int]] = []
    sentences: list[torch.Tensor | None] = []
    joined: list[str] = []
    for b, o in in_view.nonzero().cpu().tolist():
        code = NOTHING if codes is None else int(codes[b, o])
        if said is not None and code != NOTHING:
            rows.append((b, o))
            meaning.append((o, () if code == NORMAL else code))
            sentences.append(said[b, o])
            continue
        known = {i: float(truth[b, i]) for i in of.get(o, [])}
        positive = tuple(i for i, value in known.items() if value == 1)
        if not positive and -1 in known.values():
            continue
        if positive:
            choice = [int(rng.integers(len(bank.present[i]))) for i in positive]
        else:
            choice = [int(rng.integers(len(bank.normal[o])))]
        rows.append((b, o))
        meaning.append((o, positive))
        if len(positive) > 1:  # several wordings are one text, which the tower must read as one
            texts = (texts_for(abnormalities()[i])[k] for i, k in zip(positive, choice, strict=True))
            joined.append(" ".join(texts))
            sentences.append(None)
        else:
            sentences.append(bank.present[positive[0]][choice[0]] if positive else bank.normal[o][choice[0]])
    read = iter(model.text(joined)) if joined else iter(())
    device = findings.device
    stacked = [next(read) if s is None else s for s in sentences]
    index = torch.tensor(rows, dtype=torch.int64, device=device).reshape(-1, 2)
    empty = torch.zeros(0, model.text.width, device=device)
    return OrganSentences(
        index[:, 0], index[:, 1], torch.stack(stacked) if stacked else empty, tuple(meaning)
    )


def same_meaning(sentences: OrganSentences) -> torch.Tensor:
    """(N, N) bool: pairs that say the same of the same organ.

    Identical texts of one organ do, and so do two normal sentences of it, whatever their words;
    that other wordings of the same abnormalities count as well is our choice.
    """
    numbers: dict[tuple[int, tuple[int, ...] | int], int] = {}
    code = torch.tensor([numbers.setdefault(m, len(numbers)) for m in sentences.meaning], dtype=torch.int64)
    code = code.to(sentences.sample.device)
    return code[:, None] == code[None]


def dictionary_truth(sentences: OrganSentences, findings: torch.Tensor) -> torch.Tensor:
    """(N, A): whether each abnormality's text is true of each organ; -1 where that is not known.

    The text of another organ's abnormality is never true of an organ.
    """
    label = torch.tensor([organ(a.organ).label - 1 for a in abnormalities()], device=findings.device)
    own = sentences.organ[:, None] == label[None]  # (N, A)
    return torch.where(own, findings[sentences.sample], 0.0)


def alignment_loss(
    image: torch.Tensor,
    text: torch.Tensor,
    same: torch.Tensor,
    scale: torch.Tensor,
    *,
    extra: torch.Tensor,
    extra_truth: torch.Tensor,
    correct: bool,
) -> torch.Tensor:
    """InfoNCE in both directions, with soft targets where several texts are right.

    Parameters
    ----------
    image, text: (N, E) unit length; row i belongs to row i.
    same: (N, N) bool, pairs that mean the same; the diagonal is true.
    extra: (K, E) unit length, further texts; images must tell them from their own.
    extra_truth: (N, K) 1 true, 0 false, -1 unknown.
    correct: `same` pairs and true extra texts are positives, all alike (fVLM, RADAR). Without,
        only the diagonal is (plain InfoNCE), and true extra texts take no part.

    Returns
    -------
    Mean over normal organs and over others, half each: normal ones are many (our choice). Which
    are which is read off `extra_truth`; without extra texts all rows count alike.
    """
    if len(image) == 0:
        return image.sum() * 0
    positive = same if correct else torch.eye(len(image), dtype=torch.bool, device=image.device)
    paired = (image @ text.T).float() * scale  # (N, N)
    further = (image @ extra.T).float() * scale  # (N, K)
    unused = extra_truth < 0 if correct else extra_truth != 0
    further = further.masked_fill(unused, MASKED)
    right = torch.cat([positive, (extra_truth == 1) & correct], 1)
    to_text = _soft_cross_entropy(torch.cat([paired, further], 1), right)
    to_image = _soft_cross_entropy(paired.T, positive.T)
    loss = (to_text + to_image) / 2  # (N,)
    abnormal = (extra_truth == 1).any(1)
    groups = [loss[g].mean() for g in (abnormal, ~abnormal) if bool(g.any())]
    return torch.stack(groups).mean()


def _soft_cross_entropy(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    target = right.float() / right.sum(1, keepdim=True)
    return -(target * logits.log_softmax(1)).sum(1)


def abnormality_text_loss(
    model: SightlineModel,
    sentences: OrganSentences,
    pooled: torch.Tensor,
    findings: torch.Tensor,
    dictionary: torch.Tensor,
    *,
    correct: bool,
) -> torch.Tensor:
    """CT-GLIP's abnormality-text alignment of one batch.

    Parameters
    ----------
    pooled: (B, O, E) organ embeddings.
    dictionary: (A, E) one text per abnormality, or (0, E) to do without.
    correct: see `alignment_loss`.
    """
    truth = dictionary_truth(sentences, findings)
    return alignment_loss(
        pooled[sentences.sample, sentences.organ],
        model.project_text(sentences.sentence).embedding if len(sentences.sample) else pooled[0, :0],
        same_meaning(sentences),
        model.organ_scale,
        extra=dictionary,
        extra_truth=truth[:, : len(dictionary)],
        correct=correct,
    )


__all__ = [
    "OrganSentences",
    "abnormality_text_loss",
    "alignment_loss",
    "dictionary_truth",
    "organ_sentences",
    "same_meaning",
]
