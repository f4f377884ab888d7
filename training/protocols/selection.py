"""Which records of a set a protocol counts: the published variants of CT-RATE's validation split, and a
development split of its train split.

Works on `Record`s alone; no volume is read. Counts are those of the whole set, so that a result on a part of
it can say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from training.datasets.sample import Record
from training.mining.text import sentences

# RadFinder holds out 1,301 of the 20,000 patients of CT-RATE's train split by a list (``ct_rate_splits.py``).
# The list is not at hand: the same share of patients, chosen for ever by hash. Our choice.
DEVELOPMENT_SHARE = 1301 / 20000
DEVELOPMENT_SALT = "sightline-development/1:"


@dataclass(frozen=True)
class Variant:
    """One way to count CT-RATE's validation split.

    Attributes
    ----------
    count: published number of items.
    rule: how duplicates are handled, for people.
    choose: all validation records -> those that count, in a fixed order.
    """

    count: int
    rule: str
    choose: Callable[[Sequence[Record]], list[Record]]


def by_name(records: Iterable[Record]) -> list[Record]:
    """Records in the order of their names: the order of the files, which "first" refers to."""
    return sorted(records, key=lambda r: r.name)


def study(record: Record) -> str:
    """The study of a volume ``split_patient_scan_reconstruction``."""
    return record.notes.get("study") or record.name.rsplit("_", 1)[0]


def first_of_study(records: Iterable[Record]) -> list[Record]:
    """One reconstruction per study, the first by name (RadFinder's ``first_all``)."""
    kept: dict[str, Record] = {}
    for record in by_name(records):
        kept.setdefault(study(record), record)
    return list(kept.values())


def of_chest(records: Iterable[Record]) -> list[Record]:
    """Those that the set's authors do not list as showing no chest."""
    return [r for r in records if "no_chest" not in r.notes]


def section(report: str, *names: str) -> str:
    """The sentences of some sections of a report; of all where it has no headings.

    Parameters
    ----------
    names: ``"findings"``, ``"impression"``.
    """
    every = sentences(report)
    if not any(s.section for s in every):
        return " ".join(s.text for s in every)
    return " ".join(s.text for s in every if s.section in names)


def distinct_findings(records: Iterable[Record]) -> list[Record]:
    """The first record of each text of findings."""
    kept: dict[str, Record] = {}
    for record in records:
        kept.setdefault(section(record.report, "findings"), record)
    return list(kept.values())


def is_development(patient: str, share: float = DEVELOPMENT_SHARE) -> bool:
    """Whether a patient of the train split is of the development split; for ever the same."""
    digest = hashlib.sha256(f"{DEVELOPMENT_SALT}{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def development(records: Iterable[Record], share: float = DEVELOPMENT_SHARE) -> list[Record]:
    """The first reconstruction of each study of the development patients of the train split.

    Raises
    ------
    ValueError: if the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share of development patients is {share:g}; above 0 and at most 1 is needed")
    return first_of_study(r for r in records if r.split == "train" and is_development(r.patient, share))


VARIANTS: Mapping[int, Variant] = MappingProxyType(
    {
        v.count: v
        for v in (
            Variant(3039, "every reconstruction is an item; those of a study share a report", by_name),
            Variant(
                3002,
                "every reconstruction is an item, without those listed as no chest",
                lambda records: by_name(of_chest(records)),
            ),
            Variant(1564, "the first reconstruction of each study by name (first_all)", first_of_study),
            Variant(
                1551,
                "the first reconstruction of each study by name that is not listed as no chest",
                lambda records: first_of_study(of_chest(records)),
            ),
            Variant(
                1493,
                "the first reconstruction of each study by name that is not listed as no chest, and of these "
                "the first of each text of findings (COLIPRI)",
                lambda records: distinct_findings(first_of_study(of_chest(records))),
            ),
        )
    }
)
