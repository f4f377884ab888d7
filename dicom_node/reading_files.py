"""The folder of files that `sightline read` leaves behind: all of them, or none.

Not the node's archive (`dicom_node.readings`), which keeps results under their key and sends
them. The files are those of the contract in the README.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import highdicom as hd
from pydicom.dataset import Dataset

from core_model.encoding_file import save_encoding
from core_model.reading import Reading
from dicom_node.errors import SightlineError
from dicom_node.nifti import save_nifti
from dicom_node.results.identifiers import drawn_digest, result_key
from dicom_node.results.key_images import write_key_images
from dicom_node.results.reading_json import write_reading_json
from dicom_node.results.report import findings_report
from dicom_node.results.segmentation import lesion_segmentation, organ_segmentation
from dicom_node.sources import CtInput

LESIONS, ORGANS, REPORT = "lesions.seg.dcm", "organs.seg.dcm", "findings.sr.dcm"
READING, ENCODING = "reading.json", "encoding.safetensors"
LESIONS_NIFTI, ORGANS_NIFTI = "lesions.nii.gz", "organs.nii.gz"
# What an earlier reading left, so that overwriting never mixes two readings.
_OWN = (LESIONS, ORGANS, REPORT, READING, ENCODING, LESIONS_NIFTI, ORGANS_NIFTI, "key_*.png")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder for results before any work is done for it.

    Raises
    ------
    SightlineError: if `out` is a file, or holds files and `overwrite` is not set.
    """
    if out.exists() and not out.is_dir():
        raise SightlineError(f"{out}: is a file; name a folder for the results")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise SightlineError(
            f"{out}: the folder is not empty; name a new one, or add --overwrite to replace "
            "the results of an earlier reading in it"
        )


@contextmanager
def output_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A fresh folder beside `out` that takes its place when the block ends without an error.

    Parameters
    ----------
    out: new or empty, or with `overwrite` a folder whose earlier results are replaced; other
        files in it are left alone.

    Raises
    ------
    SightlineError: as `check_output`, or if the place cannot be written.
    """
    check_output(out, overwrite=overwrite)
    target = out.resolve()
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
    except OSError as error:
        raise SightlineError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield part
        _put_in_place(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put_in_place(part: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        os.replace(part, target)  # a folder may take the place of an empty one
        return
    fresh = {path.name for path in part.iterdir()}
    for pattern in _OWN:
        for stale in target.glob(pattern):
            if stale.name not in fresh:
                stale.unlink()
    for path in part.iterdir():
        os.replace(path, target / path.name)


def write_reading(
    folder: Path, reading: Reading, source: CtInput, *, settings_digest: str, nifti: bool = False
) -> list[Path]:
    """Write every file of a reading into an existing folder.

    Parameters
    ----------
    folder: from `output_folder`.
    reading: what the model said about `source.volume`.
    source: what was read; without DICOM sources there is no SEG and no SR.
    settings_digest: of the settings that change results, as in the node's configuration, so
        that node and command line give one reading the same UIDs.
    nifti: also write the masks as NIfTI, on the grid of the input.

    Returns
    -------
    The files, in the order of the README.

    Raises
    ------
    ValueError: if reading and source do not belong together.
    """
    written: list[Path] = []
    if source.sources:
        key = result_key(source.references, drawn_digest(reading.model, reading.organs_by), settings_digest)
        written += write_objects(folder, reading, source.sources, key, notes=source.notes)
    written += write_numbers(folder, reading)
    written += write_key_images(reading, source.volume, folder)
    if nifti:
        written += _write_nifti(folder, reading, source.grid)
    return written


def write_objects(
    folder: Path,
    reading: Reading,
    sources: Sequence[Dataset],
    key: str,
    *,
    organs: bool = True,
    notes: Sequence[str] = (),
    earlier_key: str | None = None,
) -> list[Path]:
    """The DICOM objects of a reading as files: lesion SEG if there is a lesion, organ SEG, SR.

    Parameters
    ----------
    sources: data sets of the slices that were read.
    key: `identifiers.result_key` of the reading.
    organs: whether the organ SEG is made.
    notes: for the report, as `findings_report`.
    earlier_key: of the reading of the same study that this one replaces, if there is one.
    """
    lesion_seg = lesion_segmentation(reading, sources, key)
    organ_seg = organ_segmentation(reading, sources, key) if organs else None
    report = findings_report(
        reading,
        sources,
        key,
        lesion_seg=lesion_seg,
        organ_seg=organ_seg,
        notes=notes,
        earlier_key=earlier_key,
    )
    objects: list[tuple[str, Dataset | None]] = [
        (LESIONS, lesion_seg),
        (ORGANS, organ_seg),
        (REPORT, report),
    ]
    written = []
    for name, dataset in objects:
        if dataset is not None:
            dataset.save_as(folder / name, enforce_file_format=True)
            written.append(folder / name)
    return written


def write_numbers(folder: Path, reading: Reading) -> list[Path]:
    """What programs read of a reading: ``reading.json`` and the encoding for text queries."""
    document = write_reading_json(reading, folder / READING)
    save_encoding(reading.encoding, folder / ENCODING)
    # safetensors makes files for their owner only; all results get the same permissions.
    (folder / ENCODING).chmod(document.stat().st_mode)
    return [document, folder / ENCODING]


def _write_nifti(folder: Path, reading: Reading, grid: hd.VolumeGeometry) -> list[Path]:
    save_nifti(reading.lesion_mask, grid, folder / LESIONS_NIFTI)
    save_nifti(reading.organ_mask, grid, folder / ORGANS_NIFTI)
    return [folder / LESIONS_NIFTI, folder / ORGANS_NIFTI]
