"""What the routes of the service share: made once when it starts, handed to each request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.service.answering import Answering, GivesAsker
from dicom_node.service.archive_search import ArchiveSearch
from dicom_node.service.encodings import EncodingCache
from dicom_node.service.jobs import Jobs
from dicom_node.service.slice_source import SliceSource


@dataclass(frozen=True)
class Parts:
    """Everything that answers are made of.

    Attributes
    ----------
    config: of the node.
    archive: files and index.
    answering: the models that embed texts and find places; kept up to date by `running`.
    encodings: those that were asked lately.
    jobs: what takes longer than an answer may.
    slices: what pictures of slices are made of.
    """

    config: Config
    archive: Archive
    answering: Answering
    encodings: EncodingCache
    jobs: Jobs
    slices: SliceSource

    @classmethod
    def of(cls, config: Config, archive: Archive, models: GivesAsker) -> Parts:
        """The parts of a service that answers for `archive`, by the model that `models` gives."""
        encodings = EncodingCache(config.service.cache_mib << 20)
        answering, jobs = Answering(config, archive, models), Jobs(config, archive)
        return cls(config, archive, answering, encodings, jobs, SliceSource(archive))

    @property
    def search(self) -> ArchiveSearch:
        """Over all studies that the model in use has read."""
        return self.answering.now.search

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do jobs, and keep model and search up to date as long as this is entered."""
        stop = threading.Event()
        keepers = [
            threading.Thread(target=self.answering.search_on, args=(stop,), name="search", daemon=True),
            threading.Thread(target=self.answering.keep_up, args=(stop,), name="model", daemon=True),
        ]
        self.jobs.start()
        for keeper in keepers:
            keeper.start()
        try:
            yield
        finally:
            stop.set()
            self.jobs.close()
            for keeper in keepers:
                keeper.join(timeout=5)


async def _parts(request: Request) -> Parts:  # a plain function would cost a change of threads
    return cast(Parts, request.app.state.parts)


Shared = Annotated[Parts, Depends(_parts)]
