"""Reports of an archive's studies: text files, a CSV, or structured reports; and what they say.

Texts are scrubbed as they are read (`training.retraining.scrub`, which says how far that goes). For
retraining not even scrubbed text is kept: only which abnormalities it affirms or denies.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from training.mining.organ_sentences import organ_sentences
from training.retraining.pseudonyms import Pseudonyms
from training.retraining.scrub import known_of, scrubbed

STUDY_COLUMNS = ("StudyInstanceUID", "study_instance_uid", "study")
TEXT_COLUMNS = ("report", "report_text", "text")
# Basic Text, Enhanced, Comprehensive, Comprehensive 3D and Extensible SR (PS3.4 B.5).
STRUCTURED_REPORTS = tuple(f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33, 34, 35))
OWN_MAKER = "Sightline"  # of the node's own reports, which are no radiologist's


def read_reports(path: Path, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Texts by keyed digest of their study.

    Parameters
    ----------
    path: a CSV with a column of `STUDY_COLUMNS` and one of `TEXT_COLUMNS`, or a folder of ``STUDY_UID.txt``.

    Raises
    ------
    ValueError: it is neither.
    """
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        return {pseudonyms.study(f.stem): scrubbed(f.read_text("utf-8", "replace")) for f in files}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            columns = rows.fieldnames or []
            study = next((c for c in STUDY_COLUMNS if c in columns), None)
            text = next((c for c in TEXT_COLUMNS if c in columns), None)
            if study is None or text is None:
                raise ValueError(
                    f"{path} has no column {' or '.join(STUDY_COLUMNS)}, or none {' or '.join(TEXT_COLUMNS)}"
                )
            return {pseudonyms.study(row[study] or ""): scrubbed(row[text] or "") for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path} is no CSV of reports and no folder of text files") from None


def structured_reports(archive: Path, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Texts of the structured reports that others made, by keyed digest of their study.

    Reads the header of every instance of the archive once: minutes for a million. Of several reports of one
    study all text is joined.
    """
    found: dict[str, str] = {}
    for path in sorted((archive / "instances").glob("*/*.dcm")):
        try:
            kind = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            if kind.get("SOPClassUID") not in STRUCTURED_REPORTS:
                continue
            report = pydicom.dcmread(path)
            if OWN_MAKER in f"{report.get('Manufacturer', '')} {report.get('ManufacturerModelName', '')}":
                continue
            text = "\n".join(_texts(report))
            study = pseudonyms.study(str(report.StudyInstanceUID))
            cleaned = scrubbed(text, known_of(report))
        except Exception:
            continue
        if cleaned.strip():
            found[study] = "\n".join(part for part in (found.get(study, ""), cleaned) if part)
    return found


def said_of(report: str) -> Mapping[str, bool]:
    """What a report says of the dictionary's abnormalities: True affirmed, False denied.

    Doubt, and what is said both ways, is left out. Rules alone (`training.mining`).

    >>> said_of("Hypodense lesion in the liver, suspicious for metastasis. No gallstones.")["gallstones"]
    False
    """
    found: dict[str, set[str]] = {}
    for sentence in organ_sentences(report):
        for statement in sentence.statements:
            found.setdefault(statement.abnormality, set()).add(statement.status)
    return {
        name: "present" in said
        for name, said in found.items()
        if len(said) == 1 and said & {"present", "absent"}
    }


def _texts(item: Dataset) -> Iterator[str]:
    """Text values of a content tree (PS3.3 C.17.3), depth first."""
    if item.get("TextValue"):
        yield str(item.TextValue)
    for child in item.get("ContentSequence", ()):
        yield from _texts(child)
