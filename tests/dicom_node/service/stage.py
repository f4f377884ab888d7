"""A service with a real archive and a small real model, and a study that was really read.

In-process by default (ASGI); `tests.dicom_node.service.test_run` has it behind a socket.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydicom.dataset import Dataset

from core_model.reader import Reader
from dicom_node import readings
from dicom_node.archive import Archive
from dicom_node.completeness import complete_studies
from dicom_node.config import Config
from dicom_node.index import Generation
from dicom_node.model_in_use import OneReader
from dicom_node.service.app import create_app
from dicom_node.service.parts import Parts
from tests.dicom_node.ct_series import Geometry, ct_series
from tests.dicom_node.test_workflow import put
from tests.tiny import tiny_checkpoint

TOKEN = "a-token-of-the-tests"
SHAPE, SPACING = (24, 40, 48), (6.0, 5.0, 4.0)


def series(root: str = "2.25.304", geometry: Geometry = "axial") -> list[Dataset]:
    """A series of 144 x 200 x 192 mm: some cells of the tiny model's grid along every axis."""
    return ct_series(geometry, shape=SHAPE, spacing=SPACING, uid_root=root)


@dataclass
class Stage:
    """A service and what it answers from."""

    config: Config
    archive: Archive
    reader: Reader
    parts: Parts = field(init=False)
    client: TestClient = field(init=False)

    def __post_init__(self) -> None:
        self.parts = Parts.of(self.config, self.archive, OneReader(self.reader))
        app = create_app(self.parts, TOKEN)
        self.client = TestClient(
            app, base_url="http://testserver/api/1", headers={"Authorization": f"Bearer {TOKEN}"}
        )

    def arrive(self, slices: Sequence[Dataset]) -> str:
        """Archive a study; its UID."""
        return put(self.archive, slices)

    def complete(self) -> list[Generation]:
        """Open a generation for each study that arrived, and choose its series."""
        opened = complete_studies(self.archive.index, self.config, now=2e10)
        return [readings.select(self.archive, self.config, self.reader.identity, g) for g in opened]

    def read(self, slices: Sequence[Dataset]) -> str:
        """Archive a study and read it, as the node does; its UID."""
        study = self.arrive(slices)
        for generation in self.complete():
            if generation.state == "queued":
                finished = readings.read(self.archive, self.config, self.reader, generation.id)
                readings.publish(self.archive, self.config, generation.id, finished)
        return study

    def folder(self, study: str) -> Path:
        """Where the results of a study lie."""
        with self.archive.index.reading() as session:
            key = session.scalar(
                sa.select(Generation.reading_key).where(
                    Generation.study_instance_uid == study, Generation.state == "read"
                )
            )
        assert key is not None
        return readings.results_folder(self.archive, key)


def make_stage(folder: Path, **service: Any) -> Stage:
    """A stage with an empty archive in `folder`; `service` replaces settings of the service."""
    checkpoint = folder / "checkpoint"
    tiny_checkpoint(checkpoint)
    config = Config(archive=folder / "archive", checkpoint=checkpoint)
    config = dataclasses.replace(config, service=dataclasses.replace(config.service, **service))
    return Stage(config, Archive.open(config), Reader.load(checkpoint, "cpu"))


def assert_refused(answer: Any, status: int, *words: str) -> None:
    """The answer is an error in the one shape, and names the words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-sightline-api"] == "1"
    body = answer.json()
    assert set(body) == {"error", "cure"}
    for sentence in body.values():
        assert sentence
        assert "\n" not in sentence
    for word in words:
        assert word in body["error"], body
