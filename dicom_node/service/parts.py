"""What the routes of the service share: made once when it starts, handed to each request."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from core_model.question import Question
from core_model.reading import ModelIdentity
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.service.archive_search import ArchiveSearch
from dicom_node.service.encodings import EncodingCache
from dicom_node.service.jobs import Jobs
from dicom_node.service.slice_source import SliceSource
from dicom_node.service.texts import TextCache


class CanAsk(Protocol):
    """What is asked of `core_model.reader.Reader`."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model answers."""

    @property
    def by_slab(self) -> bool:
        """Whether slabs decide on the axial position."""

    def questions(self, texts: Sequence[str]) -> list[Question]:
        """Texts as questions; ValueError where one holds nothing to look for."""


@dataclass(frozen=True)
class Parts:
    """Everything that answers are made of.

    Attributes
    ----------
    config: of the node.
    archive: files and index.
    reader: embeds texts and finds places.
    encodings: those that were asked lately.
    texts: the questions that were asked lately.
    search: over all studies; kept up to date by `start`.
    jobs: what takes longer than an answer may.
    slices: what pictures of slices are made of.
    """

    config: Config
    archive: Archive
    reader: CanAsk
    encodings: EncodingCache
    texts: TextCache
    search: ArchiveSearch
    jobs: Jobs
    slices: SliceSource

    @classmethod
    def of(cls, config: Config, archive: Archive, reader: CanAsk) -> Parts:
        """The parts of a service that answers for `archive`."""
        encodings = EncodingCache(config.service.cache_mib << 20)
        search = ArchiveSearch(archive, reader.identity.digest, by_slab=reader.by_slab)
        texts, jobs = TextCache(reader.questions), Jobs(config, archive)
        return cls(config, archive, reader, encodings, texts, search, jobs, SliceSource(archive))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do jobs and keep the search up to date as long as this is entered."""
        stop = threading.Event()
        keeper = threading.Thread(target=self.search.keep_up, args=(stop,), name="search", daemon=True)
        self.jobs.start()
        keeper.start()
        try:
            yield
        finally:
            stop.set()
            self.jobs.close()
            keeper.join(timeout=5)


def _parts(request: Request) -> Parts:
    return cast(Parts, request.app.state.parts)


Shared = Annotated[Parts, Depends(_parts)]
