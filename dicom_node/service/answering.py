"""Which model answers: the one in use for all studies together, for one study the one that read it.

Texts and encodings of different models are never compared: they lie in different spaces. Not the models'
files (`dicom_node.model_store`). What was promoted is loaded beside the one that answers, then takes its
place between two requests; each request sees one or the other. After that, the search over all studies finds
what the new model has read, and older studies still answer one by one, by the model that read them, as long
as its checkpoint is there.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from core_model.question import Question
from core_model.reading import ModelIdentity
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.model_in_use import load_model
from dicom_node.service.archive_search import ArchiveSearch
from dicom_node.service.errors import ApiError
from dicom_node.service.texts import TextCache
from dicom_node.words import in_words

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
KEPT = 2  # earlier models in memory at once


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


class GivesAsker(Protocol):
    """Where the service has its model from (`dicom_node.model_in_use`)."""

    def current(self) -> CanAsk:
        """The model in use."""


@dataclass(frozen=True)
class Answerer:
    """One model and the questions that were put to it lately."""

    reader: CanAsk
    texts: TextCache

    @classmethod
    def of(cls, reader: CanAsk) -> Answerer:
        """For a model."""
        return cls(reader, TextCache(reader.questions))


@dataclass(frozen=True)
class Current(Answerer):
    """The model in use, and its search over all studies that it has read."""

    search: ArchiveSearch


class Answering:
    """Safe to share between threads.

    Parameters
    ----------
    config, archive: of the node.
    models: gives the model in use.
    """

    def __init__(self, config: Config, archive: Archive, models: GivesAsker) -> None:
        self._config = config
        self._archive = archive
        self._models = models
        self._now = self._make(models.current())
        self._earlier: OrderedDict[str, Answerer] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def now(self) -> Current:
        """What answers at this moment. Take it once for each request."""
        return self._now

    def by(self, model: ModelIdentity) -> Answerer:
        """What answers for a study that `model` read.

        Raises
        ------
        ApiError: 409, that model's checkpoint is gone.
        """
        now = self._now
        if model.digest == now.reader.identity.digest:
            return now
        with self._lock:
            if model.digest in self._earlier:
                self._earlier.move_to_end(model.digest)
                return self._earlier[model.digest]
            try:
                found = Answerer.of(load_model(self._config, model.digest, "cpu"))
            except SightlineError as error:
                logger.warning("earlier model cannot answer error=%s", in_words(error))
                raise ApiError(
                    409,
                    f"the study was read by model {model.name} {model.version}, another one answers now",
                    "send the study again, so that this model reads it",
                ) from None
            self._earlier[model.digest] = found
            while len(self._earlier) > KEPT:
                self._earlier.popitem(last=False)
        return found

    def keep_up(self, stop: threading.Event) -> None:
        """Take up what is promoted, until `stop` is set."""
        while not stop.wait(POLL_SECONDS):
            self.refresh()

    def refresh(self) -> bool:
        """Take up what was promoted; whether anything was."""
        reader = self._models.current()
        if reader.identity.digest == self._now.reader.identity.digest:
            return False
        self._now = self._make(reader)
        return True

    def search_on(self, stop: threading.Event) -> None:
        """Keep the search over all studies up to date until `stop` is set."""
        while not stop.is_set():
            search = self._now.search
            search.keep_up(stop, partial(self._is_current, search))

    def _is_current(self, search: ArchiveSearch) -> bool:
        return search is self._now.search

    def _make(self, reader: CanAsk) -> Current:
        reader.questions(["lesion"])  # embeds the dictionary: the first to ask would wait a second for it
        search = ArchiveSearch(self._archive, reader.identity.digest, by_slab=reader.by_slab)
        return Current(reader, TextCache(reader.questions), search)
