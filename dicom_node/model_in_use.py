"""The model that a process has loaded, and its exchange when another one was promoted.

A process looks at the pointer between two pieces of work and never in the middle of one. Not what is in use
(`dicom_node.model_store`). A promoted checkpoint that cannot be loaded is refused for all processes, so that
no two of them read with different models for long, and the one before stays.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from core_model.organ_segmenter import OrganSegmenter
from core_model.reader import Reader
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.model_store import folder_by_model, folder_of, read_pointer, refuse
from dicom_node.organ_drawing import organ_segmenter
from dicom_node.readings import CanRead
from dicom_node.words import in_words

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 10.0  # pause before what could not be looked at is looked at again; our choice


class GivesReader(Protocol):
    """Where a process has its model from."""

    def current(self) -> CanRead:
        """The model to begin the next study with."""


class OneReader:
    """One model for ever: for programs that promote nothing."""

    def __init__(self, reader: CanRead) -> None:
        self._reader = reader

    def current(self) -> CanRead:
        """That model."""
        return self._reader


class ModelInUse:
    """The model that the node uses, loaded. Safe to share between threads; what it gives is not.

    Parameters
    ----------
    config: of the node.
    device: what it runs on; None as in `core_model.reader.Reader.load`.

    Raises
    ------
    SightlineError: the configured checkpoint cannot be loaded, and no promoted one either; or what draws the
        organs cannot be used.
    """

    def __init__(self, config: Config, device: str | None) -> None:
        self._config = config
        self._device = device
        self._lock = threading.Lock()
        self._segmenter = organ_segmenter(config)
        self._look_at = 0.0  # monotonic seconds
        self._digest, self._reader = self._start()

    def current(self) -> Reader:
        """The model in use; another one than the last time where one was promoted meanwhile."""
        with self._lock:
            if time.monotonic() < self._look_at:
                return self._reader
            try:
                wanted = read_pointer(self._config).digest
                if wanted != self._digest:
                    self._exchange(wanted)
            except (SightlineError, OSError) as error:  # the disk is away, the pointer damaged
                logger.error("promoted model cannot be had, the old one stays error=%s", in_words(error))
                self._look_at = time.monotonic() + AGAIN_SECONDS
            return self._reader

    def _start(self) -> tuple[str, Reader]:
        while True:
            digest = read_pointer(self._config).digest
            try:
                return digest, self._load(digest)
            except (OSError, ValueError, RuntimeError) as error:
                if not digest or isinstance(error, OSError):  # a disk that is away is no fault of a model
                    raise SightlineError(f"checkpoint or device: {error}") from error
                self._refuse(digest, error)

    def _load(self, digest: str) -> Reader:
        return Reader.load(folder_of(self._config, digest), self._device, self._segmenter)

    def _exchange(self, wanted: str) -> None:
        try:
            reader = self._load(wanted)
        except (OSError, ValueError, RuntimeError) as error:
            if not wanted or isinstance(error, OSError):
                raise SightlineError(f"checkpoint or device: {error}") from error
            back = self._refuse(wanted, error)
            if back != self._digest:  # several were promoted while this process looked away
                self._exchange(back)
            return
        self._digest, self._reader = wanted, reader
        identity = reader.identity
        logger.info(
            "model taken up model=%s version=%s digest=%s",
            identity.name,
            identity.version,
            identity.digest[:12],
        )

    def _refuse(self, digest: str, error: Exception) -> str:
        """Refuse a promoted checkpoint; what is in use now."""
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        logger.error(
            "promoted model refused, the one before is used digest=%s error=%s", digest[:12], in_words(error)
        )
        return refuse(self._config, digest, reason).digest


def load_model(
    config: Config, digest: str, device: str | None, segmenter: OrganSegmenter | None = None
) -> Reader:
    """The model of a digest, whether it is in use or not: what made an encoding also embeds its questions.

    Parameters
    ----------
    segmenter: what draws the organs; None where nothing is read, or the model's own head does.

    Raises
    ------
    SightlineError: it is no longer there, or cannot be loaded.
    """
    folder = folder_by_model(config, digest)
    if folder is None:
        raise SightlineError(f"model {digest[:12]} is no longer there")
    try:
        reader = Reader.load(folder, device, segmenter)
    except (OSError, ValueError, RuntimeError) as error:
        raise SightlineError(f"model {digest[:12]} cannot be loaded: {error}") from error
    if reader.identity.digest != digest:
        raise SightlineError(f"model {digest[:12]} is no longer there")
    return reader
