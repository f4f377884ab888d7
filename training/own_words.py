"""What a scan's own report says: a sentence per organ, and the report's sentences. Phantoms have none.

Phantoms are described by the dictionary's wordings, drawn anew in each step (`training.prompts`); a real
report stands as it was written. Not report mining: `training.mining` decides what a sentence is about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core_model.anatomy import organs
from training.text_bank import TextBank

SENTENCES = 24  # of a report that take part in one step; our choice
NOTHING, NORMAL = 0, 1  # codes of an organ's words: there are none; they say that nothing is wrong


@dataclass(frozen=True)
class OrganWords:
    """What a report says of one organ.

    Attributes
    ----------
    organ: its name.
    text: its sentences, joined.
    normal: they say that nothing is wrong with it, in whatever words.
    """

    organ: str
    text: str
    normal: bool


@dataclass(frozen=True)
class OwnWords:
    """What a report says of a scan.

    Attributes
    ----------
    organs: at most one entry of an organ.
    report: its sentences.
    """

    organs: tuple[OrganWords, ...] = ()
    report: tuple[str, ...] = ()


def meaning_of(words: OrganWords) -> int:
    """`NORMAL`, or a number that only the same text has; never `NOTHING`."""
    if words.normal:
        return NORMAL
    digest = hashlib.sha256(words.text.strip().lower().encode()).digest()
    return int.from_bytes(digest[:7], "big") + 2


def own_words_rows(
    words: Sequence[OwnWords], bank: TextBank, generators: Sequence[np.random.Generator], device: torch.device
) -> dict[str, torch.Tensor]:
    """The words of a batch as tensors of one row per scan.

    Returns
    -------
    "said": (B, O, width) embeddings of organs' words; "said_code": (B, O) int64 of `meaning_of`, `NOTHING`
    where the report does not speak of the organ. "own_report": (B, `SENTENCES`, width) embeddings, the first
    "own_report_length" (B,) int64 of them.
    """
    label = {o.name: o.label - 1 for o in organs()}
    said = torch.zeros(len(words), len(label), bank.width, device=device)
    code = torch.zeros(len(words), len(label), dtype=torch.int64, device=device)
    report = torch.zeros(len(words), SENTENCES, bank.width, device=device)
    length = torch.zeros(len(words), dtype=torch.int64, device=device)
    for b, (one, rng) in enumerate(zip(words, generators, strict=True)):
        if one.organs:
            index = [label[w.organ] for w in one.organs]
            said[b, index] = bank.read([w.text for w in one.organs]).to(said)
            code[b, index] = torch.tensor([meaning_of(w) for w in one.organs], device=device)
        if one.report:
            chosen = np.sort(rng.permutation(len(one.report))[:SENTENCES])
            report[b, : len(chosen)] = bank.read([one.report[i] for i in chosen]).to(report)
            length[b] = len(chosen)
    return {"said": said, "said_code": code, "own_report": report, "own_report_length": length}


__all__ = [
    "NORMAL",
    "NOTHING",
    "SENTENCES",
    "OrganWords",
    "OwnWords",
    "meaning_of",
    "own_words_rows",
]
