"""Retrieval as published: ranks and recall, Merlin's pools, and three definitions of MAP@K between volumes.

Functions of similarity matrices; vectors are unit length. Every function gives a value per query, so that
intervals can be drawn by patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
RECALL_AT = (1, 5, 10, 50, 100)
MAP_AT = (1, 5, 10, 50)
POOLS = (32, 64, 128)
REPEATS = 100


def own_ranks(similarity: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(N,) rank of candidate i for query i, 1 is first; ties count against it.

    The published code knows no other right answer: a volume with the same report is a wrong one.

    Parameters
    ----------
    similarity: (N, N), query i (row) against candidate j.

    >>> own_ranks([[0.9, 0.1], [0.8, 0.2]])
    array([1, 2])
    """
    s = np.asarray(similarity, dtype=np.float64)
    return np.asarray((s >= np.diagonal(s)[:, None]).sum(1), dtype=np.int64)


def pool_recall(
    queries: Vectors,
    candidates: Vectors,
    pool: int,
    *,
    repeats: int = REPEATS,
    seed: int = 42,
) -> Floats:
    """Recall at 1 in pools that do not overlap, of each repeat (Merlin's protocol).

    As RadFinder's ``pool_retrieval_task.py``: all items are shuffled and cut into pools, a rest that fills
    none is left out, and hits are counted over all pools.

    Parameters
    ----------
    queries, candidates: (N, E), i belongs to i.
    pool: items per pool.

    Returns
    -------
    (repeats,); empty where there are fewer items than one pool holds.
    """
    count = len(queries)
    if count < pool:
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    similarity = queries.astype(np.float64) @ candidates.astype(np.float64).T
    found = np.zeros(repeats)
    for repeat in range(repeats):
        order = np.arange(count)
        rng.shuffle(order)
        starts = range(0, count - pool + 1, pool)
        hits = [
            int((own_ranks(similarity[np.ix_(own, own)]) == 1).sum())
            for own in (order[start : start + pool] for start in starts)
        ]
        found[repeat] = sum(hits) / (pool * len(starts))
    return found


def _ranked(similarity: Floats, most: int, *, itself: bool) -> npt.NDArray[np.int64]:
    """(N, most) best candidates of each query, best first; without the query unless `itself`."""
    s = similarity.copy()
    if not itself:
        np.fill_diagonal(s, -np.inf)
    return np.argsort(-s, axis=1, kind="stable")[:, :most]


def _average_precision(right: Bools) -> Floats:
    """(N, K) summed precision at the ranks of right answers up to each K."""
    precision = np.cumsum(right, axis=1) / np.arange(1, right.shape[1] + 1)
    return np.asarray(np.cumsum(precision * right, axis=1))


def map_exact(vectors: Vectors, labels: Bools, at: Sequence[int] = MAP_AT) -> dict[int, Floats]:
    """SPECTRE's average precision: right is who has exactly the query's labels, the healthy included.

    Divided by the right ones that could be among the first K; queries without a right answer are NaN
    (``eval/retrieval_ct_rate.py``).

    Parameters
    ----------
    vectors: (N, E) unit length.
    labels: (N, L).

    Returns
    -------
    K -> (N,) per query; a K above the number of candidates is that number.
    """
    count = len(vectors)
    _, groups = np.unique(labels, axis=0, return_inverse=True)
    groups = np.asarray(groups).ravel()
    others = np.bincount(groups)[groups] - 1  # (N,)
    best = _ranked(_similar(vectors), min(max(at), count - 1), itself=False)
    sums = _average_precision(np.asarray(groups[best] == groups[:, None]))
    found = {}
    for k in at:
        divisor = np.where(others > 0, np.minimum(others, k), np.nan)
        found[k] = sums[:, min(k, sums.shape[1]) - 1] / divisor
    return found


def map_shared(vectors: Vectors, labels: Bools, at: Sequence[int] = MAP_AT) -> dict[int, Floats]:
    """RadFinder's average precision: right is who shares any label; only the abnormal ask and are found.

    Divided by K (``volume_retrieval_task.py``). Parameters and result as `map_exact`; the healthy are NaN.
    """
    abnormal = np.flatnonzero(labels.any(1))
    found = {k: np.full(len(vectors), np.nan) for k in at}
    if len(abnormal) < 2:
        return found
    own = labels[abnormal]
    best = _ranked(_similar(vectors[abnormal]), min(max(at), len(abnormal) - 1), itself=False)
    sums = _average_precision(np.asarray((own[best] & own[:, None]).any(2)))
    for k in at:
        found[k][abnormal] = sums[:, min(k, sums.shape[1]) - 1] / k
    return found


def map_overlap(
    vectors: Vectors, labels: Bools, at: Sequence[int] = MAP_AT, *, itself: bool = True
) -> dict[int, Floats]:
    """CT-CLIP's mean overlap: labels in common / labels of either, averaged over the first K.

    Everybody asks, the abnormal are found, and with `itself` a query finds itself as well: its code does not
    exclude it (``volume_to_volume_new.py``). No precision at all, though it is called MAP. Parameters and
    result as `map_exact`.
    """
    abnormal = np.flatnonzero(labels.any(1))
    if not len(abnormal):
        return {k: np.full(len(vectors), np.nan) for k in at}
    s = _similar(vectors)[:, abnormal]  # (N, A)
    if not itself:
        s[abnormal, np.arange(len(abnormal))] = -np.inf
    best = abnormal[np.argsort(-s, axis=1, kind="stable")[:, : max(at)]]  # (N, max K or fewer)
    common = (labels[best] & labels[:, None]).sum(2)
    either = (labels[best] | labels[:, None]).sum(2)
    overlap = common / either  # a candidate is abnormal: `either` is never 0
    if not itself:
        overlap[best == np.arange(len(vectors))[:, None]] = np.nan
    return {k: _mean(overlap[:, :k]) for k in at}


def as_accumulated(per_query: dict[int, Floats]) -> dict[int, float]:
    """K -> what CT-CLIP's script writes: its list is never emptied, so each K averages those before too."""
    found, every = {}, np.zeros(0)
    for k, values in per_query.items():
        every = np.concatenate([every, values])
        found[k] = float(np.mean(every))
    return found


def _similar(vectors: Vectors) -> Floats:
    wide = vectors.astype(np.float64)
    return np.asarray(wide @ wide.T)


def _mean(values: Floats) -> Floats:
    known = ~np.isnan(values)
    return np.where(known.any(1), np.where(known, values, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)
