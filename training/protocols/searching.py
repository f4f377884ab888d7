"""Retrieval protocols: reports to volumes on CT-RATE, Merlin's pools, volumes to volumes in three forms.

What is right and how it is counted is `retrieval`'s; here are items, texts and rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from training.bootstrap import LEVEL, Estimate
from training.datasets.files import NO_REPORT
from training.datasets.sample import Record, UnusableSampleError
from training.metrics import mean, ranks
from training.protocols.curves import Figures, Floats
from training.protocols.encoder import SECTIONS, Encoder, report_sentences
from training.protocols.outcome import Items, Measured, PublicProtocol, Row, Run
from training.protocols.pictures import recall
from training.protocols.published import CT_RATE_LABELS
from training.protocols.retrieval import (
    POOLS,
    RECALL_AT,
    REPEATS,
    as_accumulated,
    map_exact,
    map_overlap,
    map_shared,
    own_ranks,
    pool_recall,
)
from training.protocols.selection import Variant

Vectors = npt.NDArray[np.float32]
NO_TEXT = NO_REPORT


def report_vectors(records: Sequence[Record], encoder: Encoder, sections: Sequence[str]) -> Vectors:
    """(N, E) unit length vectors of reports; equal texts are embedded once."""
    known: dict[tuple[str, ...], Vectors] = {}
    rows = []
    for record in records:
        texts = tuple(report_sentences(record.report, sections))
        if texts not in known:
            known[texts] = encoder.report(texts)
        rows.append(known[texts])
    return np.stack(rows)


@dataclass(frozen=True, kw_only=True)
class ReportToVolume(PublicProtocol):
    """R@K among all volumes of a variant of CT-RATE."""

    variant: Variant
    dataset: str = "CT-RATE"

    def select(self, records: Sequence[Record]) -> list[Record]:
        """The variant's records of the validation split."""
        return self.variant.choose([r for r in records if r.split == "validation"])

    def check(self, record: Record) -> None:
        """A record needs findings or impression."""
        if not report_sentences(record.report):
            raise UnusableSampleError(NO_TEXT)

    def measure(self, run: Run) -> Measured:
        """Ranks of each report's own volume, of any volume with that report, and the other way round."""
        items = run.items()
        texts = report_vectors(items.records, run.encoder, SECTIONS)
        similarity = np.asarray(texts.astype(np.float64) @ items.volumes.astype(np.float64).T)
        _, groups = np.unique(
            [" ".join(report_sentences(r.report)) for r in items.records], return_inverse=True
        )
        groups = np.ravel(groups)
        found: dict[str, Floats] = {
            "report_to_volume": own_ranks(similarity).astype(np.float64),
            "report_to_any_volume_of_it": ranks(similarity, groups).astype(np.float64),
            "volume_to_report": ranks(similarity.T, groups).astype(np.float64),
        }
        said = {
            "report_to_volume": "report to volume",
            "report_to_any_volume_of_it": "report to any volume with the same report (not the protocol)",
            "volume_to_report": "volume to report (not the protocol)",
        }
        count = len(items.records)
        at = [k for k in RECALL_AT if k < count]

        def figures(weights: Floats) -> Figures:
            result: Figures = {}
            for name, rank in found.items():
                result |= {f"{name}/r{k}": mean(rank <= k, weights) for k in at}
                result[f"{name}/mean_rank"] = mean(rank, weights)
                result[f"{name}/median_rank"] = _weighted_median(rank, weights)
            return result

        rows = [
            *(Row(f"{label}: R@{k}", f"{name}/r{k}", "share") for name, label in said.items() for k in at),
            Row("report to volume: median rank", "report_to_volume/median_rank", "count"),
            Row("report to volume: mean rank", "report_to_volume/mean_rank", "count"),
        ]
        return Measured(
            figures=figures,
            patients=items.patients,
            rows=tuple(rows),
            facts={
                "direction": "report to volume",
                "text": "findings and impression, sentence by sentence, in the space of reports",
                "distinct reports": int(groups.max()) + 1,
                "duplicates": f"{self.variant.rule}; only the report's own volume is right, a volume of the "
                "same study or with the same report is wrong; ties count against",
                "in a draw": "a drawn patient's ranks stay those among all volumes",
            },
            pictures={"recall": partial(recall, ranks={said[k]: v for k, v in found.items()}, count=count)},
        )


def _weighted_median(values: Floats, weights: Floats) -> float | None:
    """The lowest value at which half of the weight is reached."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    if not len(total) or total[-1] <= 0:
        return None
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


@dataclass(frozen=True, kw_only=True)
class MerlinPools(PublicProtocol):
    """R@1 in pools of Merlin's test split, findings and impressions."""

    dataset: str = "Merlin"

    def select(self, records: Sequence[Record]) -> list[Record]:
        """The test split, in the order of the names."""
        return sorted((r for r in records if r.split == "test"), key=lambda r: r.name)

    def check(self, record: Record) -> None:
        """A record needs findings or an impression."""
        if not report_sentences(record.report):
            raise UnusableSampleError(NO_TEXT)

    def measure(self, run: Run) -> Measured:
        """Recall in pools for each section; the interval is over the repeats, as published."""
        items = run.items()
        settled: dict[str, Estimate] = {}
        counts: dict[str, int] = {}
        rows = []
        for section in SECTIONS:
            own = [i for i, r in enumerate(items.records) if report_sentences(r.report, [section])]
            counts[section] = len(own)
            if not own:
                continue
            texts = report_vectors([items.records[i] for i in own], run.encoder, [section])
            volumes = items.volumes[own]
            for pool in POOLS:
                for way, pair in {"": (texts, volumes), "_to_text": (volumes, texts)}.items():
                    found = pool_recall(pair[0], pair[1], pool)
                    if len(found):
                        settled[f"{section}{way}/pool{pool}/r1"] = _over_repeats(found)
                said = f"{section}, pool {pool}: R@1"
                rows.append(Row(f"text to volume, {said}", f"{section}/pool{pool}/r1", "share"))
        rows += [
            Row(f"volume to text, {s}, pool {p}: R@1 (not the protocol)", f"{s}_to_text/pool{p}/r1", "share")
            for s in SECTIONS
            for p in POOLS
        ]
        return Measured(
            figures=lambda weights: {},
            patients=items.patients,
            rows=tuple(rows),
            facts={
                "direction": "text to volume",
                "items with the section": counts,
                "pools": list(POOLS),
                "repeats": REPEATS,
                "interval": f"percentiles of the {REPEATS} repeats, as published; it says how much the pools "
                "matter, not how much the patients do",
                "duplicates": "none removed; only the text's own volume is right, ties count against; items "
                "that fill no pool are left out of a repeat (RadFinder; SPECTRE keeps a smaller last pool); "
                "items without the section are left out (RadFinder embeds a blank)",
            },
            pictures={},
            settled=settled,
        )


def _over_repeats(values: Floats) -> Estimate:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


@dataclass(frozen=True, kw_only=True)
class VolumeToVolume(PublicProtocol):
    """MAP@K between volumes of CT-RATE by one of three definitions.

    Attributes
    ----------
    definition: ``"spectre"``, ``"radfinder"`` or ``"ct-clip"``.
    """

    variant: Variant
    definition: str
    dataset: str = "CT-RATE"

    def select(self, records: Sequence[Record]) -> list[Record]:
        """The variant's records of the validation split."""
        return self.variant.choose([r for r in records if r.split == "validation"])

    def check(self, record: Record) -> None:
        """A record needs all 18 labels."""
        if any(x not in record.labels for x in CT_RATE_LABELS):
            raise UnusableSampleError("labels are missing")

    def measure(self, run: Run) -> Measured:
        """A value per query and K; queries that the definition does not ask are left out of the mean."""
        items = run.items()
        labels = np.array([[r.labels[x] for x in CT_RATE_LABELS] for r in items.records], dtype=bool)
        found, settled, rule = _MAPS[self.definition](items, labels)

        def figures(weights: Floats) -> Figures:
            return {name: mean(values, weights) for name, values in found.items()}

        return Measured(
            figures=figures,
            patients=items.patients,
            rows=tuple(Row(name.replace("/", ", ").replace("_", " "), name) for name in (*found, *settled)),
            facts={
                "labels": list(CT_RATE_LABELS),
                "abnormal items": int(labels.any(1).sum()),
                "relevance": rule,
                "duplicates": self.variant.rule,
                "in a draw": "a drawn patient's answers stay those among all volumes",
            },
            pictures={},
            settled=settled,
        )


Maps = tuple[dict[str, Floats], dict[str, Estimate], str]


def _spectre(items: Items, labels: npt.NDArray[np.bool_]) -> Maps:
    found = map_exact(items.volumes, labels)
    rule = (
        "right is who has exactly the same 18 labels, healthy ones included; the query itself is left out; "
        "average precision over min(K, number of right ones); queries without a right one are not asked"
    )
    return {f"map{k}": v for k, v in found.items()}, {}, rule


def _radfinder(items: Items, labels: npt.NDArray[np.bool_]) -> Maps:
    found = map_shared(items.volumes, labels)
    rule = (
        "right is who shares any label; only the abnormal ask and are found; the query itself is left out; "
        "average precision over K"
    )
    return {f"map{k}": v for k, v in found.items()}, {}, rule


def _ct_clip(items: Items, labels: npt.NDArray[np.bool_]) -> Maps:
    itself = map_overlap(items.volumes, labels)
    others = map_overlap(items.volumes, labels, itself=False)
    settled = {
        f"overlap{k}/as_the_script_accumulates": Estimate(v, None, None)
        for k, v in as_accumulated(itself).items()
        if not np.isnan(v)
    }
    found = {f"overlap{k}/query_among_candidates": v for k, v in itself.items()}
    found |= {f"overlap{k}/without_the_query (not the protocol)": v for k, v in others.items()}
    rule = (
        "mean over the first K of labels in common / labels of either; everybody asks, the abnormal are "
        "found, the query too, as in the script; the script also never empties its list between values of K"
    )
    return found, settled, rule


_MAPS = {"spectre": _spectre, "radfinder": _radfinder, "ct-clip": _ct_clip}
