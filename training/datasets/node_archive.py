"""A node's own archive as a data set: CT that was read, reports where there are, radiologists' corrections.

Everything passes `training.retraining.deidentify` as it is read; names are keyed digests. Reports are taken
from ``reports.csv`` or ``reports/STUDY_UID.txt`` in the archive, and scrubbed as far as rules go: who lays
them there asks for it; structured reports among the instances only where ``structured`` says so. Reads
documented files alone: corrections (`training.datasets.archive`), and of studies without one the organ SEG of
the reading, which names its images. Held-out patients are the split ``"test"``.

Not read: studies that the node has not, tilted, unevenly spaced and multi-frame series (named and counted).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from core_model.abnormality import abnormalities
from core_model.volume import canonical
from training.datasets.archive import volume_of
from training.datasets.sample import Problem, Record, Sample, SliceSnippet, UnusableSampleError
from training.datasets.tally import Tally
from training.mining.positions import SeriesSlices, snippets
from training.retraining.cases import lesion_labels
from training.retraining.deidentify import Deidentifier
from training.retraining.intake import StudyFile, load_study, patient_of, study_files
from training.retraining.pseudonyms import key_of, open_pseudonyms
from training.retraining.reports import read_reports, structured_reports

ORGANS = "organs.seg.dcm"  # of a reading; names the images that were read


class NodeArchive:
    """The archive folder of a node.

    Parameters
    ----------
    folder: of the archive.
    reports: CSV or folder of texts instead of those in the archive.
    structured: also take structured reports that others made, which costs a look at every instance.

    Raises
    ------
    ValueError: the key or the reports cannot be read.
    """

    name = "node archive"
    vocabulary = tuple(a.name for a in abnormalities())

    def __init__(self, folder: Path, *, reports: Path | None = None, structured: bool = False) -> None:
        self._folder = folder
        self._pseudonyms = open_pseudonyms(key_of(folder))
        self._clean = Deidentifier(self._pseudonyms)
        self._reports = structured_reports(folder, self._pseudonyms) if structured else {}
        for place in [folder / "reports.csv", folder / "reports"] if reports is None else [reports]:
            if place.exists() or reports is not None:
                self._reports |= read_reports(place, self._pseudonyms)
        tally = Tally()
        self._corrected = {file.name: file for file in study_files(folder, self._pseudonyms, tally)}
        self._images: dict[str, tuple[Path, ...]] = {}
        self._records = [self._corrected_record(file) for file in self._corrected.values()]
        broken = {problem.name for problem in tally.skipped}
        self._records += self._readings(set(self._corrected) | broken, tally)
        self._problems = tally.skipped

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether a path has the layout of a node's archive."""
        return (folder / "instances").is_dir() and (folder / "results").is_dir()

    def records(self) -> Sequence[Record]:
        """Corrected studies, then those that were only read."""
        return self._records

    def problems(self) -> Sequence[Problem]:
        """Corrections and readings that cannot be used."""
        return self._problems

    def load(self, record: Record) -> Sample:
        """One study; raises `UnusableSampleError` where it cannot be used."""
        file = self._corrected.get(record.name)
        if file is None:
            images = _ordered([self._read(path) for path in self._images[record.name]])
            return Sample(record, _upright(volume_of(images)), snippets=_snippets(record.report, images))
        study = load_study(file, self._clean)
        labels = lesion_labels(study)
        found: tuple[SliceSnippet, ...] = ()
        if record.report:
            found = _snippets(record.report, _ordered([self._read(path) for path in file.images]))
        return Sample(
            record,
            _upright(study.volume),
            tumours=None if labels is None else _labels(study.volume.with_array(labels)),
            tumours_labelled=frozenset()
            if labels is None
            else frozenset(a.name for a in abnormalities() if a.tumour),
            snippets=found,
        )

    def _corrected_record(self, file: StudyFile) -> Record:
        marks = json.loads(file.path.read_text(encoding="utf-8")).get("marks", [])
        labels = {
            str(mark["abnormality"]): mark["presence"] == "present"
            for mark in marks
            if mark.get("presence") in ("present", "absent") and mark.get("abnormality") in self.vocabulary
        }
        return self._record(file.name, file.patient, file.path, labels, "yes")

    def _record(
        self, name: str, patient: str, image: Path, labels: Mapping[str, bool], corrected: str
    ) -> Record:
        return Record(
            name=name,
            patient=patient,
            split="test" if self._pseudonyms.is_held_out(patient) else "train",
            image=image,
            report=self._reports.get(name, ""),
            labels=labels,
            notes={"corrected": corrected},
        )

    def _readings(self, known: set[str], tally: Tally) -> list[Record]:
        """Studies that were read and not corrected; of several readings the newest file counts."""
        newest: dict[str, tuple[int, Path, tuple[Path, ...]]] = {}
        for path in sorted((self._folder / "results").glob(f"*/{ORGANS}")):
            try:
                study, images = self._images_of(path)
            except Exception:  # whatever a file does to the parser, its text stays in the house
                tally.skip(self._pseudonyms.study(path.parent.name), UnusableSampleError("SEG is unreadable"))
                continue
            name, made = self._pseudonyms.study(study), path.stat().st_mtime_ns
            if name not in known and (name not in newest or made > newest[name][0]):
                newest[name] = made, path, images
        found = []
        for name, (_, path, images) in sorted(newest.items()):
            try:
                patient = patient_of(images[0], self._pseudonyms)
            except UnusableSampleError as error:
                tally.skip(name, error)
                continue
            self._images[name] = images
            found.append(self._record(name, patient, path, {}, "no"))
        return found

    def _images_of(self, path: Path) -> tuple[str, tuple[Path, ...]]:
        """Study Instance UID and CT files of a reading's SEG."""
        tags = ["StudyInstanceUID", "ReferencedSeriesSequence"]
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        uids = [
            str(one.ReferencedSOPInstanceUID)
            for series in header.ReferencedSeriesSequence
            for one in series.ReferencedInstanceSequence
        ]
        digests = [hashlib.sha256(uid.encode()).hexdigest() for uid in uids]
        return str(header.StudyInstanceUID), tuple(
            self._folder / "instances" / one[:2] / f"{one}.dcm" for one in digests
        )

    def _read(self, path: Path) -> Dataset:
        try:
            return self._clean(pydicom.dcmread(path))
        except UnusableSampleError:
            raise
        except Exception:  # as above
            raise UnusableSampleError("image is missing or unreadable") from None


def _ordered(images: list[Dataset]) -> list[Dataset]:
    """Along the normal of the first."""
    try:
        direction = np.array(images[0].ImageOrientationPatient, dtype=float)
        normal = np.cross(direction[:3], direction[3:])
        return sorted(images, key=lambda i: float(np.array(i.ImagePositionPatient, dtype=float) @ normal))
    except (AttributeError, TypeError, ValueError, IndexError):
        raise UnusableSampleError("image has no position in the patient") from None


def _upright(volume: hd.Volume) -> hd.Volume:
    found = canonical(volume)
    return found.with_array(np.ascontiguousarray(found.array, dtype=np.float32))


def _labels(labels: hd.Volume) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(canonical(labels).array)


def _snippets(report: str, images: Sequence[Dataset]) -> tuple[SliceSnippet, ...]:
    """Sentences of a report that name an image of this series, resolved; the doubtful dropped."""
    if not report:
        return ()
    try:
        first = images[0]
        normal = np.array(first.ImageOrientationPatient, dtype=float)
        series = SeriesSlices(
            number=None if first.get("SeriesNumber") is None else int(first.SeriesNumber),
            images=tuple(int(i.InstanceNumber) for i in images),
            heights_mm=tuple(float(i.ImagePositionPatient[2]) for i in images),
            axial=abs(float(np.cross(normal[:3], normal[3:])[2])) > np.cos(np.pi / 4),
        )
    except (AttributeError, TypeError, ValueError):  # without image numbers nothing can be resolved
        return ()
    return tuple(
        SliceSnippet(one.text, one.slice_index, one.slice_index, one.slice_index, one.organs)
        for one in snippets(report, [series]).snippets
    )


__all__ = ["NodeArchive"]
