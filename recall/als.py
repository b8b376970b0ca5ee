"""
Nearest items to the factors of the request's user: implicit matrix factorisation (`jobs.als`).

    x = (G + Σ_i w_i y_i y_iᵀ + λ n^ν I)⁻¹ Σ_i w_i y_i        score(j) = x · y_j

The user's factors are one least-squares step from the n items of the history, so that a new user
or a new click needs no training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query
from recall.masks import Mask
from recall.nearest import Nearest, fitted
from recall.neighbours import action_weights, voting


@numba.njit(nogil=True, cache=True)
def solve(other, base, rows, weights, ridge, power):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(d,) float32 factors of who wanted `rows` with these weights: a Cholesky solve."""
    width = other.shape[1]
    near = np.empty((len(rows), width), np.float32)
    right = np.zeros(width, np.float32)
    for n in range(len(rows)):
        near[n] = other[rows[n]] * np.sqrt(weights[n])
        right += other[rows[n]] * weights[n]
    left = base + near.T @ near
    for n in range(width):
        left[n, n] += ridge * float(len(rows)) ** power
    return np.linalg.solve(left, right)


@dataclass(frozen=True, eq=False)
class ALS:
    """The items' factors and their Gram matrix."""

    items: Nearest  # (n, d + 1) float32: the factors over `longest`, and what lacks to length one
    longest: float
    gram: Array  # (d, d) float32, times the weight of what was not seen
    ridge: float
    power: float
    actions: Array  # (actions,) weights

    @staticmethod
    def open(generation: Generation, config: Config) -> ALS | None:
        """None where the generation was built without the factors."""
        items = Nearest.open(generation, "als/items", config.vectors)
        if items is None:
            return None
        ridge, power, longest = generation.array("als/ridge").tolist()
        gram = np.array(generation.array("als/gram"))
        actions = action_weights(generation, config)
        found = ALS(items, longest, gram, ridge, power, actions)
        found.user(np.zeros(1, np.int32), np.ones(1))  # compiles, or loads what was compiled
        items.scan_some()
        return found

    def user(self, rows: Array, votes: Array) -> Array:
        """(d,) the factors of who wanted `rows`; zeros where none of them has factors."""
        known = (rows >= 0) & (rows < len(self.items))
        placed = self.items.vectors[rows[known], :-1]
        if not placed.any():
            return np.zeros(self.gram.shape[0], np.float32)
        near = np.ascontiguousarray(placed * np.float32(self.longest))
        places, votes = np.arange(len(near), dtype=np.int32), votes[known].astype(np.float32)
        found: Array = solve(near, self.gram, places, votes, self.ridge, self.power)
        return found

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        rows, votes = voting(query, self.actions)
        user = self.user(rows, votes)
        mask = fitted(allowed, len(self.items))
        found, products = self.items.search(np.append(user, np.float32(0)), mask, limit)
        scores = products * np.float32(self.longest)
        kept = scores > 0
        return Candidates(found[kept], scores[kept])
