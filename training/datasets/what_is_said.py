"""What a sample's report, labels and outlines say, in the model's dictionary: findings, words by organ.

The one place where vocabularies of sets meet the abnormality dictionary. Silence stays unknown: a report
that does not speak of a thing neither affirms nor denies it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core_model.abnormality import abnormalities
from training.datasets.sample import OrganSentence, Sample
from training.mining.organ_sentences import MinedSentence, organ_sentences
from training.own_words import OrganWords, OwnWords

# A set's label -> the abnormality of the dictionary that means the same wherever it is. Labels of wider or
# other meaning (CT-RATE's "Lung opacity", "Lymphadenopathy") have none; our choice.
SAME_MEANING = {
    "Pericardial effusion": "pericardial_effusion",
    "Coronary artery wall calcification": "coronary_calcification",
    "Hiatal hernia": "hiatal_hernia",
    "Emphysema": "emphysema",
    "Lung nodule": "lung_nodule",
    "Pleural effusion": "pleural_effusion",
    "Consolidation": "lung_consolidation",
}
PRESENT, ABSENT, UNKNOWN = 1.0, 0.0, -1.0


@dataclass(frozen=True)
class Said:
    """What is known of a sample, without its voxels.

    Attributes
    ----------
    findings: of each abnormality of the dictionary, `PRESENT`, `ABSENT` or `UNKNOWN`.
    words: the report's own.
    """

    findings: tuple[float, ...]
    words: OwnWords


def what_is_said(sample: Sample) -> Said:
    """Findings and words of a sample.

    What is outlined outweighs the report, the report the labels (those of CT-RATE are a network's reading
    of it).
    """
    mined = _mined(sample)
    found = dict.fromkeys((a.name for a in abnormalities()), UNKNOWN)
    found |= _labelled(sample) | _stated(mined) | _outlined(sample)
    return Said(tuple(found.values()), OwnWords(_by_organ(mined), tuple(s.text for s in mined)))


def _labelled(sample: Sample) -> dict[str, float]:
    labels = sample.record.labels
    return {n: PRESENT if labels[label] else ABSENT for label, n in SAME_MEANING.items() if label in labels}


def _stated(mined: Sequence[MinedSentence]) -> dict[str, float]:
    found: dict[str, float] = {}
    statements = [s for sentence in mined for s in sentence.statements]
    for status, value in (("absent", ABSENT), ("uncertain", UNKNOWN), ("present", PRESENT)):
        found |= {s.abnormality: value for s in statements if s.status == status}
    return found


def _outlined(sample: Sample) -> dict[str, float]:
    if sample.tumours is None:
        return {}
    found = dict.fromkeys(sample.tumours_labelled, ABSENT)
    there = set(np.unique(sample.tumours).tolist())
    return found | {a.name: PRESENT for i, a in enumerate(abnormalities()) if i + 1 in there}


def _mined(sample: Sample) -> tuple[MinedSentence, ...]:
    """The sentences of a sample; where its set gives organs itself, only statements are mined."""
    given: Sequence[OrganSentence] = sample.record.sentences
    if not given:
        return organ_sentences(sample.record.report) if sample.record.report else ()
    found = []
    for one in given:
        parts = organ_sentences(one.text) or (MinedSentence(one.text, "", (), "none", ()),)
        statements = tuple(s for part in parts for s in part.statements)
        organs = one.organs or tuple(dict.fromkeys(o for part in parts for o in part.organs))
        found.append(MinedSentence(one.text, "findings", organs, "named", statements))
    return tuple(found)


def _by_organ(mined: Sequence[MinedSentence]) -> tuple[OrganWords, ...]:
    """Each organ's sentences as one text (CT-GLIP: the organ's description).

    They say that nothing is wrong if each either denies all that it names, or speaks of what is normal.
    """
    texts: dict[str, list[MinedSentence]] = {}
    for sentence in mined:
        for organ in sentence.organs:
            texts.setdefault(organ, []).append(sentence)
    return tuple(
        OrganWords(organ, " ".join(s.text for s in own), all(_is_normal(s) for s in own))
        for organ, own in texts.items()
    )


NORMAL_WORDS = ("normal", "unremarkable", "no significant abnormal", "without abnormal", "no abnormal")


def _is_normal(sentence: MinedSentence) -> bool:
    said = {s.status for s in (*sentence.statements, *sentence.labels)}
    if said:
        return said == {"absent"}
    lower = sentence.text.lower()
    return any(w in lower for w in NORMAL_WORDS) and "abnormal" not in lower.replace("no abnormal", "")


__all__ = ["ABSENT", "PRESENT", "UNKNOWN", "Said", "what_is_said"]
