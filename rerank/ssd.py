"""
Sliding spectrum decomposition: relevance, and how much of an item the ones before it do not have.

    argmax_i  (1 − λ) · r_i + λ · |v_i⊥|

v_i⊥ is what is left of the item's vector when its projections on the `window − 1` items before are
taken away; the projection on an item that leaves the window is given back (Huang, Wang, Peng, Wang
2021, "Sliding spectrum decomposition for diversified recommendation",
https://arxiv.org/abs/2107.05204). r are the scores brought to [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from funnel.types import Array, Candidates, Query
from rerank.spread import Vectors, spread

LEAST = 1e-10


@dataclass(frozen=True)
class SSD:
    """`diversity` λ in (0, 1]. Items without a vector are like nothing: all of them is left. Ties
    go to the better score, then the lower row."""

    vectors: Vectors
    diversity: float
    window: int = 10

    def select(self, query: Query, candidates: Candidates) -> Array:
        return spread(query, candidates, self.vectors, self._pick)

    def _pick(self, relevance: Array, vectors: Array, keep: int) -> Array:
        left = np.array(vectors, np.float64)  # a copy, which is changed
        found: Array = greedy(
            (1 - self.diversity) * relevance, left, self.diversity, keep, self.window
        )
        return found


@numba.njit(nogil=True, cache=True)
def greedy(relevance, left, diversity, keep, window):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(keep,) places; `left` (n, d) is what is left of the vectors."""
    n, width = left.shape
    none = np.empty(n, np.bool_)
    for i in range(n):
        none[i] = not np.any(left[i] != 0)
    picked = np.empty(keep, np.int64)
    chosen = np.zeros(n, np.bool_)
    shares = np.zeros((window, n))  # of the items of the window in each item
    axes = np.zeros((window, width))
    for place in range(keep):
        top, item = -np.inf, -1
        for i in range(n):
            if not chosen[i]:
                length = 0.0
                for d in range(width):
                    length += left[i, d] * left[i, d]
                value = relevance[i] + diversity * (1.0 if none[i] else np.sqrt(length))
                if value > top:
                    top, item = value, i
        picked[place], chosen[item] = item, True
        if window < 2:
            continue
        slot = place % (window - 1)
        if place >= window - 1:  # the oldest one leaves
            for i in range(n):
                for d in range(width):
                    left[i, d] += shares[slot, i] * axes[slot, d]
        axes[slot] = left[item]
        length = 0.0
        for d in range(width):
            length += axes[slot, d] * axes[slot, d]
        for i in range(n):
            share = 0.0
            if length > LEAST:
                for d in range(width):
                    share += left[i, d] * axes[slot, d]
                share /= length
                for d in range(width):
                    left[i, d] -= share * axes[slot, d]
            shares[slot, i] = share
    return picked
