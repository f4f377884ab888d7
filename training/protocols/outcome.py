"""What a protocol is and what comes out of it: figures with intervals, and everything they depend on.

A figure without its number of items, label set, mapping, prompts, duplicates rule and source of thresholds
cannot be compared with anything: all of them are part of an `Outcome`, in its JSON and its Markdown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from core_model.reading import ModelIdentity
from training.bootstrap import Estimate
from training.datasets.sample import Record
from training.datasets.tally import Tally
from training.protocols.curves import Figures, Floats
from training.protocols.encoder import Embedding, Encoder

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
UNITS = {"": (1.0, 3, ""), "share": (100.0, 1, " %"), "mm": (1.0, 1, " mm"), "count": (1.0, 0, "")}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    label: for people.
    figure: its name in `Outcome.figures`.
    unit: of `UNITS`.
    """

    label: str
    figure: str
    unit: str = ""


@dataclass(frozen=True)
class Items:
    """Records with what a checkpoint made of their volumes, in the same order."""

    records: tuple[Record, ...]
    embeddings: tuple[Embedding, ...]

    @property
    def volumes(self) -> npt.NDArray[np.float32]:
        """(N, E) unit length."""
        return np.stack([e.volume for e in self.embeddings])

    @property
    def organs(self) -> npt.NDArray[np.float32]:
        """(N, 36, E)."""
        return np.stack([e.organs for e in self.embeddings])

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each item."""
        return tuple(r.patient for r in self.records)


@dataclass(frozen=True)
class Measured:
    """A protocol's figures before intervals are drawn.

    Attributes
    ----------
    figures: (I,) weights of items -> every figure by name.
    patients: of each of the I items, in their order; draws are of patients.
    rows: of the table.
    facts: what the figures depend on, for people and JSON.
    pictures: file stem -> draws it.
    details: further rows, of the Markdown alone.
    settled: figures that bring their own interval, or none.
    by_item: names of figures whose published interval draws items, not patients.
    """

    figures: Callable[[Floats], Figures]
    patients: tuple[str, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    pictures: Mapping[str, Callable[[Axes], None]]
    details: tuple[Row, ...] = ()
    settled: Mapping[str, Estimate] = field(default_factory=dict)
    by_item: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PublicProtocol(ABC):
    """One evaluation with a name.

    Attributes
    ----------
    name: on the command line.
    title: one line.
    source: paper and code.
    published: number of items that published results have; 0 where there is no one number.
    dataset: name of the `DataSet` it is for.
    develops: whether it takes thresholds from development patients.
    mapping: of the labels of Rad-ChestCT, with which it is opened; "" for all other sets.
    """

    name: str
    title: str
    source: str
    published: int
    dataset: str
    develops: bool = False
    mapping: str = ""

    @abstractmethod
    def select(self, records: Sequence[Record]) -> list[Record]:
        """The items of a set, in a fixed order."""

    @abstractmethod
    def check(self, record: Record) -> None:
        """Raises `UnusableSampleError` where a record lacks what is asked of it."""

    @abstractmethod
    def measure(self, run: Run) -> Measured:
        """Encode and score."""


class Run(Protocol):
    """What a protocol is given."""

    @property
    def encoder(self) -> Encoder: ...

    def items(self) -> Items:
        """The selected records that can be used, encoded."""
        ...

    def development(self) -> Items | None:
        """The development patients that can be used, encoded; None where there are none."""
        ...

    def grounded(self) -> list[tuple[Record, Any]]:
        """The selected records that can be used, with `GroundedFinding`s."""
        ...


@dataclass(frozen=True)
class Outcome:
    """A protocol's result on one checkpoint.

    Attributes
    ----------
    protocol, source: name and where it is published.
    model: that was measured.
    facts: N, labels, mapping, prompts, duplicates, thresholds, intervals.
    deviations: why this run is not the published one; empty where it is.
    rows, details, figures: what was found.
    tally: what was used and skipped.
    left_out: what the set itself left out.
    """

    protocol: str
    source: str
    model: ModelIdentity
    facts: Mapping[str, Any]
    deviations: tuple[str, ...]
    rows: tuple[Row, ...]
    details: tuple[Row, ...]
    figures: Mapping[str, Estimate]
    tally: Tally
    left_out: Tally

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "protocol": self.protocol,
            "source": self.source,
            "model": vars(self.model),
            "facts": dict(self.facts),
            "deviations": list(self.deviations),
            "figures": {name: asdict(estimate) for name, estimate in self.figures.items()},
            "used": self.tally.used,
            "skipped": [asdict(problem) for problem in self.tally.skipped],
            "left_out_by_the_set": [asdict(problem) for problem in self.left_out.skipped],
        }

    def table(self, rows: Sequence[Row] | None = None) -> list[tuple[str, str]]:
        """(what, figure with interval) of rows, "-" where a figure is not defined; `rows` unless given."""
        return [
            (row.label, show(self.figures.get(row.figure), row.unit))
            for row in (self.rows if rows is None else rows)
        ]

    def markdown(self, pictures: Iterable[str]) -> str:
        """The result as Markdown; `pictures` are names of files beside it."""
        lines = [f"# {self.protocol}", "", f"{self.source}.", ""]
        lines += [f"Model {self.model.name} {self.model.version}, checkpoint {self.model.digest[:16]}.", ""]
        lines += [f"- **Not as published:** {said}" for said in self.deviations]
        lines += ["", "| measured | figure (95 % interval) |", "| --- | --- |"]
        lines += [f"| {label} | {value} |" for label, value in self.table()]
        if self.details:
            lines += ["", "| in detail | figure (95 % interval) |", "| --- | --- |"]
            lines += [f"| {label} | {value} |" for label, value in self.table(self.details)]
        lines += ["", "| depends on | |", "| --- | --- |"]
        lines += [f"| {key} | {_said(value)} |" for key, value in self.facts.items()]
        lines += ["", "```", self.tally.summary(), "```", ""]
        lines += [line for name in pictures for line in (f"![{name}]({name})", "")]
        return "\n".join(lines)


def show(estimate: Estimate | None, unit: str = "") -> str:
    """A figure with its interval; "-" where there is none.

    >>> show(Estimate(0.8712, 0.812, 0.92)), show(Estimate(0.315, None, None), "share")
    ('0.871 (0.812 to 0.920)', '31.5 %')
    """
    if estimate is None:
        return "-"
    factor, digits, mark = UNITS[unit]
    text = f"{factor * estimate.value:.{digits}f}{mark}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({factor * estimate.low:.{digits}f} to {factor * estimate.high:.{digits}f})"


def _said(value: Any) -> str:
    """A fact in one cell of a table."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_said(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_said(one) for one in value)
    return str(value).replace("|", "\\|").replace("\n", " ")
