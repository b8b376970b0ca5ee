"""
The exact scan: the inner product of a query with every vector, or with those that are allowed.

One query is bound by memory, so one pass reads each vector once and skips those not allowed. Many
queries at once are bound by arithmetic, so they go through BLAS, which FAISS does only from a
threshold on: with its default it computes each query by itself.
"""

from __future__ import annotations

import faiss
import numba
import numpy as np

from funnel.types import Array, best
from recall.masks import Mask

ALL = np.empty(0, np.bool_)
SPARE = 1024  # places that are found before the worst of them are left behind, beside the limit

# Of queries times vectors; FAISS's default lets batches of hundreds go query by query.
faiss.cvar.distance_compute_blas_threshold = 1


def scan(vectors: Array, query: Array, mask: Mask | None, limit: int) -> tuple[Array, Array]:
    """The `limit` places of highest inner product, best first, ties by place: (k,) int32, (k,).

    `vectors` (n, d) float32, `query` (d,), `mask` (n,) or None for all. What has no product with
    the query, as an all-zero vector, is not found.
    """
    query = np.ascontiguousarray(query, np.float32)
    rows, scores = _first(vectors, query, ALL if mask is None else mask, max(limit, 1))
    order = best(scores, rows, limit)
    return rows[order], scores[order]


def rescored(vectors: Array, query: Array, rows: Array, limit: int) -> tuple[Array, Array]:
    """The best `limit` of `rows` by their exact products, for indices that keep only codes."""
    rows = np.sort(rows)  # memory is read in its order
    scores = _of(vectors, np.ascontiguousarray(query, np.float32), rows)
    order = best(scores, rows, limit)
    return rows[order], scores[order]


def scan_batch(vectors: Array, queries: Array, limit: int) -> tuple[Array, Array]:
    """Places and products (q, limit) of many queries, best first, by BLAS over all vectors."""
    queries = np.ascontiguousarray(queries, np.float32)
    limit = min(limit, len(vectors))
    scores, rows = faiss.knn(queries, vectors, limit, metric=faiss.METRIC_INNER_PRODUCT)
    return rows, scores


# Sums may be reordered, so that a row's products fill the vector registers. All callers of one
# kernel share one order: the score of an item does not depend on who else is allowed.
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _first(vectors, query, mask, limit):  # type: ignore[no-untyped-def]  # pragma: no cover
    """What may be among the first `limit`, by row; what is worse than so many is left behind."""
    n, d = vectors.shape
    every = len(mask) == 0
    room = min(2 * limit + SPARE, n + 1)
    rows, scores = np.empty(room, np.int32), np.empty(room, np.float32)
    count, least = 0, np.float32(-np.inf)
    for row in range(n):
        if every or mask[row]:
            total = np.float32(0)
            for axis in range(d):
                total += vectors[row, axis] * query[axis]
            # Rows rise, so that one as good as the last of `limit` loses to it.
            if total > least and total != 0:
                rows[count], scores[count] = row, total
                count += 1
                if count == room:
                    least = np.partition(scores, room - limit)[room - limit]
                    equal = limit - np.sum(scores > least)
                    count = 0
                    for place in range(room):
                        if scores[place] == least:
                            equal -= 1
                        if scores[place] > least or (scores[place] == least and equal >= 0):
                            rows[count], scores[count] = rows[place], scores[place]
                            count += 1
    return rows[:count], scores[:count]


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _of(vectors, query, rows):  # type: ignore[no-untyped-def]  # pragma: no cover
    scores = np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        row = rows[place]
        total = np.float32(0)
        for axis in range(vectors.shape[1]):
            total += vectors[row, axis] * query[axis]
        scores[place] = total
    return scores
