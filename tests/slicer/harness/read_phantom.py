"""A phantom study, archived and really read: ``python -m tests.slicer.harness.read_phantom PHANTOM CONFIG``.

A process of its own: torch does not belong beside Slicer's libraries. The study is short and coarse, so
that it is made and read in seconds; the model is the configured one, or the shipped one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.read_studies import archive_folder, read_waiting
from core_model.reader import Reader
from dicom_node.archive import Archive
from dicom_node.config import load_config
from training.phantoms.study import write_study

SEED = 1
LESION_MM = 45.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phantom", type=Path, help="folder that is made")
    parser.add_argument("config", type=Path, help="of the node")
    given = parser.parse_args(arguments)
    write_study(
        SEED,
        given.phantom,
        lesions=[("liver_tumour", LESION_MM)],
        phase="portal venous",
        spacing_mm=4.0,
        height_mm=200.0,
        coverage="abdomen",
    )
    config = load_config(given.config)
    archive = Archive.open(config)
    archive_folder(archive, given.phantom / "dicom")
    read_waiting(archive, config, Reader.load(config.checkpoint, "cpu"))


if __name__ == "__main__":
    main()
