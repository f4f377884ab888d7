"""What a path on disk holds, as one CT volume: a folder, zip or file of DICOM, or a NIfTI file.

Not the node's archive, which keeps files under its own names and hands them to
`dicom_node.series` itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import pydicom

from core_model.reading import SliceReference
from dicom_node.errors import SightlineError
from dicom_node.nifti import is_nifti, load_nifti
from dicom_node.series import Progress, Survey, survey_files
from dicom_node.series_choice import choose_series, why_not
from dicom_node.series_pixels import load_series
from dicom_node.series_settings import SeriesSettings

# What one zip may hold once unpacked; counted while unpacking, not believed from its directory.
MAX_ZIP_BYTES = 16 << 30
MAX_ZIP_MEMBERS = 100_000
_CHUNK = 1 << 20
# Whoever names a path wants it read: where nothing axial is there, also a reformat.
_SETTINGS = SeriesSettings(reformats=True)
_SHOWN = 20  # lines of an error message that list series or files


@dataclass(frozen=True)
class CtInput:
    """One CT volume and where it came from.

    Attributes
    ----------
    volume: Hounsfield units, axial slices first; NIfTI in orientation "HPL".
    slices: slices[k] belongs to volume.array[k].
    sources: data set of each slice without pixels; empty for NIfTI.
    series_instance_uid: of the series, or None for NIfTI.
    grid: on which NIfTI results are written: the volume's own for DICOM, the file's for NIfTI.
    references: what names each slice (`dicom_node.instances.Instance.reference`); empty for NIfTI.
    title: what was read, for a person.
    notes: what a person must know of how slices became the volume.
    not_read: one line for each series and file that was left out, with the reason.
    """

    volume: hd.Volume
    slices: tuple[SliceReference, ...]
    sources: tuple[pydicom.Dataset, ...]
    series_instance_uid: str | None
    grid: hd.VolumeGeometry
    references: tuple[str, ...]
    title: str
    notes: tuple[str, ...]
    not_read: tuple[str, ...]


def open_ct(path: Path, *, progress: Progress | None = None) -> CtInput:
    """Read the CT volume that lies at a path; of several series the best one.

    Parameters
    ----------
    path: folder (searched to the bottom), zip or single file of DICOM, or .nii / .nii.gz.
    progress: called with the name of the stage and the fraction done.

    Raises
    ------
    SightlineError: if there is no such path or no readable CT in it; for every series that was
        found the message says why it is not readable.
    """
    if not path.exists():
        raise SightlineError(f"{path}: no such file or folder; check the path")
    if path.is_dir():
        files = _files_below(path)
        return _best_series(path, files, [str(file.relative_to(path)) for file in files], progress)
    if is_nifti(path):
        loaded = load_nifti(path)
        return CtInput(
            volume=loaded.volume,
            slices=loaded.slices,
            sources=(),
            series_instance_uid=None,
            grid=loaded.file_geometry,
            references=(),
            title=path.name,
            notes=(),
            not_read=(),
        )
    if _is_zip(path):
        with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
            files, names = _unpack(path, Path(folder))
            return _best_series(path, files, names, progress)
    return _best_series(path, [path], [path.name], progress)


def _files_below(folder: Path) -> list[Path]:
    """Regular files only: to open a named pipe would wait for ever."""
    paths = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sorted(path for path in paths if path.is_file())


def _is_zip(path: Path) -> bool:
    """By content, and by name where the content is cut off."""
    if not path.is_file():
        raise SightlineError(f"{path}: is neither a file nor a folder; check the path")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise SightlineError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    return start in (b"PK\x03\x04", b"PK\x05\x06") or path.suffix.lower() == ".zip"


def _best_series(path: Path, files: list[Path], names: list[str], progress: Progress | None) -> CtInput:
    survey = survey_files(files, names=names, settings=_SETTINGS, progress=progress)
    if not survey.candidates:
        raise SightlineError(_nothing_readable(path, files, survey))
    chosen = choose_series(survey.candidates, _SETTINGS)
    others = [f"{one}: {why_not(one, chosen, _SETTINGS)}" for one in survey.candidates if one is not chosen]
    not_read = (*others, *map(str, survey.refusals), *survey.unreadable)
    try:
        loaded = load_series(chosen, progress=progress)
    except SightlineError as error:
        raise SightlineError(_with_others(f"{path}: {chosen.title}: {error.message}", not_read)) from error
    return CtInput(
        volume=loaded.volume,
        slices=loaded.slices,
        sources=loaded.sources,
        series_instance_uid=loaded.series_instance_uid,
        grid=loaded.volume.get_geometry(),
        references=chosen.references,
        title=str(chosen),
        notes=loaded.notes,
        not_read=not_read,
    )


def _with_others(message: str, not_read: Sequence[str]) -> str:
    """A message about the series that was to be read, and below it what else is there."""
    if not not_read:
        return message
    return "\n".join([f"{message}; also there, and not read:", *_listed(not_read)])


def _listed(lines: Sequence[str]) -> list[str]:
    """Indented lines, the first of many."""
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [*(f"  {line}" for line in lines[:_SHOWN]), *more]


def _nothing_readable(path: Path, files: list[Path], survey: Survey) -> str:
    reasons = [*map(str, survey.refusals), *survey.unreadable]
    if not reasons:
        found = f"{len(files)} other file{'s' * (len(files) != 1)}" if files else "no files"
        hint = ""
        if any(file.name.lower().endswith((".zip", ".nii", ".nii.gz")) for file in files):
            hint = "; name a zip or NIfTI file itself, not its folder"
        return f"{path}: no DICOM files in it ({found}); give a folder or zip of DICOM CT, or .nii.gz{hint}"
    message = f"{path}: no readable CT series in it; give one axial CT series with all its slices"
    return "\n".join([message, *_listed(reasons)])


def _unpack(path: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Members of a zip as numbered files in `folder`: no name in the zip ever becomes a path.

    Raises
    ------
    SightlineError: if the zip is damaged, encrypted, or larger than what is unpacked.
    """
    files: list[Path] = []
    names: list[str] = []
    left = min(MAX_ZIP_BYTES, shutil.disk_usage(folder).free // 2)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > MAX_ZIP_MEMBERS:
                raise SightlineError(f"{path}: {len(members)} files; at most {MAX_ZIP_MEMBERS} are unpacked")
            for number, member in enumerate(members):
                if member.flag_bits & 0x1:
                    raise SightlineError(f"{path}: the zip is encrypted; unpack it and give the folder")
                target = folder / f"{number:06d}"
                left -= _unpack_member(archive, member, target, left)
                files.append(target)
                names.append("".join(char for char in member.filename if char.isprintable()))
    except _TooLargeError as error:
        raise SightlineError(
            f"{path}: unpacks to more than is allowed ({MAX_ZIP_BYTES >> 30} GiB) or than half of the "
            "free disk; unpack it yourself and give the folder"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise SightlineError(
            f"{path}: not a complete zip file ({type(error).__name__}); copy it again"
        ) from error
    return files, names


class _TooLargeError(Exception):
    """A zip holds more than may be unpacked."""


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, limit: int) -> int:
    """Number of bytes written; the size that the zip states is not believed."""
    written = 0
    with archive.open(member) as source, target.open("xb") as sink:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > limit:
                raise _TooLargeError
            sink.write(chunk)
    return written
