"""
Maximal marginal relevance: the next item is the best one that is not like those before it.

    argmax_i  (1 − λ) · r_i − λ · max_{j chosen} cos(v_i, v_j)

Carbonell and Goldstein 1998, "The use of MMR, diversity-based reranking", with r the scores brought
to [0, 1] and λ the weight of diversity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from funnel.types import Array, Candidates, Query, best

Vectors = Callable[[Array], Array]  # rows (n,) -> (n, d) of length 1, zero where there is none


@dataclass(frozen=True)
class MMR:
    """`diversity` λ in [0, 1]; 0 keeps the order. Picks as many as the query asks for.

    The order that a caller asks for stays as it is.
    Items without a vector are like nothing. Broken scores come last, ties break by row.
    """

    vectors: Vectors
    diversity: float

    def select(self, query: Query, candidates: Candidates) -> Array:
        n = len(candidates)
        order = best(candidates.scores, candidates.rows, n)
        if n < 2 or not self.diversity or query.sort:
            return order
        finite = np.isfinite(candidates.scores)
        sound = order[finite[order]]
        keep = min(query.limit, len(sound))
        vectors = np.asarray(self.vectors(candidates.rows[sound]), np.float64)
        picked = self._greedy(relevance(candidates.scores[sound]), vectors, keep)
        rest = np.setdiff1d(np.arange(n), sound[picked])
        return np.concatenate([sound[picked], order[np.isin(order, rest)]])

    def _greedy(self, scores: Array, vectors: Array, keep: int) -> Array:
        """Places in `scores`, which fall: of equal values the first, so the better or lower row."""
        similar = np.zeros(len(scores))  # to the most similar chosen one; unlike is as good as 0
        left = np.ones(len(scores), bool)
        picked = np.empty(keep, np.intp)
        for place in range(keep):
            value = (1 - self.diversity) * scores - self.diversity * similar
            chosen = int(np.argmax(np.where(left, value, -np.inf)))
            picked[place] = chosen
            left[chosen] = False
            np.maximum(similar, vectors @ vectors[chosen], out=similar)
        return picked


def relevance(scores: Array) -> Array:
    """Min-max to [0, 1]; equal scores are all 1."""
    scores = np.asarray(scores, np.float64)
    low, high = scores.min(initial=np.inf), scores.max(initial=-np.inf)
    return (scores - low) / (high - low) if high > low else np.ones(len(scores))
