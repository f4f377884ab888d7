"""Reading the benchmark's patients once: a folder of JSON, one file per patient.

The folder's name holds everything that a record depends on (checkpoint digest, benchmark
version, voxel threshold, precision, and the code that makes phantoms and reads them), so that
an interrupted evaluation goes on and a changed one starts anew. Lesion and finding thresholds
are no part of it: records are bare (`training.judging`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import core_model
import training
from core_model.memory import give_back_memory
from core_model.reader import Reader
from core_model.thresholds import Thresholds
from training.benchmark import VERSION, Case, make_case
from training.judging import CandidateRecord, FindingRecord, ImageRecord, PlantedRecord, bare, judge
from training.shared_encoder import SharedEncoder
from training.whole_files import whole_file
from training.wording import PromptBank, SnippetRecord, WordRecord, ask

_MAKERS = ("benchmark", "judging", "wording", "prompts")  # modules of training that make records


@dataclass(frozen=True)
class CaseRecord:
    """One patient: what was seen, and what was said of it in words."""

    image: ImageRecord
    words: WordRecord


def read_cases(
    reader: Reader, first_seed: int, n: int, thresholds: Thresholds, folder: Path | None = None
) -> Iterator[CaseRecord]:
    """Read patients `first_seed` .. `first_seed` + n - 1 barely; see `read_together`."""
    seeds = range(first_seed, first_seed + n)
    return (record for (record,) in read_together([reader], seeds, [thresholds], folder))


def read_together(
    readers: Sequence[Reader],
    seeds: Iterable[int],
    thresholds: Sequence[Thresholds],
    folder: Path | None = None,
    shared: SharedEncoder | None = None,
) -> Iterator[tuple[CaseRecord, ...]]:
    """Read patients barely with each of some readers; those in the store are not read again.

    Parameters
    ----------
    thresholds: of each reader; their voxel threshold and organ size are read with.
    folder: the store; None keeps nothing.
    shared: the readers' encoder, if they have one; it forgets each patient after the last reader.

    Raises
    ------
    ValueError: if a file of the store is damaged.
    """
    stores = [_Store.of(r, bare(t), folder) for r, t in zip(readers, thresholds, strict=True)]
    for seed in seeds:
        case: Case | None = None
        records = []
        for store in stores:
            record = store.load(seed)
            if record is None:
                case = case or make_case(seed)
                record = store.read(case)
            records.append(record)
        if shared is not None:
            shared.forget()
        if case is not None:
            give_back_memory()
        yield tuple(records)


@dataclass
class _Store:
    """One reader's records; `place` is its folder, None keeps nothing."""

    reader: Reader
    thresholds: Thresholds
    place: Path | None
    bank: PromptBank | None = None

    @classmethod
    def of(cls, reader: Reader, thresholds: Thresholds, folder: Path | None) -> _Store:
        return cls(reader, thresholds, folder / store_key(reader, thresholds) if folder else None)

    def load(self, seed: int) -> CaseRecord | None:
        file = self.place / f"{seed}.json" if self.place else None
        return load_record(file) if file and file.exists() else None

    def read(self, case: Case) -> CaseRecord:
        reader, before = self.reader, self.reader.thresholds
        self.bank = self.bank or PromptBank.of(reader)
        reader.thresholds = self.thresholds
        try:
            reading = reader.read(case.volume)
        finally:
            reader.thresholds = before
        words = ask(case, reading.encoding, self.bank, reader)
        record = CaseRecord(judge(case, reading), words)
        if self.place:
            save_record(record, self.place / f"{case.seed}.json")
        return record


def store_key(reader: Reader, thresholds: Thresholds) -> str:
    """Name of the folder of a reader's records."""
    how = {**asdict(thresholds), "bf16": reader.bf16}
    for name in (
        "lesion",
        "lesion_offset",
        "lesion_temperature",
        "absent_below",
        "present_from",
        "raise_findings",
        "offset",
        "temperature",
        "prior",
    ):
        del how[name]  # applied afterwards, by `training.judging.verdict`
    total = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
    for package in (core_model, training):
        root = Path(str(package.__file__)).parent
        for file in sorted([*root.glob("*.csv"), *root.rglob("*.py")]):
            if package is core_model or file.parent.name == "phantoms" or file.stem in _MAKERS:
                total.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return f"{VERSION.replace('/', '-')}-{reader.identity.digest[:16]}-{total.hexdigest()[:12]}"


def save_record(record: CaseRecord, file: Path) -> None:
    """Write a record; it is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        part.write_text(json.dumps(asdict(record)), encoding="utf-8")


def load_record(file: Path) -> CaseRecord:
    """Read what `save_record` wrote.

    Raises
    ------
    ValueError: if the file is damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return CaseRecord(_image_of(values["image"]), _words_of(values["words"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no record of a patient ({error!r}); delete it, it is read again"
        ) from error


def _image_of(values: dict[str, Any]) -> ImageRecord:
    candidates = [
        CandidateRecord(**{**c, "overlaps": {int(k): v for k, v in c["overlaps"].items()}})
        for c in values["candidates"]
    ]
    return ImageRecord(
        seed=values["seed"],
        planted=tuple(PlantedRecord(**p) for p in values["planted"]),
        candidates=tuple(candidates),
        findings=tuple(FindingRecord(**f) for f in values["findings"]),
        abnormalities=tuple(values["abnormalities"]),
        organ_dice=values["organ_dice"],
    )


def _words_of(values: dict[str, Any]) -> WordRecord:
    vectors = {k: tuple(values[k]) for k in ("report_feature", "scan_feature")}
    snippets = tuple(SnippetRecord(**s) for s in values["snippets"])
    return WordRecord(**{**values, **vectors, "snippets": snippets})
