"""ReXGroundingCT: findings of CT-RATE's reports with a mask each, so that a sentence has its place.

Layout: data set card and repository of rajpurkarlab/ReXGroundingCT: ``dataset.json`` and ``segmentations``,
whose NIfTI files hold the findings along their first axis. The CTs are CT-RATE's fixed ones, in the same
folder or beside it. Findings of the train split are outlined in part, those of the others wholly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt

from training.datasets.ct_rate import CtRate, vocabulary, volume_files
from training.datasets.files import (
    GRID_DIFFERS,
    IN_NO_TABLE,
    NO_REPORT,
    NOT_ON_DISK,
    TABLE_MISSING,
    niftis,
    on_grid,
    read_nifti,
    read_voxels,
    stem,
)
from training.datasets.radgenome import ct_rate_beside
from training.datasets.sample import (
    OrganSentence,
    Problem,
    Record,
    Sample,
    SliceSnippet,
    Split,
    UnusableSampleError,
)
from training.mining.vocabulary import places_in

TABLES = ("dataset.json", "MICCAI_challenge_dataset.json")
SPLITS: Mapping[str, Split] = {"train": "train", "val": "validation", "test": "test"}
OTHER = ("1f", "2h")  # categories that may be of any organ; all others are of the lung or its pleura
SIZE_DIFFERS = 0.1  # share by which a mask may differ from the count of its table; our choice
NO_MASK = "finding masks have no file"


@dataclass(frozen=True)
class _Finding:
    """A finding of the table: its words, category, and count of voxels (None where it has none)."""

    text: str
    category: str
    voxels: int | None

    @property
    def organs(self) -> tuple[str, ...]:
        if self.category and self.category not in OTHER:
            return ("lung",)
        return tuple(dict.fromkeys(p.organ for p in places_in(self.text) if p.organ))


class RexGrounding:
    """ReXGroundingCT on disk.

    Notes: ``"annotation"`` is ``sparse`` for the train split and ``exhaustive`` for the others. A finding's
    `OrganSentence.region` is its category, e.g. ``"2d"`` (nodule or mass).

    Parameters
    ----------
    folder: of ``dataset.json``.
    ct_rate: of the volumes; unless given a CT-RATE tree in `folder`, or the one beside it.

    Raises
    ------
    ValueError: if several CT-RATE trees lie beside `folder` and none is named.
    """

    name = "ReXGroundingCT"

    def __init__(self, folder: Path, ct_rate: Path | None = None) -> None:
        self.folder = folder
        self.vocabulary: tuple[str, ...] = vocabulary()
        tree = ct_rate if ct_rate is not None else ct_rate_beside(folder)
        self._ct_rate = None if tree is None else CtRate(tree)
        self._problems: list[Problem] = []
        self._findings: dict[str, tuple[_Finding, ...]] = {}
        masks = folder / "segmentations"
        self._masks = {stem(p.name): p for p in niftis(masks)} if masks.is_dir() else {}
        self._records = self._read()

    @staticmethod
    def recognises(folder: Path) -> bool:
        """One of its tables and the folder of masks."""
        return any((folder / t).is_file() for t in TABLES) and (folder / "segmentations").is_dir()

    def records(self) -> Sequence[Record]:
        """All volumes with findings and their masks, in the table's order."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Entries without a CT or masks (those of a hidden test split), and files that no entry names."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One volume with a mask per finding, and where along the body each is largest.

        Raises
        ------
        UnusableSampleError: as `CtRate.load`; if the masks are not as many as the findings, lie on another
            grid, or have other sizes than the table says.
        """
        assert self._ct_rate is not None  # else there are no records
        sample = self._ct_rate.load(record)
        findings = self._findings[record.name]
        masks = read_finding_masks(self._masks[record.name], len(findings), sample.volume)
        for finding, mask in zip(findings, masks, strict=True):
            count = int(mask.sum())
            if finding.voxels and abs(count - finding.voxels) > SIZE_DIFFERS * finding.voxels:
                raise UnusableSampleError(
                    "finding mask has another size than its table says",
                    f"{count}, not {finding.voxels} voxels",
                )
        snippets = tuple(
            snippet
            for number, (finding, mask) in enumerate(zip(findings, masks, strict=True))
            if (snippet := snippet_of(finding.text, finding.organs, mask, number)) is not None
        )
        return Sample(record, sample.volume, sample.organs, finding_masks=masks, snippets=snippets)

    def _read(self) -> list[Record]:
        listed = {} if self._ct_rate is None else {r.name: r for r in self._ct_rate.records()}
        files: dict[str, Path] = {}
        if self._ct_rate is not None:
            files = {
                **volume_files(self._ct_rate.root, "train"),
                **volume_files(self._ct_rate.root, "valid"),
            }
        found: list[Record] = []
        seen: set[str] = set()
        for split, entry in self._entries():
            name = stem(str(entry.get("name", "")))
            findings = _findings(entry)
            seen.add(name)
            if not findings:
                self._problems.append(Problem(name, NO_REPORT))
            elif name not in files:
                self._problems.append(Problem(name, NOT_ON_DISK))
            elif name not in self._masks:
                self._problems.append(Problem(name, NO_MASK))
            else:
                self._findings[name] = findings
                found.append(_record(name, split, files[name], findings, listed.get(name)))
        self._problems += [Problem(name, IN_NO_TABLE) for name in self._masks if name not in seen]
        return found

    def _entries(self) -> list[tuple[Split, Mapping[str, Any]]]:
        table = next((self.folder / t for t in TABLES if (self.folder / t).is_file()), None)
        if table is None:
            self._problems.append(Problem(TABLES[0], TABLE_MISSING))
            return []
        try:
            document = json.loads(table.read_text(encoding="utf-8"))
            return [(SPLITS[part], dict(entry)) for part in SPLITS for entry in document.get(part, ())]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            self._problems.append(Problem(table.name, "table is unreadable", type(error).__name__))
            return []


def read_finding_masks(path: Path, count: int, volume: hd.Volume) -> npt.NDArray[np.bool_]:
    """The masks of a file that holds one finding after the other along its first axis.

    The affine of such a file is that of its three last axes. Files exist whose affine is meant in LPS though
    NIfTI means RAS; it is taken so where only that puts the masks on the CT.

    Parameters
    ----------
    count: of findings.
    volume: the canonical CT.

    Returns
    -------
    (findings, slices, rows, columns), on the grid of `volume`.

    Raises
    ------
    UnusableSampleError: if there are not `count`, or neither reading of the affine fits the CT.
    """
    image = read_nifti(path, "finding mask")
    array = read_voxels(image, "finding mask")
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[0] != count:
        raise UnusableSampleError(
            "finding masks are not as many as the findings", f"shape {array.shape}, {count} findings"
        )
    affine = np.array(image.affine, dtype=float)
    for reading in (affine, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine):
        try:
            return np.stack([on_grid(mask > 0, reading, volume, "finding mask") for mask in array])
        except UnusableSampleError as error:
            if error.kind != GRID_DIFFERS:
                raise
            problem = error
    raise problem


def snippet_of(
    text: str, organs: tuple[str, ...], mask: npt.NDArray[np.bool_], finding: int
) -> SliceSnippet | None:
    """A sentence and the slice where its (slices, rows, columns) mask is largest; None where it is empty."""
    area = mask.sum(axis=(1, 2))  # (slices,)
    shown = np.flatnonzero(area)
    if not len(shown):
        return None
    return SliceSnippet(text, int(area.argmax()), int(shown[0]), int(shown[-1]), organs, finding)


def _findings(entry: Mapping[str, Any]) -> tuple[_Finding, ...]:
    """The findings of an entry in the order of their keys, which are numbers."""
    texts = entry.get("findings") or {}
    categories, voxels = entry.get("categories") or {}, entry.get("pixels") or {}
    if not isinstance(texts, Mapping):
        return ()
    keys = sorted(texts, key=lambda key: (int(key) if str(key).isdigit() else len(texts), str(key)))
    return tuple(
        _Finding(
            str(texts[key]).strip(),
            str(categories.get(key, "")) if isinstance(categories, Mapping) else "",
            value if isinstance(voxels, Mapping) and isinstance(value := voxels.get(key), int) else None,
        )
        for key in keys
    )


def _record(
    name: str, split: Split, image: Path, findings: Sequence[_Finding], known: Record | None
) -> Record:
    """A record; report and labels are CT-RATE's where its tables are there."""
    report = known.report if known else "\n".join(f.text for f in findings)
    return Record(
        name,
        name.rsplit("_", 2)[0],
        split,
        image,
        report=report,
        sentences=tuple(OrganSentence(f.text, f.organs, f.category) for f in findings),
        labels=known.labels if known else {},
        notes={"annotation": "sparse" if split == "train" else "exhaustive"},
    )


__all__ = ["NO_MASK", "RexGrounding", "read_finding_masks", "snippet_of"]
