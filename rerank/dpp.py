"""
Determinantal point process: the page whose vectors span most, each as long as it is relevant.

    L = diag(q) S diag(q),  q_i = exp(α r_i),  S the cosines,  α = (1 − λ) / 2λ

Chosen greedily for log det L by the incremental Cholesky factor of Chen, Zhang and Zhou 2018, "Fast
greedy MAP inference for determinantal point process" (https://arxiv.org/abs/1709.05135), within a
sliding window: an item is held against the `window − 1` before it only. Where the vectors of a
window span all there is, what is left is chosen by relevance. r are the scores brought to [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from funnel.types import Array, Candidates, Query
from rerank.spread import Vectors, spread

LEAST = 1e-10  # of a squared distance to what was chosen; below it there is none


@dataclass(frozen=True)
class DPP:
    """`diversity` λ in (0, 1]. Items without a vector are like nothing. Ties go to the better
    score, then the lower row."""

    vectors: Vectors
    diversity: float
    window: int = 10

    def select(self, query: Query, candidates: Candidates) -> Array:
        return spread(query, candidates, self.vectors, self._pick)

    def _pick(self, relevance: Array, vectors: Array, keep: int) -> Array:
        weight = (1 - self.diversity) / self.diversity * relevance
        found: Array = greedy(weight, np.ascontiguousarray(vectors), keep, self.window)
        return found


@numba.njit(nogil=True, cache=True)
def greedy(weight, vectors, keep, window):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(keep,) places; `weight` (n,) is log q²."""
    n = len(weight)
    picked = np.empty(keep, np.int64)
    chosen = np.zeros(n, np.bool_)
    alike = np.empty((keep, n))  # cosines to the chosen ones
    factor = np.empty((window, n))  # rows of the Cholesky factor
    for place in range(keep):
        first = max(place - window + 1, 0)
        distance = np.ones(n)  # squared, of each to the span of the window
        rank = 0
        for k in range(first, place):
            item = picked[k]
            if distance[item] < LEAST:
                continue
            root = np.sqrt(distance[item])
            for i in range(n):
                value = alike[k, i]
                for j in range(rank):
                    value -= factor[j, item] * factor[j, i]
                factor[rank, i] = value / root
            for i in range(n):
                distance[i] -= factor[rank, i] * factor[rank, i]
            rank += 1
        top, item = -np.inf, -1
        for i in range(n):
            if not chosen[i]:
                value = weight[i] + np.log(max(distance[i], LEAST))
                if value > top:
                    top, item = value, i
        picked[place], chosen[item] = item, True
        for i in range(n):
            value = 0.0
            for d in range(vectors.shape[1]):
                value += vectors[i, d] * vectors[item, d]
            alike[place, i] = value
        alike[place, item] = 1.0
    return picked
