"""The data sets that training can read, and how a folder is told to be one of them."""

from __future__ import annotations

from pathlib import Path

from training.datasets.abdomen_atlas import AbdomenAtlas
from training.datasets.ct_rate import CtRate
from training.datasets.inspect_ctpa import Inspect
from training.datasets.merlin import Merlin
from training.datasets.rad_chestct import RadChestCt
from training.datasets.radgenome import RadGenome
from training.datasets.rexgrounding import RexGrounding
from training.datasets.sample import DataSet
from training.datasets.table import Table

# name on the command line -> adapter; each is opened with the folder alone. Report sets first.
ADAPTERS: dict[str, type[DataSet]] = {
    "ct-rate": CtRate,
    "radgenome": RadGenome,
    "rexgrounding": RexGrounding,
    "rad-chestct": RadChestCt,
    "merlin": Merlin,
    "inspect": Inspect,
    "abdomen-atlas": AbdomenAtlas,
    "table": Table,
}


def open_dataset(folder: Path, kind: str | None = None) -> DataSet:
    """Open a set.

    Parameters
    ----------
    folder: of the set, or the file of a CSV set.
    kind: one of `ADAPTERS`; told by the layout unless given.

    Raises
    ------
    ValueError: if the folder is missing, the kind is unknown, or the layout is that of no set or of several.
    """
    if not folder.exists():
        raise ValueError(f"data set {folder} does not exist; name its folder")
    if kind is not None:
        if kind not in ADAPTERS:
            raise ValueError(f"kind of data set {kind!r} is unknown; choose of {', '.join(sorted(ADAPTERS))}")
        return ADAPTERS[kind](folder)  # type: ignore[call-arg]
    fitting = [name for name, adapter in ADAPTERS.items() if adapter.recognises(folder)]
    if len(fitting) != 1:
        what = f"looks like {' and '.join(fitting)}" if fitting else "has the layout of no set that is known"
        raise ValueError(f"{folder} {what}; name its kind, one of {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[fitting[0]](folder)  # type: ignore[call-arg]


__all__ = ["ADAPTERS", "open_dataset"]
