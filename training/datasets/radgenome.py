"""RadGenome-ChestCT: the sentences of CT-RATE's reports, each with the region of the body that it is about.

Layout: data set card of RadGenome-ChestCT. Its tables name volumes of CT-RATE; those are read from a CT-RATE
tree in the same folder or beside it (`training.datasets.ct_rate`: HU, labels, organ masks), else from the
set's own ``{train,valid}_preprocessed``. Its region masks are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from training.datasets.ct_rate import CtRate, root_of, vocabulary, volume_files
from training.datasets.files import NO_REPORT, TABLE_MISSING, match, niftis, read_ct, read_rows, stem
from training.datasets.sample import OrganSentence, Problem, Record, Sample, Split
from training.mining.vocabulary import places_in

# Region of the set -> reading organs that it holds; our choice. Of one with several, those that the sentence
# names; none where it names none, for no text is about all organs of the abdomen.
REGIONS: Mapping[str, tuple[str, ...]] = {
    "abdomen": (
        "adrenals",
        "aorta",
        "colon",
        "duodenum",
        "gallbladder",
        "inferior_vena_cava",
        "kidneys",
        "liver",
        "pancreas",
        "portal_vein_and_splenic_vein",
        "small_bowel",
        "spleen",
        "stomach",
    ),
    "bone": (
        "cervical_spine",
        "clavicula",
        "hip",
        "humerus",
        "lumbar_spine",
        "ribs",
        "sacrum",
        "scapula",
        "thoracic_spine",
    ),
    "breast": (),
    "esophagus": ("esophagus",),
    "heart": ("heart",),
    "lung": ("lung",),
    "mediastinum": ("aorta", "esophagus", "heart", "pulmonary_artery", "trachea"),
    "pleura": ("lung",),
    "thyroid": (),
    "trachea and bronchie": ("trachea",),
}
WHOLE = {"", "nan"}  # what stands for a region in the row of a whole report
UNKNOWN_REGION = "region is unknown"
_PARTS: tuple[tuple[Split, str, str], ...] = (
    ("train", "train", "train"),
    ("validation", "valid", "validation"),
)


def organs_of(region: str, sentence: str) -> tuple[str, ...]:
    """The reading organs that a sentence of a region is about.

    >>> organs_of("pleura", "No effusion."), organs_of("abdomen", "The liver is enlarged.")
    (('lung',), ('liver',))
    >>> organs_of("abdomen", "No free fluid."), organs_of("thyroid", "Normal.")
    ((), ())
    """
    able = REGIONS.get(region, ())
    if len(able) < 2:
        return able
    return tuple(dict.fromkeys(p.organ for p in places_in(sentence) if p.organ in able))


class RadGenome:
    """RadGenome-ChestCT on disk.

    Parameters
    ----------
    folder: the downloaded repository, or its folder ``dataset``.
    ct_rate: of the volumes; unless given a CT-RATE tree in `folder`, or the one beside it.

    Raises
    ------
    ValueError: if several CT-RATE trees lie beside `folder` and none is named.
    """

    name = "RadGenome-ChestCT"

    def __init__(self, folder: Path, ct_rate: Path | None = None) -> None:
        self.root = root_of(folder)
        self.vocabulary: tuple[str, ...] = vocabulary()
        tree = ct_rate if ct_rate is not None else ct_rate_beside(folder)
        self._ct_rate = None if tree is None else CtRate(tree)
        self._problems: list[Problem] = []
        self._records: list[Record] = []
        listed = {} if self._ct_rate is None else {r.name: r for r in self._ct_rate.records()}
        for split, part, tables in _PARTS:
            table = self.root / f"radgenome_files/{tables}_region_report.csv"
            if table.exists():
                self._read(split, table, self._files(part), listed)
        if not (self._records or self._problems):
            self._problems.append(Problem("*_region_report.csv", TABLE_MISSING))

    @staticmethod
    def recognises(folder: Path) -> bool:
        """The folder of its tables."""
        return (root_of(folder) / "radgenome_files").is_dir()

    def records(self) -> Sequence[Record]:
        """All volumes with region sentences, in the order of the tables, train first."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Volumes without rows or rows without volumes, empty reports, regions that the table lacks."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One volume, with the organ mask of CT-RATE where it is there.

        Raises
        ------
        UnusableSampleError: as `CtRate.load`.
        """
        if record.notes.get("tree") != "preprocessed" and self._ct_rate is not None:
            return self._ct_rate.load(record)
        return Sample(record, read_ct(record.image))

    def _files(self, part: str) -> dict[str, Path]:
        own = self.root / f"{part}_preprocessed"
        files = {stem(p.name): p for p in niftis(own)} if own.is_dir() else {}
        return files if self._ct_rate is None else {**files, **volume_files(self._ct_rate.root, part)}

    def _read(
        self, split: Split, table: Path, files: Mapping[str, Path], listed: Mapping[str, Record]
    ) -> None:
        texts, sentences = self._table(table)
        for name, image in match({**texts, **sentences}, files, self._problems):
            known = listed.get(name)
            mine = tuple(sentences.get(name, ()))
            report = "\n".join(texts.get(name, ())) or (known.report if known else "")
            report = report or " ".join(s.text for s in mine)
            if not report:
                self._problems.append(Problem(name, NO_REPORT))
            elif known is not None and known.image == image:
                self._records.append(replace(known, report=report, sentences=mine))
            else:
                notes = {"tree": "preprocessed"} if _is_own(image) else {}
                patient = name.rsplit("_", 2)[0]
                self._records.append(
                    Record(name, patient, split, image, report=report, sentences=mine, notes=notes)
                )

    def _table(self, table: Path) -> tuple[dict[str, list[str]], dict[str, list[OrganSentence]]]:
        """Whole reports and region sentences by volume name."""
        texts: dict[str, list[str]] = {}
        sentences: dict[str, list[OrganSentence]] = {}
        unknown: set[str] = set()
        for row in read_rows(table):
            if not {"Volumename", "Anatomy", "Sentence"} <= set(row):
                self._problems.append(Problem(table.name, "table lacks a column", ", ".join(row)))
                break
            name, region, text = (
                stem(row["Volumename"].strip()),
                row["Anatomy"].strip(),
                row["Sentence"].strip(),
            )
            texts.setdefault(name, [])
            if not text:
                continue
            if region.lower() in WHOLE:
                texts[name].append(text)
                continue
            if region not in REGIONS and region not in unknown:
                unknown.add(region)
                self._problems.append(Problem(table.name, UNKNOWN_REGION, repr(region)))
            sentences.setdefault(name, []).append(OrganSentence(text, organs_of(region, text), region))
        return texts, sentences


def _is_own(image: Path) -> bool:
    return any(parent.name.endswith("_preprocessed") for parent in image.parents)


def ct_rate_beside(folder: Path) -> Path | None:
    """The CT-RATE tree in a folder or, if there is none, beside it.

    Raises
    ------
    ValueError: if there are several.
    """
    candidates = [folder] if _has_volumes(folder) else sorted(folder.resolve().parent.iterdir())
    found = [c for c in candidates if c.is_dir() and _has_volumes(c)]
    if len(found) > 1:  # another set may hold some volumes; CT-RATE itself has its tables too
        found = [c for c in found if CtRate.recognises(c)] or found
    if len(found) > 1:
        raise ValueError(
            f"beside {folder} lie several CT-RATE trees, {', '.join(c.name for c in found)}; "
            "link or move the one that is meant into that folder"
        )
    return found[0] if found else None


def _has_volumes(folder: Path) -> bool:
    return any((root_of(folder) / f"{part}_fixed").is_dir() for _, part, _ in _PARTS) or (
        CtRate.recognises(folder)
    )


__all__ = ["REGIONS", "UNKNOWN_REGION", "RadGenome", "ct_rate_beside", "organs_of"]
