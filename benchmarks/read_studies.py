"""Studies that a node has received and read, without a network: ``python -m benchmarks.read_studies``.

For benchmarks and tests that need a read study in an archive and not the way there: the archive, the
completeness rule, the reader and the files are the node's own, only the association is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pydicom

from core_model.reader import Reader
from dicom_node import readings
from dicom_node.archive import Archive, Received
from dicom_node.completeness import complete_studies
from dicom_node.config import Config, load_config


def archive_folder(archive: Archive, folder: Path) -> str:
    """Archive the CT images of a folder as if they had come over one association.

    Returns
    -------
    Study Instance UID of the last file.

    Raises
    ------
    ValueError: if there is no .dcm file in the folder.
    """
    association, study = archive.open_association("FOLDER"), ""
    for path in sorted(folder.glob("*.dcm")):
        content = path.read_bytes()
        header = pydicom.dcmread(path, stop_before_pixels=True)
        study = str(header.StudyInstanceUID)
        archive.store(
            Received(
                sop_instance_uid=str(header.SOPInstanceUID),
                sop_class_uid=str(header.SOPClassUID),
                study_instance_uid=study,
                series_instance_uid=str(header.SeriesInstanceUID),
                transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
                is_ct=True,
                content=content,
                sha256=hashlib.sha256(content).hexdigest(),
            ),
            association,
        )
    archive.close_association(association)
    if not study:
        raise ValueError(f"folder {folder} holds no .dcm file; name a folder of CT images")
    return study


def read_waiting(archive: Archive, config: Config, reader: Reader) -> list[str]:
    """Complete every study that arrived and read it; their Study Instance UIDs.

    Raises
    ------
    RuntimeError: if one is not read; the message says why.
    """
    done = []
    for opened in complete_studies(archive.index, config, now=time.time() + 1e6):
        generation = readings.select(archive, config, reader.identity, opened)
        if generation.state != "queued":
            raise RuntimeError(f"a study is {generation.state} and not read: {generation.reason}")
        finished = readings.read(archive, config, reader, generation.id)
        readings.publish(archive, config, generation.id, finished)
        done.append(generation.study_instance_uid)
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.read_studies", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="a folder of CT images each")
    parser.add_argument("--config", type=Path, required=True, help="of the node")
    given = parser.parse_args(arguments)
    config = load_config(given.config)
    archive = Archive.open(config)
    reader = Reader.load(config.checkpoint, "cpu")
    for folder in given.folders:
        archive_folder(archive, folder)
    print(json.dumps(read_waiting(archive, config, reader)))


if __name__ == "__main__":
    main()
