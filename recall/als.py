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
from recall.channel import ranked
from recall.masks import Mask
from recall.neighbours import HALF_LIFE, action_weights, interest


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

    items: Array  # (n, d) float32
    gram: Array  # (d, d) float32, times the weight of what was not seen
    ridge: float
    power: float
    actions: Array  # (actions,) weights

    @staticmethod
    def open(generation: Generation, config: Config) -> ALS | None:
        """None where the generation was built without the factors."""
        if not generation.has("als"):
            return None
        ridge, power = generation.array("als/ridge").tolist()
        found = ALS(
            generation.array("als/items"),
            np.array(generation.array("als/gram")),
            ridge,
            power,
            action_weights(generation, config),
        )
        found.user(np.zeros(1, np.int32), np.ones(1))  # compiles, or loads what was compiled
        return found

    def user(self, rows: Array, votes: Array) -> Array:
        """(d,) the factors of who wanted `rows`; zeros where none of them has factors."""
        known = (rows >= 0) & (rows < len(self.items))
        rows = np.asarray(rows[known], np.int32)
        votes = np.asarray(votes[known], np.float32)
        if not self.items[rows].any():
            return np.zeros(self.items.shape[1], np.float32)
        found: Array = solve(self.items, self.gram, rows, votes, self.ridge, self.power)
        return found

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        if query.item >= 0:
            rows, votes = np.array([query.item], np.int32), np.ones(1)
        else:
            rows, votes = interest(query.history, self.actions, HALF_LIFE)
        user = self.user(rows, votes)
        if not user.any():
            return Candidates.empty()
        scores = self.items @ user
        found = np.flatnonzero(scores > 0)
        return ranked(found, scores[found], allowed, limit)
