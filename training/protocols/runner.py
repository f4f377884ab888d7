"""Runs a protocol on a checkpoint and a set: selects, encodes, scores, draws intervals by patient.

Prints nothing and writes nothing but the store of what was encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from training.bootstrap import SEED, Estimate, bootstrap
from training.datasets.sample import DataSet, Record, UnusableSampleError
from training.datasets.tally import Tally
from training.protocols.curves import Figures, Floats
from training.protocols.encoder import Encoder
from training.protocols.grounded import GroundedFinding, groundings
from training.protocols.outcome import Items, Measured, Outcome, PublicProtocol, Row, Track
from training.protocols.selection import DEVELOPMENT_SHARE, development
from training.protocols.store import embeddings

DRAWS = 10_000  # RadFinder's
BY_ITEM = "by_item"
LEAST_PATIENTS = 2  # for an interval


def untracked(steps: Iterable[Any], _count: int, _what: str) -> Iterable[Any]:
    """Progress that is not shown."""
    return steps


@dataclass
class ProtocolRun:
    """What a protocol is given.

    Attributes
    ----------
    records: of the protocol, already limited.
    held_out: set of the development patients and their records; None where there are none.
    tally, development_tally: of what was used and skipped.
    """

    encoder: Encoder
    dataset: DataSet
    records: Sequence[Record]
    held_out: tuple[DataSet, Sequence[Record]] | None
    root: Path
    protocol: PublicProtocol
    track: Track = untracked
    tally: Tally = field(default_factory=Tally)
    development_tally: Tally = field(default_factory=Tally)

    def items(self) -> Items:
        """The selected records that can be used, encoded.

        Raises
        ------
        ValueError: if none can be.
        """
        return self._encoded(self.dataset, self.records, self.tally, "test items")

    def development(self) -> Items | None:
        """The development patients that can be used, encoded; None where there are none."""
        if self.held_out is None:
            return None
        return self._encoded(*self.held_out, self.development_tally, "development items")

    def grounded(self) -> list[tuple[Record, list[GroundedFinding]]]:
        """The selected records that can be used, with what was asked of them.

        Raises
        ------
        ValueError: if none can be.
        """
        store = groundings(self.encoder, self.root)
        records = self._checked(self.records, self.tally)
        steps = self.track(store.each(self.dataset, records, self.tally), len(records), "volumes")
        return _some(list(steps), self.tally)

    def _encoded(self, dataset: DataSet, records: Sequence[Record], tally: Tally, what: str) -> Items:
        fit = self._checked(records, tally)
        steps = self.track(embeddings(self.encoder, self.root).each(dataset, fit, tally), len(fit), what)
        encoded = _some(list(steps), tally)
        return Items(tuple(r for r, _ in encoded), tuple(e for _, e in encoded))

    def _checked(self, records: Sequence[Record], tally: Tally) -> list[Record]:
        fit = []
        for record in records:
            try:
                self.protocol.check(record)
            except UnusableSampleError as error:
                tally.skip(record.name, error)
                continue
            fit.append(record)
        return fit


def _some(made: list[Any], tally: Tally) -> list[Any]:
    if not made:
        raise ValueError(f"no item can be used: {tally.summary()}")
    return made


def run_protocol(
    protocol: PublicProtocol,
    encoder: Encoder,
    dataset: DataSet,
    root: Path,
    *,
    develop: DataSet | None = None,
    share: float = DEVELOPMENT_SHARE,
    limit: int | None = None,
    draws: int = DRAWS,
    track: Track = untracked,
) -> tuple[Outcome, Measured]:
    """Measure a checkpoint by a protocol.

    Parameters
    ----------
    root: folder of what was encoded; a later run goes on from it.
    develop: set with development patients; `dataset` unless given.
    share: of its train patients that are development patients.
    limit: use so many items at most, of the test and of the development patients.
    draws: of the bootstrap; 0 gives no intervals.

    Raises
    ------
    ValueError: if the set is not the protocol's, has none of its items, or none can be used.
    """
    if dataset.name != protocol.dataset:
        raise ValueError(f"{protocol.name} is for {protocol.dataset}, the folder holds {dataset.name}")
    selected = protocol.select(dataset.records())
    if not selected:
        raise ValueError(f"{dataset.name} in this folder has no item of {protocol.name}")
    records = selected if limit is None else selected[:limit]
    held_out = _held_out(protocol, develop or dataset, share, limit)
    run = ProtocolRun(encoder, dataset, records, held_out, root, protocol, track)
    measured = protocol.measure(run)
    deviations = _deviations(protocol, run, len(selected), share)
    facts = {
        "items": run.tally.used,
        "published items": protocol.published or "no one number",
        "patients": len(set(measured.patients)),
        **measured.facts,
        **_intervals(measured, draws),
    }
    left_out = Tally(skipped=list(dataset.problems()))
    outcome = Outcome(
        protocol=protocol.name,
        source=protocol.source,
        model=encoder.reader.identity,
        facts=facts,
        deviations=tuple(deviations),
        rows=_all_rows(measured, draws),
        details=measured.details,
        figures={**_drawn(measured, draws), **measured.settled},
        tally=run.tally,
        left_out=left_out,
    )
    return outcome, measured


def _held_out(
    protocol: PublicProtocol, dataset: DataSet, share: float, limit: int | None
) -> tuple[DataSet, Sequence[Record]] | None:
    if not protocol.develops or dataset.name != "CT-RATE":
        return None
    records = development(dataset.records(), share)
    return (dataset, records if limit is None else records[:limit]) if records else None


def _deviations(protocol: PublicProtocol, run: ProtocolRun, selected: int, share: float) -> list[str]:
    said: list[str] = []
    used, published = run.tally.used, protocol.published
    if len(run.records) < selected:
        said.append(f"limited to {len(run.records)} of {selected} items")
    if published and used != published:
        said.append(f"{used} items, published are {published}: not comparable with published figures")
    if run.tally.skipped:
        said.append(f"{len(run.tally.skipped)} items were skipped, see below")
    if protocol.develops and run.held_out is not None and share != DEVELOPMENT_SHARE:
        said.append(f"a share of {share:g} of the train patients are development patients, not 1301 of 20000")
    if protocol.develops and run.held_out is None:
        said.append("no development patients at hand: thresholds are those chosen on the test items alone")
    if run.development_tally.skipped:
        said.append(f"{len(run.development_tally.skipped)} development items were skipped")
    return said


def _intervals(measured: Measured, draws: int) -> dict[str, Any]:
    if "interval" in measured.facts or not draws:
        return {}
    what = f"percentile, 95 %, {draws} draws of patients, seed {SEED}"
    if measured.by_item:
        what += "; beside it that of draws of items, as published"
    return {"interval": what}


def _all_rows(measured: Measured, draws: int) -> tuple[Row, ...]:
    again = [
        replace(row, label=f"{row.label}, drawn by item", figure=f"{BY_ITEM}/{row.figure}")
        for row in measured.rows
        if row.figure in measured.by_item
    ]
    return (*measured.rows, *(again if draws else ()))


def _drawn(measured: Measured, draws: int) -> dict[str, Estimate]:
    names, index = np.unique(measured.patients, return_inverse=True)
    index = np.ravel(index)
    if len(names) < LEAST_PATIENTS:
        draws = 0  # every draw would be the same

    def by_patient(weights: Floats) -> Figures:
        return measured.figures(weights[index])

    found = bootstrap(by_patient, len(names), draws)
    if measured.by_item and draws:

        def by_item(weights: Floats) -> Figures:
            every = measured.figures(weights)
            return {f"{BY_ITEM}/{name}": every.get(name) for name in measured.by_item}

        found |= bootstrap(by_item, len(index), draws)
    return found
