"""Bad samples named, counted and skipped: a run of a week does not end at one corrupt file.

Not a log: at the end it says how many were skipped and why, in a few lines, with the first names of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from training.datasets.sample import DataSet, Problem, Record, Sample, UnusableSampleError

SHOWN = 3  # names of each kind of fault in the summary


@dataclass
class Tally:
    """How many samples were used, and which were not.

    Attributes
    ----------
    used: count.
    skipped: in the order met.
    """

    used: int = 0
    skipped: list[Problem] = field(default_factory=list)

    def skip(self, name: str, error: UnusableSampleError) -> None:
        """Note a sample that cannot be used."""
        self.skipped.append(Problem(name, error.kind, error.detail))

    def kinds(self) -> dict[str, list[Problem]]:
        """The skipped ones by kind of fault, most frequent first."""
        found: dict[str, list[Problem]] = {}
        for problem in self.skipped:
            found.setdefault(problem.kind, []).append(problem)
        return dict(sorted(found.items(), key=lambda kv: (-len(kv[1]), kv[0])))

    def summary(self) -> str:
        """Lines for a person.

        >>> tally = Tally(used=2)
        >>> tally.skip("a_1", UnusableSampleError("image is unreadable", "no NIfTI"))
        >>> print(tally.summary())
        2 used, 1 skipped
          1  image is unreadable: a_1 (no NIfTI)
        """
        lines = [f"{self.used} used, {len(self.skipped)} skipped"]
        for kind, problems in self.kinds().items():
            named = [f"{p.name} ({p.detail})" if p.detail else p.name for p in problems[:SHOWN]]
            more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            lines.append(f"  {len(problems)}  {kind}: {', '.join(named)}{more}")
        return "\n".join(lines)


def samples(
    dataset: DataSet, records: Iterable[Record] | None = None, tally: Tally | None = None
) -> Iterator[Sample]:
    """The samples of a set that can be used, read one at a time.

    Parameters
    ----------
    records: of the set; all unless given.
    tally: told of each sample; what the set itself left out is not repeated here.
    """
    tally = Tally() if tally is None else tally
    wanted: Iterable[Record] | Sequence[Record] = dataset.records() if records is None else records
    for record in wanted:
        try:
            sample = dataset.load(record)
        except UnusableSampleError as error:
            tally.skip(record.name, error)
            continue
        tally.used += 1
        yield sample


__all__ = ["Tally", "samples"]
