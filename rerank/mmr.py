"""
Maximal marginal relevance: the next item is the best one that is not like those before it.

    argmax_i  (1 − λ) · r_i − λ · max_{j chosen} cos(v_i, v_j)

Carbonell and Goldstein 1998, "The use of MMR, diversity-based reranking", with r the scores brought
to [0, 1] and λ the weight of diversity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnel.types import Array, Candidates, Query
from rerank.spread import Vectors, relevance, spread

__all__ = ["MMR", "relevance"]


@dataclass(frozen=True)
class MMR:
    """`diversity` λ in [0, 1]; 0 keeps the order. Picks as many as the query asks for.

    Items without a vector are like nothing. Broken scores come last, ties break by row.
    """

    vectors: Vectors
    diversity: float

    def select(self, query: Query, candidates: Candidates) -> Array:
        return spread(query, candidates, self.vectors, self._greedy)

    def _greedy(self, scores: Array, vectors: Array, keep: int) -> Array:
        """Places in `scores`, which fall: of equal values the first, so the better or lower row."""
        if not self.diversity:
            return np.arange(keep)
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
