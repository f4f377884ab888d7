"""Radiologists' corrections: made into DICOM, kept beside the reading, queued for delivery.

A correction is a result of the reading that it corrects: `dicom_node.delivery` sends its SEG and SR after
the node's own. The same correction sent twice is kept once.

``corrections/ID.json`` beside them is what retraining reads (`training.datasets.archive`), and names all that
belongs to a correction; it holds no name of a person. ``"sightline-correction/1"``:

- ``study_instance_uid``, ``series_instance_uid``, ``reading_key``, ``model`` (name, version, digest);
- ``images``: the DICOM CT files that were read, in slice order, as paths from the folder of the JSON file;
- ``reading``: path of the node's ``reading.json``, likewise;
- ``marks``: per finding of the reading that was judged: ``finding_index``, ``organ``, ``abnormality``,
  ``status`` (the node's), ``verdict`` (``accept`` or ``reject``), ``presence`` (what stands now; null where a
  decision was rejected that the node had not made);
- ``segmentation``: file name of the corrected SEG beside the JSON file, or null;
- ``emptied``: true where the person left no segment: then there is no lesion, and no SEG;
- ``report``: file name of the SR.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import sqlalchemy as sa
from pydicom.dataset import Dataset

from core_model.reading import ModelIdentity
from dicom_node.archive import CORRECTIONS, Archive, sync_folder
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import CorrectionRow, Delivery, Result
from dicom_node.instances import NotDicomError
from dicom_node.reading_files import LESIONS, ORGANS, READING, REPORT
from dicom_node.results.correction import (
    DrawnSegment,
    MarkedFinding,
    Origin,
    Verdict,
    corrected_report,
    corrected_segmentation,
)
from dicom_node.results.headers import clean_headers
from dicom_node.series_frames import read_references
from dicom_node.series_pixels import load_headers

SCHEMA = "sightline-correction/1"
FOLDER = CORRECTIONS
RANK_SEGMENTATION, RANK_REPORT = 2, 3  # after all that the node itself made of the reading
MAX_NAME = 64  # characters of a component group (PS3.5 6.2, VR PN)


@dataclass(frozen=True)
class Correction:
    """What a radiologist sent.

    Attributes
    ----------
    observer: DICOM person name.
    marks: index in ``findings`` of ``reading.json``, and the verdict.
    comment: free text.
    drawn: segments with voxels, or None where no segmentation was sent.
    digest: SHA-256 of the segmentation's bytes, "" where none was sent.
    """

    observer: str
    marks: tuple[tuple[int, Verdict], ...]
    comment: str
    drawn: tuple[DrawnSegment, ...] | None
    digest: str

    def id(self, key: str) -> str:
        """Hexadecimal name of this correction of the reading `key`."""
        content = json.dumps([key, self.observer, self.marks, self.comment, self.digest])
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def keep_correction(
    archive: Archive, config: Config, *, study: str, key: str, folder: Path, slices: Sequence[str],
    correction: Correction,
) -> CorrectionRow:  # fmt: skip
    """Make SEG and SR of a correction, keep them, and queue them for every destination.

    Parameters
    ----------
    study, key, folder, slices: of the reading (`dicom_node.archive.results_folder`).

    Raises
    ------
    SightlineError: a mark names no finding, the name is no person name, nothing is corrected, or
        files of the reading are missing.
    """
    _refuse_name(correction.observer)
    name = correction.id(key)
    with archive.index.reading() as session:
        earlier = session.get(CorrectionRow, name)
    if earlier is not None:
        return earlier
    try:
        document = json.loads((folder / READING).read_text(encoding="utf-8"))
        instances = read_references(slices, archive.path)
        origin = _origin(load_headers(instances), folder, document, key=key, name=name)
    except (OSError, pydicom.errors.InvalidDicomError, NotDicomError):
        raise SightlineError("files of the reading are missing; send the study again") from None
    marks = _marked(correction.marks, document["findings"])
    drawn = correction.drawn or ()
    if not marks and correction.drawn is None:
        raise SightlineError("the correction corrects nothing; send marks, a segmentation or both")
    segmentation = corrected_segmentation(drawn, origin) if drawn else None
    report = corrected_report(
        marks,
        drawn,
        origin,
        segmentation=segmentation,
        emptied=correction.drawn == (),
        observer=correction.observer,
        comment=correction.comment,
    )
    row = CorrectionRow(
        id=name,
        reading_key=key,
        study_instance_uid=study,
        received_at=time.time(),
        marks=[{"finding_index": index, "verdict": verdict} for index, verdict in correction.marks],
        segmentation_sop_instance_uid=None if segmentation is None else str(segmentation.SOPInstanceUID),
        report_sop_instance_uid=str(report.SOPInstanceUID),
    )
    written = _document(
        row,
        correction,
        document,
        images=[os.path.relpath(instance.path, folder / FOLDER) for instance in instances],
        series=str(origin.headers[0].SeriesInstanceUID),
    )
    _write(folder / FOLDER, name, segmentation, report, written)
    _record(archive, config, row, segmentation, report)
    return row


def corrections_of(archive: Archive, study_instance_uid: str) -> list[CorrectionRow]:
    """The corrections of a study, oldest first."""
    with archive.index.reading() as session:
        return list(
            session.scalars(
                sa.select(CorrectionRow)
                .where(CorrectionRow.study_instance_uid == study_instance_uid)
                .order_by(CorrectionRow.received_at)
            )
        )


def _refuse_name(name: str) -> None:
    """PS3.5 6.2, VR PN: printable, no backslash, up to five components of a name."""
    sound = name.isprintable() and "\\" not in name and "=" not in name and name.count("^") <= 4
    if not sound or not name.strip(" ^") or len(name) > MAX_NAME:
        raise SightlineError(
            "observer_name is no DICOM person name; write family and given name as in Doe^Jane"
        )


def _origin(
    sources: Sequence[Dataset], folder: Path, document: dict[str, Any], *, key: str, name: str
) -> Origin:
    own = [pydicom.dcmread(folder / n) for n in (LESIONS, ORGANS) if (folder / n).exists()]
    return Origin(
        key=key,
        correction=name,
        model=ModelIdentity(**document["model"]),
        headers=clean_headers(sources),
        report=pydicom.dcmread(folder / REPORT),
        segmentations=tuple(own),
    )


def _marked(
    marks: Sequence[tuple[int, Verdict]], findings: list[dict[str, Any]]
) -> tuple[MarkedFinding, ...]:
    indices = [index for index, _ in marks]
    if len(set(indices)) < len(indices):
        raise SightlineError("a finding is marked twice; send one mark for each")
    if indices and max(indices) >= len(findings):
        raise SightlineError(
            f"marks: there is no finding {max(indices)}, the reading has {len(findings)}; count from 0"
        )
    return tuple(
        MarkedFinding(
            organ=findings[index]["organ"],
            abnormality=findings[index]["abnormality"],
            status=findings[index]["status"],
            verdict=verdict,
        )
        for index, verdict in marks
    )


def _document(
    row: CorrectionRow, correction: Correction, document: dict[str, Any], *, images: list[str], series: str
) -> dict[str, Any]:
    """What retraining reads; without names of persons."""
    marks, findings = correction.marks, document["findings"]
    return {
        "schema": SCHEMA,
        "study_instance_uid": row.study_instance_uid,
        "series_instance_uid": series,
        "reading_key": row.reading_key,
        "model": document["model"],
        "images": [Path(image).as_posix() for image in images],
        "reading": f"../{READING}",
        "marks": [
            {
                "finding_index": index,
                "organ": mark.organ,
                "abnormality": mark.abnormality,
                "status": mark.status,
                "verdict": mark.verdict,
                "presence": mark.presence,
            }
            for (index, _), mark in zip(marks, _marked(marks, findings), strict=True)
        ],
        "segmentation": None if row.segmentation_sop_instance_uid is None else f"{row.id}.seg.dcm",
        "emptied": correction.drawn == (),
        "report": f"{row.id}.sr.dcm",
    }


def _write(
    folder: Path, name: str, segmentation: Dataset | None, report: Dataset, document: dict[str, Any]
) -> None:
    folder.mkdir(exist_ok=True)
    for suffix, dataset in ((".seg.dcm", segmentation), (".sr.dcm", report)):
        if dataset is not None:
            part = folder / f"{name}{suffix}.part"
            dataset.save_as(part, enforce_file_format=True)
            part.rename(folder / f"{name}{suffix}")
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for path in [*folder.glob(f"{name}.*"), folder]:
        sync_folder(path)


def _record(
    archive: Archive, config: Config, row: CorrectionRow, segmentation: Dataset | None, report: Dataset
) -> None:
    """Correction, results and deliveries in one commit."""
    now = time.time()
    with archive.index.writing() as session:
        if session.get(CorrectionRow, row.id) is not None:  # the same one came twice at once
            return
        session.add(row)
        for dataset, suffix, rank in (
            (segmentation, "seg", RANK_SEGMENTATION),
            (report, "sr", RANK_REPORT),
        ):
            if dataset is None:
                continue
            uid = str(dataset.SOPInstanceUID)
            session.add(
                Result(
                    sop_instance_uid=uid,
                    reading_key=row.reading_key,
                    sop_class_uid=str(dataset.SOPClassUID),
                    file_name=f"{FOLDER}/{row.id}.{suffix}.dcm",
                    rank=rank,
                )
            )
            session.flush()
            for destination in config.destinations:
                session.add(
                    Delivery(
                        sop_instance_uid=uid,
                        destination=destination.name,
                        state="pending",
                        attempts=0,
                        created_at=now,
                        due_at=now,
                    )
                )
