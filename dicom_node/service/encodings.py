"""Encodings of studies in memory: each loaded once, the least recently asked dropped first.

Bounded by bytes, not by number: a whole body takes ten times the memory of a liver.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from core_model.encoding_file import EncodingError, load_encoding
from core_model.localization import Searchable
from dicom_node.reading_files import ENCODING
from dicom_node.service.catalogue import Results
from dicom_node.service.errors import ApiError


class EncodingCache:
    """Safe to share between threads; two that ask for one study at once load it once.

    Parameters
    ----------
    max_bytes: memory for all encodings together; one that alone is larger is used and not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Searchable] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self.loads = 0

    def get(self, held: Results) -> Searchable:
        """The encoding of a study, ready to be asked.

        Raises
        ------
        ApiError: 409, its file is missing or damaged.
        """
        with self._lock:
            found = self._found(held.key)
            if found is not None:
                return found
            gate = self._loading.setdefault(held.key, threading.Lock())
        with gate:
            with self._lock:
                found = self._found(held.key)
            if found is None:
                found = self._load(held)
        return found

    @property
    def nbytes(self) -> int:
        """Memory that is taken now."""
        return self._bytes

    def _found(self, key: str) -> Searchable | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _load(self, held: Results) -> Searchable:
        try:
            loaded = Searchable(load_encoding(held.folder / ENCODING))
        except EncodingError:
            raise ApiError(
                409, "the stored encoding of the study is missing or damaged", "send the study again"
            ) from None
        finally:
            with self._lock:
                self._loading.pop(held.key, None)
        with self._lock:
            self.loads += 1
            if loaded.nbytes <= self._max_bytes:
                self._kept[held.key] = loaded
                self._bytes += loaded.nbytes
            while self._bytes > self._max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes
        return loaded
