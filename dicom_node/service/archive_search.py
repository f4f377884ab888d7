"""A text over all studies of the archive: the best studies, and where in each.

A text that means an abnormality finds the studies whose reading thinks it most probable, at its evidence: a
trained finding knows more than words do. Every other text is compared with places.

Exact: every landmark of every study is compared, one matrix product per block, and the best per study counts.
A graph index (usearch, hnswlib, faiss) finds single vectors faster but not the best *studies*, and has to be
built at every start. Of exact searches over 1.28 million vectors of 64 numbers on one core, numpy's BLAS with
the maximum per study took 63 ms, usearch's exact search in half precision 190 to 220 ms. Landmarks lie beside
a study's results, so a start only reads them. Uploaded volumes are not part of the archive and not searched.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from core_model.encoding_file import EncodingError
from core_model.question import Question
from dicom_node.archive import Archive, results_folder
from dicom_node.index import ReadingRow
from dicom_node.removed import RemovedReading
from dicom_node.service.landmark_file import Landmarked, hit_of, make_landmarks, stored_landmarks
from dicom_node.service.models import Hit
from dicom_node.words import in_words

logger = logging.getLogger(__name__)

BLOCK_ROWS = 1 << 16
POLL_SECONDS = 1.0
SPARE = 5  # studies beyond those asked for, because the files of some may be gone
# A commit may become visible a little later than the time that it holds.
OVERLAP_SECONDS = 60.0

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """One study that was found, best place and score."""

    study_instance_uid: str
    series_instance_uid: str
    score: float
    hit: Hit


@dataclass(frozen=True)
class _Entry:
    """One study in the matrix; `probability` of its findings, by abnormality."""

    study: str
    series: str
    key: str
    folder: Path
    probability: dict[str, float] = field(default_factory=dict)


@dataclass
class _Block:
    """Some rows of the matrix; `starts[n]` is the first row of `entries[n]`."""

    rows: Floats
    used: int = 0
    starts: list[int] = field(default_factory=list)
    entries: list[_Entry | None] = field(default_factory=list)


class ArchiveSearch:
    """Safe to share between threads: one adds, others search.

    Parameters
    ----------
    archive: whose readings are searched.
    digest: of the model that answers; what another model read is left out.
    by_slab: as of `core_model.landmarks.landmarks`.
    """

    def __init__(self, archive: Archive, digest: str, *, by_slab: bool) -> None:
        self._archive = archive
        self._digest = digest
        self._by_slab = by_slab
        self._blocks: list[_Block] = []
        self._where: dict[str, tuple[int, int]] = {}  # study -> block, entry
        self._seen: set[str] = set()
        self._since = 0.0
        self._lock = threading.Lock()

    @property
    def searched(self) -> int:
        """How many studies are searched."""
        return len(self._where)

    def keep_up(self, stop: threading.Event, wanted: Callable[[], bool] = lambda: True) -> None:
        """Add what is read until `stop` is set, or this search is no longer `wanted`."""
        while not stop.is_set() and wanted():
            try:
                self.refresh(stop)
            except sa.exc.DBAPIError as error:  # the database is busy or away: the next round tries again
                logger.warning("search is not up to date error=%s", in_words(error))
            stop.wait(POLL_SECONDS)

    def refresh(self, stop: threading.Event | None = None) -> int:
        """Add readings that were finished since the last call; returns how many."""
        with self._archive.index.reading() as session:
            rows = session.execute(
                sa.select(
                    ReadingRow.key,
                    ReadingRow.study_instance_uid,
                    ReadingRow.series_instance_uid,
                    ReadingRow.finished_at,
                )
                .where(ReadingRow.finished_at >= self._since - OVERLAP_SECONDS)
                .order_by(ReadingRow.finished_at)
            ).all()
            removed = set(session.scalars(sa.select(RemovedReading.reading_key)))
        added = 0
        for key, study, series, finished_at in rows:
            if stop is not None and stop.is_set():
                break
            self._since = max(self._since, finished_at)
            if key in removed and not results_folder(self._archive, key).exists():
                continue
            if key not in self._seen:
                self._seen.add(key)
                added += self._take(_Entry(study, series, key, results_folder(self._archive, key)))
        return added

    def _take(self, entry: _Entry) -> bool:
        try:
            kept = stored_landmarks(entry.folder, self._digest)
            if kept is None:
                kept = make_landmarks(entry.folder, self._digest, by_slab=self._by_slab)
        except (EncodingError, ValueError, LookupError, OSError) as error:
            logger.warning("reading is not searched key=%s error=%s", entry.key[:12], in_words(error))
            return False
        self.add(entry.study, entry.series, entry.key, kept, entry.folder)
        return True

    def add(self, study: str, series: str, key: str, kept: Landmarked, folder: Path) -> None:
        """Search a study from now on; an earlier reading of it no longer.

        Parameters
        ----------
        kept: of the study, with 1 to `BLOCK_ROWS` vectors.
        folder: where its file lies (`dicom_node.service.landmark_file`).
        """
        vectors = kept.vectors
        with self._lock:
            if not self._blocks or self._blocks[-1].used + len(vectors) > BLOCK_ROWS:
                self._blocks.append(_Block(np.empty((BLOCK_ROWS, vectors.shape[1]), np.float32)))
            block = self._blocks[-1]
            block.rows[block.used : block.used + len(vectors)] = vectors
            if study in self._where:
                number, place = self._where[study]
                self._blocks[number].entries[place] = None
            self._where[study] = len(self._blocks) - 1, len(block.entries)
            block.starts.append(block.used)
            block.entries.append(_Entry(study, series, key, folder, kept.probability))
            block.used += len(vectors)

    def search(self, question: Question, k: int) -> list[Found]:
        """The `k` best studies for a text, best first: by its finding where it means one, else by words.

        By a finding, studies that do not show its organ are none of them.
        """
        if question.abnormality is not None:
            return self.by_finding(question.abnormality, k)
        return self.by_words(question.embedding, k)

    def by_finding(self, abnormality: str, k: int) -> list[Found]:
        """The `k` studies in whose readings an abnormality is most probable, with its evidence."""
        with self._lock:
            entries = [e for b in self._blocks for e in b.entries if e is not None]
        # No ten thousand tuples: they would set off a collection of garbage, which takes longer than this.
        shown = (e for e in entries if abnormality in e.probability)
        likely = heapq.nlargest(k + SPARE, shown, key=lambda e: e.probability[abnormality])
        return _found([(e.probability[abnormality], e, abnormality) for e in likely], k)

    def by_words(self, embedding: Floats, k: int) -> list[Found]:
        """The `k` studies with the places that are nearest to a unit vector (E,)."""
        with self._lock:
            # Rows under `used` never change, so that the products need no lock.
            blocks = [(b.rows[: b.used], np.array(b.starts), list(b.entries)) for b in self._blocks]
        ranked: list[tuple[float, _Entry, int | str]] = []
        for rows, starts, entries in blocks:
            scores = rows @ embedding
            best = np.maximum.reduceat(scores, starts)
            best[[n for n, entry in enumerate(entries) if entry is None]] = -np.inf
            for n in np.argsort(-best, kind="stable")[:k]:
                entry = entries[n]
                if entry is not None:
                    end = starts[n + 1] if n + 1 < len(starts) else len(scores)
                    row = int(scores[starts[n] : end].argmax())
                    ranked.append((float(best[n]), entry, row))
        ranked.sort(key=lambda found: -found[0])
        return _found(ranked, k)


def _found(ranked: Sequence[tuple[float, _Entry, int | str]], k: int) -> list[Found]:
    """The first `k` whose files are still there, with their places out of these."""
    found: list[Found] = []
    for score, entry, which in ranked[: k + SPARE]:
        hit = hit_of(entry.folder, which)
        if hit is not None and len(found) < k:
            hit.score = round(score, 6)
            found.append(Found(entry.study, entry.series, hit.score, hit))
    return found
