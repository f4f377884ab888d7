"""Each volume is encoded once: a folder of small files, one per volume and checkpoint, that outlives a run.

A folder's name holds what its files depend on (digest of the checkpoint, precision, code that reads volumes
and the model), a file's name what sample it is of (set, name, size and time of its image), so that nothing
stale is read. What a run was cut off at is made anew; every file is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import core_model
import training
from training.datasets.sample import DataSet, Record, Sample, UnusableSampleError
from training.datasets.tally import Tally
from training.protocols.encoder import Embedding, Encoder
from training.whole_files import whole_file

Kept = TypeVar("Kept")
DAMAGED = (OSError, ValueError, KeyError, TypeError, SafetensorError)
MISSING = "image is missing"
_MAKERS = ("datasets/*.py", "protocols/encoder.py", "protocols/ground*.py")  # of training


@dataclass(frozen=True)
class Store(Generic[Kept]):
    """Files of one kind, made of volumes by one checkpoint.

    Attributes
    ----------
    folder: of `folder_of`.
    make: of a sample; raises `UnusableSampleError` where it cannot.
    write, read: one file; `read` raises one of `DAMAGED` where it cannot.
    """

    folder: Path
    make: Callable[[Sample], Kept]
    write: Callable[[Kept, Path], None]
    read: Callable[[Path], Kept]

    def each(
        self, dataset: DataSet, records: Iterable[Record], tally: Tally
    ) -> Iterator[tuple[Record, Kept]]:
        """What is made of each record: out of its file or, without one, out of its volume.

        Records that cannot be used are told to `tally` and left out; the next run tries them again.
        """
        for record in records:
            try:
                kept = self._one(dataset, record)
            except FileNotFoundError:
                tally.skip(record.name, UnusableSampleError(MISSING))
                continue
            except UnusableSampleError as error:
                tally.skip(record.name, error)
                continue
            tally.used += 1
            yield record, kept

    def _one(self, dataset: DataSet, record: Record) -> Kept:
        file = self.folder / key_of(dataset.name, record)
        if file.exists():
            try:
                return self.read(file)
            except DAMAGED:
                file.unlink()  # of another kind or cut off: it is made anew
        kept = self.make(dataset.load(record))
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as part:
            self.write(kept, part)
        return kept


def folder_of(root: Path, encoder: Encoder, kind: str, *settings: object) -> Path:
    """Where the files of a checkpoint are.

    Parameters
    ----------
    kind: of file, e.g. ``"embedding"``.
    settings: anything else that the files depend on.
    """
    total = hashlib.sha256(repr((kind, encoder.reader.bf16, settings)).encode())
    for package, patterns in ((core_model, ("*.csv", "**/*.py")), (training, _MAKERS)):
        home = Path(str(package.__file__)).parent
        for file in sorted(f for pattern in patterns for f in home.glob(pattern)):
            total.update(file.relative_to(home).as_posix().encode() + file.read_bytes())
    return root / f"{kind}-{encoder.reader.identity.digest[:16]}-{total.hexdigest()[:12]}"


def key_of(dataset: str, record: Record) -> str:
    """Name of a sample's file, from which nothing can be read of the sample.

    Raises
    ------
    FileNotFoundError: if the image is missing.
    """
    stat = record.image.stat()
    what = (dataset, record.name, stat.st_size, stat.st_mtime_ns)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


def embeddings(encoder: Encoder, root: Path) -> Store[Embedding]:
    """The embeddings that a checkpoint makes."""
    return Store(folder_of(root, encoder, "embedding"), encoder.embed, write_embedding, read_embedding)


def write_embedding(embedding: Embedding, file: Path) -> None:
    """Write an embedding as safetensors."""
    said = {"findings": json.dumps(dict(embedding.findings))}
    arrays = {"volume": embedding.volume, "organs": embedding.organs}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file, metadata=said)


def read_embedding(file: Path) -> Embedding:
    """Read what `write_embedding` wrote; raises one of `DAMAGED` where it cannot."""
    with safe_open(file, framework="numpy") as opened:
        findings = json.loads((opened.metadata() or {})["findings"])
        return Embedding(opened.get_tensor("volume"), opened.get_tensor("organs"), findings)


def write_json(values: Any, file: Path) -> None:
    """Write plain values as JSON."""
    file.write_text(json.dumps(values), encoding="utf-8")


def read_json(file: Path) -> Any:
    """Read what `write_json` wrote; raises one of `DAMAGED` where it cannot."""
    return json.loads(file.read_text(encoding="utf-8"))
