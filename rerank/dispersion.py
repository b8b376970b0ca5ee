"""
Max-sum dispersion: the next item is the best one that is unlike those before it on the whole.

    argmax_i  (1 − λ) · r_i + λ · mean_{j chosen} (1 − cos(v_i, v_j))

The greedy choice of Borodin, Lee and Ye 2012, "Max-sum diversification, monotone submodular
functions and dynamic updates": what MMR does for the nearest item above, this does for the mean
distance of the page itself. r are the scores brought to [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnel.types import Array, Candidates, Query
from rerank.spread import Vectors, spread


@dataclass(frozen=True)
class Dispersion:
    """`diversity` λ in [0, 1]; 0 keeps the order. Items without a vector are like nothing. Ties go
    to the better score, then the lower row."""

    vectors: Vectors
    diversity: float

    def select(self, query: Query, candidates: Candidates) -> Array:
        return spread(query, candidates, self.vectors, self._greedy)

    def _greedy(self, scores: Array, vectors: Array, keep: int) -> Array:
        alike = np.zeros(len(scores))  # the sum of the cosines to the chosen ones
        left = np.ones(len(scores), bool)
        picked = np.empty(keep, np.intp)
        for place in range(keep):
            value = (1 - self.diversity) * scores - self.diversity * alike / max(place, 1)
            chosen = int(np.argmax(np.where(left, value, -np.inf)))
            picked[place], left[chosen] = chosen, False
            alike += vectors @ vectors[chosen]
        return picked
